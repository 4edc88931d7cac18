//! Redundancy: a sender, a path that the input chooses, a receiver that also hears what nobody sent.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tunnel_core::proto::{
    datagram::{DatagramHead, FlowId, RedundancyHead, Scheme},
    redundancy::{PROTECTED_MAX, Protector, ProtectorSettings, Repairer},
};

use crate::input::Input;

/// What comes out was sent, and comes out once. Repairs of lies give lies at most, whole ones, and never a repair.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let is_honest = input.flag();
    let mut now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings {
        permille: u32::from(input.word()),
        ..ProtectorSettings::default()
    });
    let mut repairer = Repairer::new();
    let (mut sent, mut came) = (HashSet::new(), HashSet::new());
    let mut held = Vec::new();
    while !input.is_empty() {
        match input.below(8) {
            0..=3 => {
                let datagram = source(&mut protector, now, &mut input, sent.len());
                sent.insert(datagram.clone());
                held.push(datagram);
            }
            4 => now += Duration::from_micros(input.below(5_000) as u64),
            5 if !is_honest => held.push(Bytes::copy_from_slice(input.bytes(300))),
            _ if held.is_empty() => {}
            6 => drop(held.swap_remove(input.below(held.len()))),
            _ => {
                let datagram = held.swap_remove(input.below(held.len()));
                for datagram in receive(&mut repairer, &datagram) {
                    assert!(datagram.len() <= PROTECTED_MAX);
                    if is_honest {
                        assert!(sent.contains(&datagram), "nobody sent this");
                        assert!(came.insert(datagram), "twice");
                    }
                }
            }
        }
        let mut repair = BytesMut::new();
        while protector.poll_repair(now, &mut repair) {
            held.push(repair.split().freeze());
        }
        if let Some(due) = protector.poll_timeout() {
            assert!(due > now, "nothing is due that was not polled");
        }
    }
}

/// A datagram like no other, handed in.
fn source(protector: &mut Protector, now: Instant, input: &mut Input<'_>, number: usize) -> Bytes {
    let sequence = protector.sequence(Scheme::Source);
    let head = DatagramHead {
        redundancy: Some(RedundancyHead {
            sequence,
            scheme: Scheme::Source,
        }),
        ..DatagramHead::data(FlowId(7))
    };
    let mut out = BytesMut::new();
    head.encode(&mut out);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(input.bytes(1_400));
    protector.handle_source(now, sequence, &out);
    out.freeze()
}

fn receive(repairer: &mut Repairer, datagram: &Bytes) -> Vec<Bytes> {
    let mut out = Vec::new();
    let Ok((head, symbol)) = DatagramHead::decode(datagram.clone()) else {
        return out;
    };
    let Some(RedundancyHead { sequence, scheme }) = head.redundancy else {
        return out;
    };
    match scheme {
        Scheme::Repair(repair) => repairer.handle_repair(sequence, &repair, &symbol),
        Scheme::Copied | Scheme::Source => {
            if repairer.handle_source(sequence, datagram) {
                out.push(datagram.clone());
            }
        }
    }
    out.extend(std::iter::from_fn(|| repairer.poll_repaired()));
    out
}
