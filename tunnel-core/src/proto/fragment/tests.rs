use super::*;
use crate::proto::testing::XorShift;

const FLOW: FlowId = FlowId(1);

fn reassembler() -> Reassembler {
    Reassembler::new(ReassemblyLimits::default())
}

fn head(packet: u16, index: u8, count: u8) -> FragmentHead {
    FragmentHead {
        packet,
        index,
        count,
    }
}

fn fragments(packet: u16, payload: &[u8], room: usize) -> Vec<(FragmentHead, Bytes)> {
    let ranges = split(payload.len(), room).unwrap();
    let count = ranges.parts();
    ranges
        .zip(0..)
        .map(|(range, index)| {
            let part = Bytes::copy_from_slice(&payload[range]);
            (head(packet, index, count), part)
        })
        .collect()
}

fn counted(discarded: Discarded) -> [u64; 4] {
    [
        discarded.timeout,
        discarded.evicted,
        discarded.contradictory,
        discarded.too_large,
    ]
}

#[test]
fn cuts_cover_the_packet_in_equal_parts() {
    let mut random = XorShift::new(9);
    for round in 0..3000 {
        let (length, room) = if round == 0 {
            (MAX_PACKET, 257)
        } else {
            (1 + random.below(MAX_PACKET), 1 + random.below(2000))
        };
        let Some(ranges) = split(length, room) else {
            assert!(length <= room || length.div_ceil(room) > 255);
            continue;
        };
        let count = usize::from(ranges.parts());
        assert!((2..=255).contains(&count));
        assert_eq!(count, length.div_ceil(room), "no more than needed");
        let ranges: Vec<_> = ranges.collect();
        assert_eq!(ranges.len(), count);
        let mut end = 0;
        for range in &ranges {
            assert_eq!(range.start, end);
            assert!((1..=room).contains(&range.len()));
            assert!(range.len() == ranges[0].len() || range.end == length);
            end = range.end;
        }
        assert_eq!(end, length);
    }
}

#[test]
fn what_no_cut_carries_is_said_so() {
    for (length, room) in [
        (0, 0),
        (1, 0),
        (100, 100),
        (MAX_PACKET + 1, 1200),
        (256, 1),
        (usize::MAX, 1),
    ] {
        assert!(split(length, room).is_none(), "{length} in {room}");
    }
    assert_eq!(split(255, 1).unwrap().parts(), 255);
    assert_eq!(
        split(101, 100).unwrap().collect::<Vec<_>>(),
        [0..51, 51..101]
    );
}

#[test]
fn packets_come_back_in_any_order_mixed_and_doubled() {
    let mut random = XorShift::new(10);
    let now = Instant::now();
    for _ in 0..300 {
        let mut reassembler = reassembler();
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for packet in 0..6 {
            let most = [5000, MAX_PACKET][random.below(2)];
            let length = 1201 + random.below(most - 1201);
            let payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            for part in fragments(packet, &payload, 1200) {
                let copies = 1 + usize::from(random.below(10) == 0);
                sent.extend(std::iter::repeat_n(part, copies));
            }
            expected.push(payload);
        }
        // From hardly out of order to quite.
        let reach = 1 + random.below(sent.len());
        for i in 0..sent.len() {
            let other = i + random.below(reach.min(sent.len() - i));
            sent.swap(i, other);
        }
        let mut got = Vec::new();
        for (head, payload) in sent {
            got.extend(
                reassembler
                    .handle_fragment(now, FLOW, head, payload)
                    .unwrap(),
            );
        }
        got.sort();
        expected.sort();
        assert_eq!(got, expected);
        assert_eq!((reassembler.packets(), reassembler.bytes()), (0, 0));
        assert_eq!(reassembler.drain_discarded(), Discarded::default());
        assert_eq!(reassembler.poll_timeout(), None);
    }
}

#[test]
fn largest_packet_comes_back() {
    let payload = vec![7; MAX_PACKET];
    let mut reassembler = reassembler();
    let mut parts = fragments(0, &payload, 257);
    assert_eq!(parts.len(), 255);
    parts.reverse();
    let mut got = None;
    for (head, part) in parts {
        got = reassembler
            .handle_fragment(Instant::now(), FLOW, head, part)
            .unwrap();
    }
    assert_eq!(got.unwrap(), payload);
}

