//! Connection ids that show whose they are.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid, RandomConnectionIdGenerator};

use crate::proto::handshake::keys::{Secret, hmac};

/// Length of our connection ids, in bytes: 48 bits of randomness and 48 bits of proof. A stranger's guess looks
/// like ours once in 2^48 packets.
pub(super) const CID_LEN: usize = 12;

/// Makes and recognises connection ids: 6 random bytes, then the first 6 of their HMAC.
#[derive(Clone)]
pub(super) struct CidKey(Arc<Secret>);

impl CidKey {
    pub(super) fn new(key: Secret) -> Self {
        Self(Arc::new(key))
    }

    /// Whether this key made `cid`.
    pub(super) fn made(&self, cid: &[u8]) -> bool {
        cid.split_at_checked(RANDOM_LEN)
            .is_some_and(|(random, proof)| {
                verify_slices_are_equal(proof, &self.proof(random)).is_ok()
            })
    }

    fn proof(&self, random: &[u8]) -> [u8; PROOF_LEN] {
        let mut proof = [0; PROOF_LEN];
        proof.copy_from_slice(&hmac(self.0.as_bytes(), &[random])[..PROOF_LEN]);
        proof
    }
}

impl ConnectionIdGenerator for CidKey {
    fn generate_cid(&mut self) -> ConnectionId {
        let random = RandomConnectionIdGenerator::new(RANDOM_LEN).generate_cid();
        let mut cid = [0; CID_LEN];
        cid[..RANDOM_LEN].copy_from_slice(&random);
        cid[RANDOM_LEN..].copy_from_slice(&self.proof(&random));
        ConnectionId::new(&cid)
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        if self.made(cid) {
            Ok(())
        } else {
            Err(InvalidCid)
        }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

const RANDOM_LEN: usize = 6;
const PROOF_LEN: usize = CID_LEN - RANDOM_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_ids_are_recognised() {
        let mut ours = CidKey::new(Secret::from([1; 32]));
        let theirs = CidKey::new(Secret::from([2; 32]));
        for _ in 0..100 {
            let cid = ours.generate_cid();
            assert_eq!(cid.len(), CID_LEN);
            assert!(ours.validate(&cid).is_ok());
            assert!(theirs.validate(&cid).is_err());
            for length in 0..CID_LEN {
                assert!(!ours.made(&cid[..length]));
            }
        }
    }
}
