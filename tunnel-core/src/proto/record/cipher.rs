//! One direction's cipher, from whichever library has it fastest on this processor.
//!
//! Both compute the same function. AWS-LC's AES-256-GCM uses the vector instructions (VAES) with AVX-512 only; where
//! a processor, or the virtual machine before it, has them with AVX2 alone, ring's is 1.6 times as fast.

use aws_lc_rs::aead as aws;

use crate::proto::{
    handshake::{Secret, Suite},
    record::format::{RecordError, TAG_LEN},
};

/// A key that seals or opens. Boxed by what both libraries keep: about 600 bytes of key schedule.
pub(super) enum Key {
    Aws(aws::LessSafeKey),
    #[cfg(target_arch = "x86_64")]
    Ring(Box<ring::aead::LessSafeKey>),
}

impl Key {
    pub(super) fn new(suite: Suite, key: &Secret) -> Result<Self, RecordError> {
        #[cfg(target_arch = "x86_64")]
        if suite == Suite::Aes256Gcm && ring_is_faster() {
            return Self::ring(key);
        }
        Self::aws(suite, key)
    }

    fn aws(suite: Suite, key: &Secret) -> Result<Self, RecordError> {
        let algorithm = match suite {
            Suite::Aes256Gcm => &aws::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aws::CHACHA20_POLY1305,
        };
        aws::UnboundKey::new(algorithm, key.as_bytes())
            .map(|key| Self::Aws(aws::LessSafeKey::new(key)))
            .map_err(|_| RecordError::Crypto)
    }

    #[cfg(target_arch = "x86_64")]
    fn ring(key: &Secret) -> Result<Self, RecordError> {
        ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key.as_bytes())
            .map(|key| Self::Ring(Box::new(ring::aead::LessSafeKey::new(key))))
            .map_err(|_| RecordError::Crypto)
    }

    /// Encrypts in place; returns the tag. No nonce may come twice.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: [u8; 2],
        plaintext: &mut [u8],
    ) -> Result<[u8; TAG_LEN], RecordError> {
        let mut out = [0; TAG_LEN];
        match self {
            Self::Aws(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let tag = key
                    .seal_in_place_separate_tag(nonce, aws::Aad::from(aad), plaintext)
                    .map_err(|_| RecordError::Crypto)?;
                out.copy_from_slice(tag.as_ref());
            }
            #[cfg(target_arch = "x86_64")]
            Self::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                let tag = key
                    .seal_in_place_separate_tag(nonce, ring::aead::Aad::from(aad), plaintext)
                    .map_err(|_| RecordError::Crypto)?;
                out.copy_from_slice(tag.as_ref());
            }
        }
        Ok(out)
    }

    /// Decrypts ciphertext and tag in place; returns the plaintext.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: [u8; 2],
        record: &'a mut [u8],
    ) -> Result<&'a mut [u8], RecordError> {
        match self {
            Self::Aws(key) => key
                .open_in_place(
                    aws::Nonce::assume_unique_for_key(nonce),
                    aws::Aad::from(aad),
                    record,
                )
                .map_err(|_| RecordError::NotAuthentic),
            #[cfg(target_arch = "x86_64")]
            Self::Ring(key) => key
                .open_in_place(
                    ring::aead::Nonce::assume_unique_for_key(nonce),
                    ring::aead::Aad::from(aad),
                    record,
                )
                .map_err(|_| RecordError::NotAuthentic),
        }
    }
}

/// The detection is the standard library's, made once and remembered.
#[cfg(target_arch = "x86_64")]
fn ring_is_faster() -> bool {
    use std::arch::is_x86_feature_detected as has;
    let vector_aes = has!("vaes") && has!("vpclmulqdq") && has!("avx2");
    vector_aes && !(has!("avx512f") && has!("avx512bw") && has!("avx512vl"))
}

/// 96 bits, as both libraries and RFC 8439 have it.
pub(super) const NONCE_LEN: usize = aws::NONCE_LEN;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn both_libraries_make_the_same_records_and_open_each_others() {
        let secret = Secret::from([9; 32]);
        let ours = Key::aws(Suite::Aes256Gcm, &secret).unwrap();
        let theirs = Key::ring(&secret).unwrap();
        for length in [1, 15, 16, 17, 255, 4096, 16_385] {
            let plaintext: Vec<u8> = (0..length).map(|place| place as u8).collect();
            let seal = |key: &Key| {
                let mut record = plaintext.clone();
                let tag = key.seal([5; NONCE_LEN], [1, 2], &mut record).unwrap();
                record.extend_from_slice(&tag);
                record
            };
            let mut record = seal(&ours);
            assert_eq!(record, seal(&theirs));
            let mut copy = record.clone();
            assert_eq!(
                *theirs.open([5; NONCE_LEN], [1, 2], &mut copy).unwrap(),
                *plaintext
            );
            record[0] ^= 1;
            let damaged = theirs.open([5; NONCE_LEN], [1, 2], &mut record);
            assert_eq!(damaged, Err(RecordError::NotAuthentic));
        }
    }
}
