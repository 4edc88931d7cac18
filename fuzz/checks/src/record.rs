//! Records of a lane: sealed in turn, meddled with on the way, opened at the other end.

use bytes::BytesMut;
use tunnel_core::{
    fuzz_support::directions,
    proto::{
        handshake::{Secret, Suite},
        record::{
            Deframer, RECORD_BODY_MAX, RECORD_HEAD_MAX, RECORD_MAX, RECORD_OVERHEAD, RecordError,
            RecordType, Role, Sealer,
        },
    },
};

use crate::input::{Input, cut};

/// What was sealed comes out in order up to the first place where somebody meddled, and nothing after it.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let suite = Suite::ALL[input.below(2)];
    let generation = 1 + input.below(4) as u64;
    let cuts = input.bytes(8);
    let secret = Secret::from([7; 32]);
    let (sealer, opener) = directions(suite, &secret, Role::Client, generation).unwrap();
    let (relays, relays_opener) = directions(suite, &secret, Role::Relay, generation).unwrap();
    let mut way = Way::new(sealer, relays);
    // Enough to rekey several times; each may hold 16 KiB.
    while !input.is_empty() && way.records.len() < 32 {
        way.step(&mut input);
    }
    let arrived = way.records.concat();
    receive(
        Deframer::new(relays_opener),
        &arrived,
        cuts,
        way.intact(&arrived),
    );
    // Sent back to who sealed them, they are nothing.
    receive(Deframer::new(opener), &way.sealed, cuts, &[]);
}

struct Way {
    sealer: Sealer,
    /// The other direction's: what it seals must not open as ours.
    reflected: Sealer,
    /// What was sealed, and what of it each record came to.
    sent: Vec<(RecordType, Vec<u8>)>,
    sealed: Vec<u8>,
    ends: Vec<usize>,
    /// What is on the way.
    records: Vec<Vec<u8>>,
}

impl Way {
    const fn new(sealer: Sealer, reflected: Sealer) -> Self {
        Self {
            sealer,
            reflected,
            sent: Vec::new(),
            sealed: Vec::new(),
            ends: Vec::new(),
            records: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(10) {
            0..=3 => self.seal(input),
            4 => self.meddle(input, |wire, input| {
                let at = input.below(wire.len());
                wire[at] ^= 1 << input.below(8);
            }),
            5 => self.meddle(input, |wire, input| {
                let length = input.below(wire.len());
                wire.truncate(length);
            }),
            6 => {
                // Again: a replay.
                let at = input.below(self.records.len());
                let again = self.records.get(at).cloned();
                self.records.extend(again);
            }
            7 => {
                let length = self.records.len();
                if length > 1 {
                    self.records.swap(input.below(length), length - 1);
                }
            }
            8 => {
                let mut wire = BytesMut::new();
                let body = input.bytes(64);
                self.reflected
                    .seal_into(&mut wire, RecordType::DATA, &[], body)
                    .unwrap();
                self.records.push(wire.to_vec());
            }
            _ => {
                self.records.push(input.bytes(64).to_vec());
            }
        }
    }

    fn seal(&mut self, input: &mut Input<'_>) {
        let kind = [
            RecordType::Ready,
            RecordType::Control,
            RecordType::Datagram,
            RecordType::Ping,
            RecordType::DATA,
        ][input.below(5)];
        let head = input.bytes(RECORD_HEAD_MAX + 1);
        // Seldom a large one: the cipher's time is none of what is looked for.
        let most = [64, 64, 64, RECORD_BODY_MAX + 1][input.below(4)];
        let body = vec![input.byte(); input.below(most + 1)];
        let mut wire = BytesMut::new();
        let sealed = self.sealer.seal_into(&mut wire, kind, head, &body);
        if head.len() > RECORD_HEAD_MAX || body.len() > RECORD_BODY_MAX {
            let too_long = RecordError::TooLongToSend(head.len(), body.len());
            assert_eq!((sealed, wire.len()), (Err(too_long), 0));
            return;
        }
        sealed.unwrap();
        assert_eq!(wire.len(), RECORD_OVERHEAD + head.len() + body.len());
        assert!(wire.len() <= RECORD_MAX);
        self.sealed.extend_from_slice(&wire);
        self.ends.push(self.sealed.len());
        self.records.push(wire.to_vec());
        self.sent.push((kind, [head, &body].concat()));
    }

    fn meddle(&mut self, input: &mut Input<'_>, how: impl FnOnce(&mut Vec<u8>, &mut Input<'_>)) {
        let at = input.below(self.records.len());
        if let Some(record) = self.records.get_mut(at).filter(|it| !it.is_empty()) {
            how(record, input);
        }
    }

    /// What must come out of the bytes that arrived: the records before the first byte that is not as it was.
    fn intact(&self, arrived: &[u8]) -> &[(RecordType, Vec<u8>)] {
        let same = self.sealed.iter().zip(arrived);
        let same = same.take_while(|(sent, came)| sent == came).count();
        let whole = self.ends.iter().take_while(|end| **end <= same).count();
        &self.sent[..whole]
    }
}

fn receive(mut deframer: Deframer, bytes: &[u8], cuts: &[u8], expected: &[(RecordType, Vec<u8>)]) {
    let mut came = Vec::new();
    let mut broken = None;
    for piece in cut(bytes, cuts) {
        if let Ok(missing) = deframer.missing() {
            assert!(missing <= RECORD_MAX, "room for more than any record");
        }
        deframer.buffer_mut().extend_from_slice(piece);
        loop {
            match deframer.poll_record() {
                Ok(Some((kind, body))) => {
                    assert_eq!(broken, None, "a record after one that did not open");
                    came.push((kind, body.to_vec()));
                }
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
    }
    assert!(came == expected, "{} of {}", came.len(), expected.len());
}
