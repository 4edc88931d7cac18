//! Control messages: any bytes, cut anywhere.

use bytes::BytesMut;
use tunnel_core::proto::message::{Decoder, Message, MessageError};

use crate::input::{Input, cut};

/// However the bytes are cut, the same messages come of them, and each comes back from its own encoding.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let cuts = input.bytes(8);
    let stream = input.rest();
    let (messages, error) = decode(std::iter::once(stream));
    assert_eq!(decode(cut(stream, cuts)), (messages.clone(), error));

    let mut again = BytesMut::new();
    for message in &messages {
        message.encode(&mut again);
    }
    assert!(
        again.len() <= stream.len(),
        "{} bytes came to {} when written again",
        stream.len(),
        again.len()
    );
    assert_eq!(decode(std::iter::once(&again[..])), (messages, None));
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, Option<MessageError>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.handle_input(piece);
        loop {
            match decoder.poll_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.handle_input(piece);
                    assert_eq!(decoder.poll_message(), Err(error), "an error is final");
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}
