//! What a relay's socket lets through to quinn: any datagram.

use std::sync::LazyLock;

use tunnel_core::{fuzz_support::Filter, key::SecretKey};

static FILTER: LazyLock<Filter> =
    LazyLock::new(|| Filter::relay(&SecretKey::from([1; 32])).unwrap());

/// Of what has a long header, nothing passes that a stranger can make, but for Handshake packets, which quinn answers
/// to nobody whose connection it does not know.
pub fn check(input: &[u8]) {
    let Some((&mode, datagram)) = input.split_first() else {
        return;
    };
    let mut datagram = datagram.to_vec();
    // As large as an Initial must be.
    if mode & 1 == 1 {
        datagram.resize(datagram.len().max(1_200), 0);
    }
    // Of a version that is ours, or no byte after it is looked at.
    if mode & 2 == 2 && datagram.len() > 5 {
        datagram[0] |= 0x80;
        datagram[1..4].copy_from_slice(b"ADI");
        datagram[4] = 1 + (mode >> 2 & 1);
    }
    let passes = FILTER.passes(&datagram);
    match datagram.first() {
        None => assert!(!passes),
        Some(first) if first & 0x80 == 0 => assert!(passes, "a short header is for quinn"),
        Some(first) => {
            let ours = datagram
                .get(1..5)
                .is_some_and(|version| matches!(version, [b'A', b'D', b'I', 1 | 2]));
            let is_handshake = first >> 4 & 3 == 2;
            assert!(!passes || (ours && is_handshake));
            assert!(!(ours && FILTER.is_foreign(&datagram)));
        }
    }
}
