//! The head of a flow's datagram: any bytes.

use bytes::{Bytes, BytesMut};
use tunnel_core::proto::datagram::{DatagramHead, MAX_HEAD};

/// A head that is read comes back from its own encoding with the same payload, within its bound.
pub fn check(input: &[u8]) {
    let datagram = Bytes::copy_from_slice(input);
    let Ok((head, payload)) = DatagramHead::decode(datagram) else {
        return;
    };
    assert!(input.ends_with(&payload));
    let mut again = BytesMut::new();
    head.encode(&mut again);
    assert_eq!(again.len(), head.encoded_len());
    assert!(again.len() <= MAX_HEAD);
    assert!(
        again.len() + payload.len() <= input.len(),
        "the shortest form"
    );
    again.extend_from_slice(&payload);
    assert_eq!(DatagramHead::decode(again.freeze()), Ok((head, payload)));
}
