//! The opening of a further lane: 57 bytes that cost no Diffie-Hellman. Pure.
//!
//! ```text
//! 0x11 | tunnel id (16) | lane number (8) | MAC (32)
//! ```

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use aws_lc_rs::constant_time;

use super::{error::PeerMisbehaved, window::LaneWindow};
use crate::{
    proto::handshake::{
        Secret, Suite,
        keys::{expand, expand_into, hmac},
    },
    sync::lock,
};

/// Which tunnel a further lane belongs to. It travels in the clear and says nothing about who uses it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TunnelId([u8; 16]);

impl TunnelId {
    /// The id of the tunnel whose handshake exported `exporter`.
    pub(crate) fn of(exporter: &Secret) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&expand(exporter, b"tunnel id").as_bytes()[..16]);
        Self(id)
    }

    /// The id as 16 bytes.
    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for TunnelId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelId({:032x})", u128::from_be_bytes(self.0))
    }
}

/// Where a relay finds the tunnels that may have further lanes.
pub(crate) trait LaneRegistry: Send + Sync + fmt::Debug + 'static {
    /// The tunnel with this id, if it lives. Called for every stranger who sends 57 bytes: it must not block.
    fn secret(&self, id: &TunnelId) -> Option<LaneSecretHandle>;
}

/// What a relay keeps of a tunnel to accept its further lanes. Clones share the memory of used numbers.
#[derive(Clone)]
pub(crate) struct LaneSecretHandle(Arc<LaneSecret>);

struct LaneSecret {
    suite: Suite,
    exporter: Secret,
    open: Secret,
    window: Mutex<LaneWindow>,
}

impl LaneSecretHandle {
    /// The tunnel whose handshake ran with `suite` and exported `exporter`, with no lane number used.
    pub(crate) fn new(suite: Suite, exporter: Secret) -> Self {
        Self(Arc::new(LaneSecret {
            suite,
            open: expand(&exporter, b"lane open"),
            exporter,
            window: Mutex::new(LaneWindow::new()),
        }))
    }

    /// The tunnel's suite.
    pub(crate) fn suite(&self) -> Suite {
        self.0.suite
    }

    /// Checks an opening and takes its number: the second time the same one is refused. Answers the number and the
    /// lane's secret. Allocates nothing.
    pub(super) fn accept(&self, opening: &FurtherOpening) -> Result<(u64, Secret), PeerMisbehaved> {
        let expected = opening.mac(&self.0.open);
        // The number only after the MAC: a stranger must not use up the client's numbers.
        constant_time::verify_slices_are_equal(&expected, &opening.0[MAC_AT..])
            .map_err(|_| PeerMisbehaved::WrongMac)?;
        let number = opening.number();
        lock(&self.0.window).accept(number)?;
        Ok((number, lane_secret(&self.0.exporter, number)))
    }
}

impl fmt::Debug for LaneSecretHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneSecretHandle")
            .field("suite", &self.0.suite)
            .finish_non_exhaustive()
    }
}

/// The 57 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FurtherOpening([u8; OPENING_LEN]);

impl FurtherOpening {
    /// The opening of lane `number` of the tunnel that exported `exporter`.
    pub(super) fn new(exporter: &Secret, number: u64) -> Self {
        let mut opening = Self([FURTHER; OPENING_LEN]);
        opening.0[ID_AT..NUMBER_AT].copy_from_slice(TunnelId::of(exporter).as_bytes());
        opening.0[NUMBER_AT..MAC_AT].copy_from_slice(&number.to_be_bytes());
        let mac = opening.mac(&expand(exporter, b"lane open"));
        opening.0[MAC_AT..].copy_from_slice(&mac);
        opening
    }

    /// An opening whose first byte was [`FURTHER`] and whose others are still to be read.
    pub(super) const fn unread() -> Self {
        Self([FURTHER; OPENING_LEN])
    }

    /// Where to read what follows on the first byte.
    pub(super) fn rest_mut(&mut self) -> &mut [u8] {
        &mut self.0[ID_AT..]
    }

    /// All of it.
    pub(super) const fn as_bytes(&self) -> &[u8; OPENING_LEN] {
        &self.0
    }

    /// The tunnel it names.
    pub(super) fn tunnel(&self) -> TunnelId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[ID_AT..NUMBER_AT]);
        TunnelId(id)
    }

    fn number(&self) -> u64 {
        let mut number = [0; 8];
        number.copy_from_slice(&self.0[NUMBER_AT..MAC_AT]);
        u64::from_be_bytes(number)
    }

    fn mac(&self, open: &Secret) -> [u8; 32] {
        hmac(open.as_bytes(), &[&self.0[..MAC_AT]])
    }
}

/// The secret of a further lane.
pub(super) fn lane_secret(exporter: &Secret, number: u64) -> Secret {
    expand_into(exporter, &[b"adit 1 lane", &number.to_be_bytes()])
}

/// First byte of a further lane's opening.
pub(super) const FURTHER: u8 = 0x11;
const ID_AT: usize = 1;
const NUMBER_AT: usize = 17;
const MAC_AT: usize = 25;
const OPENING_LEN: usize = 57;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::testing::unhex, transport::lane::window::NumberError};

    fn exporter() -> Secret {
        Secret::from(std::array::from_fn(|i| 32 + i as u8))
    }

    /// Made by another implementation (Python's hmac).
    #[test]
    fn opening_and_secret_of_version_1_stay() {
        let number = 0x0102_0304_0506_0708;
        let opening = unhex(
            "119d031679670a9e092df97063bb7f0e790102030405060708\
             bb89dce36590c32a82f83d4f423f0ed66f9de154ed13024da387db1df0569fe7",
        );
        let made = FurtherOpening::new(&exporter(), number);
        assert_eq!(made.as_bytes()[..], opening);
        assert_eq!(made.tunnel(), TunnelId::of(&exporter()));
        assert_eq!(
            lane_secret(&exporter(), number).as_bytes()[..],
            unhex("af32d4f3385183cb7aef150c129ab9aa7910cbb35c42d66e1e061d3ab71af312")
        );
    }

    #[test]
    fn an_opening_is_accepted_once_on_every_clone() {
        let handle = LaneSecretHandle::new(Suite::Aes256Gcm, exporter());
        let opening = FurtherOpening::new(&exporter(), 7);
        let (number, secret) = handle.accept(&opening).unwrap();
        assert_eq!(number, 7);
        assert_eq!(secret.as_bytes(), lane_secret(&exporter(), 7).as_bytes());
        let again = handle.clone().accept(&opening).unwrap_err();
        assert_eq!(again, PeerMisbehaved::Number(NumberError::Used(7)));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused_and_uses_no_number_up() {
        let handle = LaneSecretHandle::new(Suite::Aes256Gcm, exporter());
        let opening = FurtherOpening::new(&exporter(), 7);
        for bit in 0..OPENING_LEN * 8 {
            let mut damaged = opening;
            damaged.0[bit / 8] ^= 1 << (bit % 8);
            let refused = handle.accept(&damaged).unwrap_err();
            assert_eq!(refused, PeerMisbehaved::WrongMac, "bit {bit}");
        }
        assert!(handle.accept(&opening).is_ok());
        let other = FurtherOpening::new(&Secret::from([9; 32]), 8);
        assert!(handle.accept(&other).is_err());
    }
}
