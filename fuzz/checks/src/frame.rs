//! Frames of a stream on a QUIC stream: any bytes, cut anywhere.

use bytes::{Bytes, BytesMut};
use tunnel_core::proto::stream::frame::{
    DATA, DataHead, Decoded, Frame, FrameDecoder, FrameError, MAX_BODY, MAX_DATA,
};

use crate::input::{Input, cut};

/// What a channel carries, its payload joined.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Frame(Frame),
    Data(Vec<u8>),
}

/// However the bytes are cut, the same comes of them, and each frame comes back from its own encodings.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let cuts = input.bytes(8);
    let channel = input.rest();
    let whole = decode(std::iter::once(channel));
    assert_eq!(decode(cut(channel, cuts)), whole);

    let (items, _, _) = whole;
    let mut again = BytesMut::new();
    for item in &items {
        match item {
            Item::Frame(frame) => check_frame(frame, &mut again),
            Item::Data(data) => {
                for data in data.chunks(MAX_DATA) {
                    again.extend_from_slice(&DataHead::new(data.len()).unwrap());
                    again.extend_from_slice(data);
                }
            }
        }
    }
    assert_eq!(decode(std::iter::once(&again[..])), (items, None, true));
}

fn check_frame(frame: &Frame, out: &mut BytesMut) {
    frame.encode(out);
    let mut body = BytesMut::new();
    frame.encode_body(&mut body);
    assert!(body.len() <= MAX_BODY);
    assert_ne!(frame.kind(), DATA);
    assert_eq!(Frame::decode_body(frame.kind(), &body), Ok(*frame));
}

/// What came, why it ended, and whether it could end there.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, Option<FrameError>, bool) {
    let mut decoder = FrameDecoder::new();
    let mut items = Vec::new();
    for piece in pieces {
        let piece = Bytes::copy_from_slice(piece);
        decoder.handle_input(piece.clone());
        loop {
            match decoder.poll() {
                Ok(Some(Decoded::Frame(frame))) => items.push(Item::Frame(frame)),
                Ok(Some(Decoded::Data(data))) => match items.last_mut() {
                    Some(Item::Data(before)) => before.extend_from_slice(&data),
                    _ => items.push(Item::Data(data.into())),
                },
                Ok(None) => break,
                Err(error) => {
                    decoder.handle_input(piece);
                    assert!(matches!(decoder.poll(), Err(again) if again == error));
                    return (items, Some(error), false);
                }
            }
        }
    }
    (items, None, decoder.is_between_frames())
}
