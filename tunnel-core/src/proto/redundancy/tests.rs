use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::proto::{
    datagram::{BUNDLES_MAX, DatagramHead, FlowId, RedundancyHead, RepairHead, Scheme},
    testing::XorShift,
};

mod sim;

/// A datagram as it leaves, numbered.
fn datagram(protector: &mut Protector, scheme: Scheme, payload: &[u8]) -> (u16, Bytes) {
    let sequence = protector.sequence(scheme);
    let head = DatagramHead {
        redundancy: Some(RedundancyHead { sequence, scheme }),
        ..DatagramHead::data(FlowId(7))
    };
    let mut out = BytesMut::new();
    head.encode(&mut out);
    out.extend_from_slice(payload);
    (sequence, out.freeze())
}

fn repair_of(datagram: Bytes) -> (u16, RepairHead, Bytes) {
    let (head, symbol) = DatagramHead::decode(datagram).unwrap();
    let redundancy = head.redundancy.unwrap();
    let Scheme::Repair(repair) = redundancy.scheme else {
        panic!("no repair: {redundancy:?}");
    };
    (redundancy.sequence, repair, symbol)
}

/// A sender that may repair as much as it likes.
fn generous() -> ProtectorSettings {
    ProtectorSettings {
        permille: 1_000_000,
        ..ProtectorSettings::default()
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_copy_follows_after_its_delay_and_not_before() {
    let mut now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings::default());
    assert_eq!(protector.poll_timeout(), None);
    let (_, first) = datagram(&mut protector, Scheme::Copied, b"first");
    protector.handle_copied(now, first.clone());
    assert_eq!(protector.poll_timeout(), Some(now + ms(3)));
    now += ms(2);
    assert_eq!(protector.poll_copy(now), None);
    let (_, second) = datagram(&mut protector, Scheme::Copied, b"second");
    protector.handle_copied(now, second.clone());
    now += ms(1);
    assert_eq!(protector.poll_copy(now), Some(first));
    assert_eq!(protector.poll_copy(now), None);
    now += ms(2);
    assert_eq!(protector.poll_copy(now), Some(second));
    assert_eq!(protector.poll_timeout(), None);
}

#[test]
fn copies_that_wait_are_bounded() {
    let now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings::default());
    for _ in 0..10_000 {
        let (_, copied) = datagram(&mut protector, Scheme::Copied, b"flood");
        protector.handle_copied(now, copied);
    }
    let copies = std::iter::from_fn(|| protector.poll_copy(now + ms(3))).count();
    assert!((1..=256).contains(&copies), "{copies}");
}

#[test]
fn a_repair_covers_nothing_that_may_share_its_packet() {
    let mut now = Instant::now();
    let mut protector = Protector::new(generous());
    let mut out = BytesMut::new();
    let (sequence, old) = datagram(&mut protector, Scheme::Source, b"old");
    protector.handle_source(now, sequence, &old);
    assert_eq!(protector.poll_timeout(), Some(now + ms(1)));
    assert!(!protector.poll_repair(now, &mut out), "not yet");
    now += ms(1);
    let (sequence, young) = datagram(&mut protector, Scheme::Source, b"young");
    protector.handle_source(now, sequence, &young);
    assert!(protector.poll_repair(now, &mut out));
    let (first, repair, _) = repair_of(out.split().freeze());
    assert_eq!((first, &repair.counts[..2]), (0, &[1, 0][..]));
    assert!(!protector.poll_repair(now, &mut out), "once");
    now += ms(1);
    assert!(protector.poll_repair(now, &mut out));
    let (first, repair, _) = repair_of(out.split().freeze());
    assert_eq!((first, &repair.counts[..3]), (0, &[1, 1, 0][..]));
}

/// A stream of sources in packets, with a repair for each: what left, in order.
fn traffic(random: &mut XorShift, packets: usize) -> Vec<Vec<(Option<u16>, Bytes)>> {
    let mut now = Instant::now();
    let mut protector = Protector::new(generous());
    let mut sent = Vec::new();
    for _ in 0..packets {
        let together = 1 + random.below(3);
        let mut packet = Vec::new();
        for _ in 0..together {
            let payload = random.bytes(200);
            let (sequence, source) = datagram(&mut protector, Scheme::Source, &payload);
            protector.handle_source(now, sequence, &source);
            packet.push((Some(sequence), source));
        }
        sent.push(packet);
        now += ms(2);
        let mut out = BytesMut::new();
        assert!(protector.poll_repair(now, &mut out));
        sent.push(vec![(None, out.freeze())]);
        now += ms(1);
    }
    sent
}

