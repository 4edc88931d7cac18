//! Reassembly, driven by operations: honest packets cut as the sender cuts them, and whatever fragments a peer makes up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tunnel_core::proto::{
    datagram::{FlowId, FragmentHead},
    fragment::{DropReason, MAX_PACKET, Reassembler, ReassemblyLimits, split},
};

use crate::input::Input;

/// A packet comes out whole and as it was, or not at all; what is held stays within its bounds and ends with its time.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let limits = ReassemblyLimits {
        packets: 1 + input.below(8),
        packets_per_flow: 1 + input.below(4),
        bytes: 1 + usize::from(input.word()) * 2,
        timeout: Duration::from_secs(1),
    };
    let mut run = Run {
        limits,
        reassembler: Reassembler::new(limits),
        now: Instant::now(),
        packets: Vec::new(),
        came: 0,
    };
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
        run.agree();
    }
    run.now += limits.timeout;
    run.reassembler.handle_timeout(run.now);
    assert_eq!((run.reassembler.packets(), run.reassembler.bytes()), (0, 0));
    assert_eq!(run.reassembler.poll_timeout(), None);
    let discarded = run.reassembler.drain_discarded();
    let sum = discarded.timeout + discarded.evicted + discarded.contradictory + discarded.too_large;
    assert!(
        sum <= run.came,
        "more packets discarded than fragments came"
    );
}

/// A packet that an honest sender has cut.
struct Packet {
    flow: FlowId,
    id: u16,
    payload: Bytes,
    parts: Vec<Bytes>,
}

struct Run {
    limits: ReassemblyLimits,
    reassembler: Reassembler,
    now: Instant,
    packets: Vec<Packet>,
    came: u64,
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 => self.cut(input),
            1..=4 => self.deliver(input),
            5 => self.forge(input),
            6 => self.now += Duration::from_millis(input.word() as u64 / 32),
            _ => self.reassembler.handle_timeout(self.now),
        }
    }

    /// A new packet of one of four flows. Ids are not used again: 65,535 others come between.
    fn cut(&mut self, input: &mut Input<'_>) {
        let length = usize::from(input.word()) >> (input.byte() & 7);
        let room = 1 + input.below(1_500);
        let flow = FlowId(input.below(4) as u64);
        let Some(ranges) = split(length, room) else {
            assert!(length <= room || length > MAX_PACKET || length.div_ceil(room) > 255);
            return;
        };
        let id = self.packets.len() as u16;
        let payload: Bytes = (0..length)
            .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ id as u8)
            .collect();
        let count = ranges.parts();
        let parts: Vec<_> = ranges.map(|range| payload.slice(range)).collect();
        assert_eq!(parts.len(), usize::from(count));
        assert_eq!(parts.concat(), payload);
        assert!(parts.iter().all(|part| (1..=room).contains(&part.len())));
        self.packets.push(Packet {
            flow,
            id,
            payload,
            parts,
        });
    }

    /// A run of parts of an honest packet, in order, backwards, or one alone.
    fn deliver(&mut self, input: &mut Input<'_>) {
        let which = input.below(self.packets.len());
        let Some(packet) = self.packets.get(which) else {
            return;
        };
        let count = packet.parts.len();
        let first = input.below(count);
        let run = 1 + input.below(count);
        let backwards = input.flag();
        let head = |index: usize| FragmentHead {
            packet: packet.id,
            index: index as u8,
            count: count as u8,
        };
        for step in 0..run {
            let index = match backwards {
                false => (first + step) % count,
                true => (first + count - step % count) % count,
            };
            self.came += 1;
            let payload = packet.parts[index].clone();
            let taken =
                self.reassembler
                    .handle_fragment(self.now, packet.flow, head(index), payload);
            match taken {
                Ok(None) => {}
                Ok(Some(whole)) => assert_eq!(whole, packet.payload),
                Err(reason) => assert_eq!(reason, DropReason::TooLarge, "honest parts agree"),
            }
        }
    }

    /// Anything, on flows of its own.
    fn forge(&mut self, input: &mut Input<'_>) {
        let flow = FlowId(4 + input.below(4) as u64);
        let head = FragmentHead {
            packet: input.below(4) as u16,
            index: input.byte(),
            count: input.byte(),
        };
        let length = usize::from(input.word()) >> (input.byte() & 7);
        let payload = vec![input.byte(); length];
        self.came += 1;
        let taken = self
            .reassembler
            .handle_fragment(self.now, flow, head, payload.into());
        if let Ok(Some(whole)) = taken {
            assert!(whole.len() <= MAX_PACKET);
            assert!(head.count >= 2 && head.index < head.count);
        }
    }

    fn agree(&self) {
        let (packets, bytes) = (self.reassembler.packets(), self.reassembler.bytes());
        assert!(packets <= self.limits.packets);
        assert!(bytes <= self.limits.bytes, "{bytes} bytes held");
        assert_eq!(bytes == 0, packets == 0);
        assert_eq!(self.reassembler.poll_timeout().is_none(), packets == 0);
    }
}