#[test]
fn packets_time_out_one_second_after_their_first_fragment() {
    let start = Instant::now();
    let mut reassembler = reassembler();
    let parts = fragments(0, &[1; 3000], 1000);
    let at = |ms| start + Duration::from_millis(ms);
    let mut handle = |ms, i: usize| {
        let (head, part) = parts[i].clone();
        let got = reassembler.handle_fragment(at(ms), FLOW, head, part);
        (got, reassembler.poll_timeout(), reassembler.packets())
    };
    assert_eq!(handle(0, 0), (Ok(None), Some(at(1000)), 1));
    assert_eq!(handle(999, 1), (Ok(None), Some(at(1000)), 1));
    // Too late: the last fragment begins a packet of its own, which times out in its turn.
    assert_eq!(handle(1000, 2), (Ok(None), Some(at(2000)), 1));
    reassembler.handle_timeout(at(1999));
    assert_eq!(reassembler.packets(), 1);
    reassembler.handle_timeout(at(2000));
    assert_eq!((reassembler.packets(), reassembler.bytes()), (0, 0));
    assert_eq!(counted(reassembler.drain_discarded()), [2, 0, 0, 0]);
    assert_eq!(counted(reassembler.drain_discarded()), [0, 0, 0, 0]);
}

#[test]
fn time_may_jump() {
    let start = Instant::now() + Duration::from_secs(1000);
    let mut reassembler = reassembler();
    let part = || Bytes::from_static(b"x");
    let mut handle =
        |now, packet| reassembler.handle_fragment(now, FLOW, head(packet, 0, 2), part());
    assert_eq!(handle(start, 0), Ok(None));
    assert_eq!(handle(start - Duration::from_secs(900), 1), Ok(None));
    reassembler.handle_timeout(start - Duration::from_secs(900));
    assert_eq!(reassembler.packets(), 2);
    reassembler.handle_timeout(start + Duration::from_secs(1 << 30));
    assert_eq!(reassembler.packets(), 0);
}

#[test]
fn contradictions_discard_the_packet() {
    // Each: the fragments as index, count and length; the last is refused.
    for parts in [
        &[(0, 3, 10), (1, 4, 10)][..],
        &[(0, 3, 10), (1, 3, 11)],
        &[(0, 3, 10), (0, 3, 11)],
        &[(0, 3, 10), (2, 3, 11)],
        &[(2, 3, 11), (0, 3, 10)],
        &[(2, 3, 5), (2, 3, 6)],
        &[(0, 3, 10), (1, 3, 0)],
        &[(0, 1, 10)],
        &[(3, 3, 10)],
        &[(0, 0, 10)],
    ] {
        let mut reassembler = reassembler();
        let mut results = Vec::new();
        for (index, count, length) in parts {
            let part = vec![0; *length].into();
            let head = head(0, *index, *count);
            results.push(reassembler.handle_fragment(Instant::now(), FLOW, head, part));
        }
        assert_eq!(
            results.pop(),
            Some(Err(DropReason::Contradictory)),
            "{parts:?}"
        );
        assert!(results.iter().all(|result| *result == Ok(None)));
        assert_eq!((reassembler.packets(), reassembler.bytes()), (0, 0));
        assert_eq!(counted(reassembler.drain_discarded()), [0, 0, 1, 0]);
    }
}

#[test]
fn packets_past_the_largest_are_refused_at_their_first_fragment() {
    let mut reassembler = reassembler();
    let mut handle = |index, count, length| {
        let part = vec![0; length].into();
        reassembler.handle_fragment(Instant::now(), FLOW, head(0, index, count), part)
    };
    assert_eq!(handle(0, 255, 258), Err(DropReason::TooLarge));
    assert_eq!(handle(0, 2, MAX_PACKET), Err(DropReason::TooLarge));
    assert_eq!(handle(1, 2, MAX_PACKET), Err(DropReason::TooLarge));
    assert_eq!(handle(0, 2, MAX_PACKET - 1), Ok(None));
    assert_eq!(handle(1, 2, 2), Err(DropReason::TooLarge));
    assert_eq!(counted(reassembler.drain_discarded()), [0, 0, 0, 4]);
}