/// What comes out, in order, of what came in.
fn receive(repairer: &mut Repairer, packet: &[(Option<u16>, Bytes)]) -> Vec<Bytes> {
    let mut out = Vec::new();
    for (sequence, datagram) in packet {
        match sequence {
            Some(sequence) => {
                if repairer.handle_source(*sequence, datagram) {
                    out.push(datagram.clone());
                }
            }
            None => {
                let (first, repair, symbol) = repair_of(datagram.clone());
                repairer.handle_repair(first, &repair, &symbol);
                out.extend(std::iter::from_fn(|| repairer.poll_repaired()));
            }
        }
    }
    out
}

#[test]
fn whatever_is_lost_up_to_eight_in_a_row_is_repaired_once_and_exactly() {
    let mut random = XorShift::new(3);
    for round in 0..200 {
        let sent = traffic(&mut random, 60);
        let mut repairer = Repairer::new();
        let burst = 1 + round % 8;
        let lost = 10 + random.below(40);
        let mut got = Vec::new();
        for (at, packet) in sent.iter().enumerate() {
            if !(lost..lost + burst).contains(&at) {
                got.extend(receive(&mut repairer, packet));
            }
        }
        let mut wanted: Vec<_> = sent
            .iter()
            .flatten()
            .filter(|(sequence, _)| sequence.is_some())
            .map(|(_, datagram)| datagram.clone())
            .collect();
        wanted.sort();
        got.sort();
        assert_eq!(got, wanted, "round {round}: {burst} lost from {lost}");
    }
}

#[test]
fn copies_and_any_order_hand_nothing_out_twice() {
    let mut random = XorShift::new(4);
    for round in 0..100 {
        let sent = traffic(&mut random, 60);
        let mut repairer = Repairer::new();
        let mut arrivals: Vec<_> = (0..sent.len())
            .flat_map(|at| (0..random.below(3)).map(move |_| at))
            .collect();
        // Each is late by up to ten packets.
        let mut keyed: Vec<_> = arrivals
            .drain(..)
            .map(|at| (at + random.below(10), at))
            .collect();
        keyed.sort_unstable();
        let mut got: Vec<_> = keyed
            .iter()
            .flat_map(|(_, at)| receive(&mut repairer, &sent[*at]))
            .collect();
        let known: Vec<_> = sent.iter().flatten().map(|(_, it)| it.clone()).collect();
        assert!(got.iter().all(|it| known.contains(it)), "round {round}");
        let all = got.len();
        got.sort();
        got.dedup();
        assert_eq!(got.len(), all, "round {round}");
    }
}

#[test]
fn a_repair_of_what_never_was_gives_nothing() {
    let mut random = XorShift::new(9);
    let mut repairer = Repairer::new();
    for _ in 0..20_000 {
        let sequence = random.below(300) as u16;
        if random.below(3) == 0 {
            repairer.handle_source(sequence, &random.bytes(100));
            continue;
        }
        let mut counts = [0; BUNDLES_MAX];
        let bundles = 1 + random.below(BUNDLES_MAX);
        counts[..bundles].fill_with(|| 1 + random.below(3) as u8);
        let head = RepairHead {
            number: random.next() as u8,
            bundle: random.next() as u8,
            counts,
        };
        repairer.handle_repair(sequence, &head, &random.bytes(300));
        assert_eq!(repairer.poll_repaired(), None);
    }
}

/// A repair of bundles with these counts, and its steps.
fn steps(repairer: &mut Repairer, number: u8, sequence: u16, counts: [u8; BUNDLES_MAX]) -> usize {
    let head = RepairHead {
        number,
        bundle: 0,
        counts,
    };
    repairer::steps::take();
    repairer.handle_repair(sequence, &head, &[7; 200]);
    assert_eq!(repairer.poll_repaired(), None);
    repairer::steps::take()
}

#[test]
fn equations_that_share_what_they_lack_cost_little_when_it_comes() {
    let mut random = XorShift::new(4);
    let mut repairer = Repairer::new();
    let (mut most, mut all) = (0, 0);
    for round in 0..2_000_u16 {
        // From the end of each eight: what all lack comes before what each begins with.
        repairer.handle_source(round ^ 7, &random.bytes(60));
        let first = round + 8 + random.below(4) as u16;
        let count = steps(&mut repairer, round as u8, first, [1; BUNDLES_MAX]);
        most = most.max(count);
        all += count;
    }
    assert!((15..=40 + 16 + 15).contains(&most), "{most}");
    assert!(all < 2_000 * 24, "{all}");
}

#[test]
fn a_datagram_with_which_every_equation_begins_costs_no_more_than_others() {
    let mut repairer = Repairer::new();
    for round in 1..500_u16 {
        let last = round * 64;
        for number in last - 7..last {
            repairer.handle_source(number, &[1; 20]);
        }
        // Eight lies: bundles that begin elsewhere, and end with the same number.
        for lie in 0..8 {
            let mut counts = [1; BUNDLES_MAX];
            counts[0] = 1 + lie;
            steps(&mut repairer, lie, last - u16::from(lie), counts);
        }
        repairer.handle_source(last, &[1; 20]);
        let count = steps(&mut repairer, 9, last + 1, [1; BUNDLES_MAX]);
        // Without a bound each of the eight would be taken out of the seven others: 72 and more.
        assert!((36..=40 + 16 + 15).contains(&count), "{count}");
    }
}

#[test]
fn repairs_keep_to_their_budget() {
    let settings = ProtectorSettings::default();
    let start = Instant::now();
    let mut protector = Protector::new(settings);
    let (mut sources, mut repairs) = (0, 0);
    for tick in 0..100_000 {
        let now = start + Duration::from_micros(tick * 100);
        let (sequence, source) = datagram(&mut protector, Scheme::Source, &[7; 100]);
        sources += source.len() + 59;
        protector.handle_source(now, sequence, &source);
        let mut out = BytesMut::new();
        if protector.poll_repair(now, &mut out) {
            repairs += out.len() + 59;
        }
    }
    let most = sources * 36 / 100 + 10 * 2_000 + 3_100;
    assert!(repairs <= most && repairs > most / 2, "{repairs} of {most}");
}

#[test]
fn the_first_source_of_all_is_repaired() {
    let now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings::default());
    let (sequence, source) = datagram(&mut protector, Scheme::Source, b"hello");
    protector.handle_source(now, sequence, &source);
    let mut out = BytesMut::new();
    assert!(protector.poll_repair(now + ms(1), &mut out));
    let (first, repair, symbol) = repair_of(out.freeze());
    let mut repairer = Repairer::new();
    repairer.handle_repair(first, &repair, &symbol);
    assert_eq!(repairer.poll_repaired(), Some(source.clone()));
    assert!(!repairer.handle_source(sequence, &source), "late");
}

#[test]
fn debts_do_not_leave_a_lone_datagram_without_its_repair() {
    let mut now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings::default());
    for round in 0..500 {
        let (sequence, source) = datagram(&mut protector, Scheme::Source, &[1; 50]);
        protector.handle_source(now, sequence, &source);
        let sent = now;
        let mut out = BytesMut::new();
        // Each repair is awaited, as by who asks one question after another on a path that loses each.
        while !protector.poll_repair(now, &mut out) {
            now = protector.poll_timeout().unwrap();
        }
        assert!(now <= sent + ms(140), "{round}: {:?}", now - sent);
    }
}

#[test]
fn the_last_datagrams_before_a_silence_are_repaired_whatever_was_spent_before() {
    let mut now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings::default());
    for round in 0..200 {
        // More than one in a bundle, so that time alone pays too late.
        for _ in 0..1 + round % 5 * 4 {
            now += Duration::from_micros(150);
            let (sequence, source) = datagram(&mut protector, Scheme::Source, &[1; 50]);
            protector.handle_source(now, sequence, &source);
        }
        let last = now;
        let mut covered = 0;
        while let Some(due) = protector.poll_timeout() {
            let mut out = BytesMut::new();
            now = due;
            if protector.poll_repair(due, &mut out) {
                let (first, repair, _) = repair_of(out.freeze());
                covered = first + repair.counts.iter().map(|it| u16::from(*it)).sum::<u16>();
            }
        }
        let next = protector.sequence(Scheme::Source);
        assert_eq!(covered, next, "round {round}: all before the silence");
        assert!(now <= last + ms(140), "{:?}", now - last);
        // The number was taken by none: the window begins anew.
        now += ms(300);
    }
}

#[test]
fn a_player_alone_is_repaired_at_once_and_long_silence_is_not() {
    let mut now = Instant::now();
    let mut protector = Protector::new(ProtectorSettings::default());
    let mut covered = 0;
    for _ in 0..1000 {
        now += ms(50);
        let (sequence, source) = datagram(&mut protector, Scheme::Source, &[1; 60]);
        protector.handle_source(now, sequence, &source);
        let Some(due) = protector.poll_timeout() else {
            continue;
        };
        let mut out = BytesMut::new();
        assert!(due <= now + ms(40));
        assert!(protector.poll_repair(due, &mut out));
        let (_, repair, _) = repair_of(out.freeze());
        // Not what is older than 150 ms.
        assert!(repair.counts.iter().sum::<u8>() <= 3);
        covered += 1;
    }
    assert!(covered >= 500, "{covered} of 1000");
    assert_eq!(protector.poll_timeout(), None, "nothing to do in silence");
}