#[test]
fn a_packet_that_is_only_just_too_large_leaves_a_short_rest() {
    assert_eq!(split_rest(1_400, 1_400).map(|it| it.parts()), None);
    let ranges = |payload, room| split_rest(payload, room).map(Iterator::collect);
    assert_eq!(ranges(1_401, 1_400), Some(vec![0..1_400, 1_400..1_401]));
    assert_eq!(ranges(1_472, 1_104), Some(vec![0..1_104, 1_104..1_472]));
    assert_eq!(ranges(1_472, 1_103), None);
    assert_eq!(ranges(1, 0), None);
    assert_eq!(ranges(MAX_PACKET + 1, MAX_PACKET), None);
}

#[test]
fn one_flow_does_not_evict_the_others() {
    let now = Instant::now();
    let mut reassembler = reassembler();
    let mut handle = |flow, packet, index| {
        let part = Bytes::from(vec![0; 1000]);
        reassembler.handle_fragment(now, FlowId(flow), head(packet, index, 2), part)
    };
    assert_eq!(handle(2, 0, 0), Ok(None));
    for packet in 0..1000 {
        assert_eq!(handle(1, packet, 0), Ok(None));
    }
    assert_eq!(handle(2, 0, 1).unwrap().unwrap().len(), 2000);
    assert_eq!(reassembler.packets(), 32);
    assert_eq!(counted(reassembler.drain_discarded()), [0, 968, 0, 0]);
}

#[test]
fn packets_and_bytes_are_bounded() {
    let now = Instant::now();
    let mut reassembler = reassembler();
    let mut random = XorShift::new(11);
    let limits = ReassemblyLimits::default();
    for round in 0..20_000 {
        let flow = FlowId(random.below(100) as u64);
        let head = head(random.below(50) as u16, random.below(54) as u8, 55);
        let part = vec![0; if round < 10_000 { 1 } else { 1190 }].into();
        let packets = reassembler.packets();
        reassembler.handle_fragment(now, flow, head, part).ok();
        assert!(reassembler.bytes() <= limits.bytes);
        assert!(reassembler.packets() <= limits.packets.max(packets));
    }
    assert_eq!(reassembler.drain_discarded().timeout, 0);
    reassembler.handle_timeout(now + limits.timeout);
    assert_eq!((reassembler.packets(), reassembler.bytes()), (0, 0));
}

#[test]
fn packet_larger_than_all_memory_is_refused() {
    let mut reassembler = Reassembler::new(ReassemblyLimits {
        bytes: 3000,
        ..ReassemblyLimits::default()
    });
    let mut got = Vec::new();
    for (head, part) in fragments(0, &[0; 4000], 1000) {
        got.push(reassembler.handle_fragment(Instant::now(), FLOW, head, part));
    }
    assert_eq!(got[2], Err(DropReason::TooLarge));
    assert_eq!(counted(reassembler.drain_discarded()), [0, 0, 0, 1]);
}

#[test]
fn promised_count_costs_nothing() {
    let mut reassembler = reassembler();
    for index in [254, 0] {
        let part = Bytes::from_static(b"x");
        let result = reassembler.handle_fragment(Instant::now(), FLOW, head(0, index, 255), part);
        assert_eq!(result, Ok(None));
    }
    assert_eq!(reassembler.bytes(), 2 * (1 + OVERHEAD));
    assert!(reassembler.packets[0].front.capacity() < 64);
}

#[test]
fn late_copy_does_not_begin_a_packet_anew() {
    let mut reassembler = reassembler();
    let parts = fragments(5, &[1; 2000], 1000);
    for (i, (head, part)) in parts.iter().chain(&parts).enumerate() {
        let got = reassembler.handle_fragment(Instant::now(), FLOW, *head, part.clone());
        assert_eq!(got.unwrap().is_some(), i == 1);
    }
    assert_eq!(reassembler.packets(), 0);
}

#[test]
fn random_fragments_never_panic() {
    let mut random = XorShift::new(12);
    let mut now = Instant::now();
    let mut reassembler = reassembler();
    for _ in 0..50_000 {
        now += Duration::from_millis(random.below(20) as u64);
        let flow = FlowId(random.below(3) as u64);
        let head = head(
            random.below(4) as u16,
            random.next() as u8,
            random.next() as u8 & [3, 255][random.below(2)],
        );
        let part = vec![0; random.below(4)].into();
        if let Ok(Some(packet)) = reassembler.handle_fragment(now, flow, head, part) {
            assert!(packet.len() <= MAX_PACKET);
        }
    }
}
