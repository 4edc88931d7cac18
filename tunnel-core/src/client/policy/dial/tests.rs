use super::{Action::*, Transport::*, *};
use crate::client::policy::attempt::Strategy::*;

/// What happens to a client.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// An attempt has established a tunnel, to the same process of the relay or to another.
    Connected(Transport),
    OtherRelay(Transport),
    Welcome,
    Suspect,
    Alive,
    Dead,
    Lost,
    Failed,
    Drain,
    /// Nothing but the time.
    Time,
}
use Event::*;

/// Runs a policy through what happens at a number of milliseconds from the start, with the longest pauses that jitter
/// allows. Returns its actions, each with its time.
fn run(events: &[(u64, Event)]) -> Vec<(u64, Action)> {
    let start = Instant::now();
    let mut policy = DialPolicy::new(start);
    let (mut done, mut events) = (Vec::new(), events.iter().peekable());
    let mut now = 0;
    loop {
        let time = start + Duration::from_millis(now);
        let due = policy.poll_timeout(time);
        // Jitter falls short of the full pause by less than a millisecond.
        let due = due.map(|due| due.saturating_duration_since(start).as_micros());
        let due = due.map(|due| due.div_ceil(1_000) as u64);
        match (events.peek().map(|(next, _)| *next), due) {
            (Some(next), Some(due)) if due < next => {
                now = due;
                policy.handle_timeout(start + Duration::from_millis(now), u64::MAX);
            }
            (Some(next), _) => {
                now = next;
                let (_, event) = events.next().unwrap();
                handle(&mut policy, start + Duration::from_millis(now), *event);
            }
            (None, _) => return done,
        }
        done.extend(std::iter::from_fn(|| policy.poll_action()).map(|it| (now, it)));
    }
}

fn handle(policy: &mut DialPolicy, now: Instant, event: Event) {
    let random = u64::MAX;
    match event {
        Connected(transport) => policy.handle_connected(transport, true),
        OtherRelay(transport) => policy.handle_connected(transport, false),
        Welcome => _ = policy.handle_welcome(now, random),
        Suspect => policy.handle_liveness(now, Liveness::Suspect, random),
        Alive => policy.handle_liveness(now, Liveness::Alive, random),
        Dead => policy.handle_liveness(now, Liveness::Dead, random),
        Lost => _ = policy.handle_lost(now, random),
        Failed => _ = policy.handle_failed(now, random),
        Drain => policy.handle_drain(now),
        Time => policy.handle_timeout(now, random),
    }
}

type Case<'a> = (&'a str, &'a [(u64, Event)], &'a [(u64, Action)]);

fn check(cases: &[Case<'_>]) {
    for (name, events, expected) in cases {
        assert_eq!(run(events), *expected, "{name}");
    }
}

#[test]
fn without_a_tunnel_pauses_grow_and_a_tunnel_that_stood_is_followed_at_once() {
    check(&[
        (
            "a relay that is not there",
            &[
                (1, Failed),
                (252, Failed),
                (753, Failed),
                (1_754, Failed),
                (2_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (251, Dial(QuicFirst)),
                (752, Dial(QuicFirst)),
                (1_753, Dial(QuicFirst)),
            ],
        ),
        (
            "one that stood",
            &[
                (10, Connected(Quic)),
                (20, Welcome),
                (1_020, Lost),
                (1_021, Time),
            ],
            &[(0, Dial(QuicFirst)), (10, GiveUp), (1_020, Dial(QuicFirst))],
        ),
        (
            "tunnels that are lost as soon as they stand",
            &[
                (10, Connected(Quic)),
                (20, Welcome),
                (30, Lost),
                (300, Connected(Quic)),
                (310, Welcome),
                (320, Lost),
                (1_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (280, Dial(QuicFirst)),
                (300, GiveUp),
                (820, Dial(QuicFirst)),
            ],
        ),
        (
            "a relay that does not let the client in",
            &[
                (10, Connected(Quic)),
                (20, Lost),
                (280, Connected(Quic)),
                (290, Lost),
                (800, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (270, Dial(QuicFirst)),
                (280, GiveUp),
                (790, Dial(QuicFirst)),
            ],
        ),
    ]);
}

#[test]
fn quic_is_tried_again_beside_a_lane_and_nothing_beside_quic() {
    check(&[
        (
            "on QUIC",
            &[(10, Connected(Quic)), (20, Welcome), (100_000, Time)],
            &[(0, Dial(QuicFirst)), (10, GiveUp)],
        ),
        (
            "in memory",
            &[(10, Connected(Mem)), (20, Welcome), (100_000, Time)],
            &[(0, Dial(QuicFirst)), (10, GiveUp)],
        ),
        (
            "on a lane: QUIC stays silent, and answers then",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (12_020, Failed),
                (16_030, Connected(Quic)),
                (16_040, Welcome),
                (100_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (2_020, Dial(QuicOnly)),
                (16_020, Dial(QuicOnly)),
                (16_030, GiveUp),
            ],
        ),
        (
            "a relay that shuts down",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (30, Drain),
                (100_000, Time),
            ],
            &[(0, Dial(QuicFirst)), (10, GiveUp)],
        ),
        (
            "the lane is lost while QUIC is tried",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (2_500, Lost),
                (2_501, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (2_020, Dial(QuicOnly)),
                (2_500, GiveUp),
                (2_500, Dial(Together)),
            ],
        ),
        (
            "QUIC came back and has failed again: it is left alone for half a minute",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (2_030, Connected(Quic)),
                (2_040, Welcome),
                (4_000, Lost),
                (4_010, Connected(Lane)),
                (4_020, Welcome),
                (34_019, Time),
                (34_021, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (2_020, Dial(QuicOnly)),
                (2_030, GiveUp),
                (4_000, Dial(QuicFirst)),
                (4_010, GiveUp),
                (34_020, Dial(QuicOnly)),
            ],
        ),
        (
            "unless the relay was restarted",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (2_030, Connected(Quic)),
                (2_040, Welcome),
                (4_000, Lost),
                (4_010, OtherRelay(Lane)),
                (4_020, Welcome),
                (7_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (2_020, Dial(QuicOnly)),
                (2_030, GiveUp),
                (4_000, Dial(QuicFirst)),
                (4_010, GiveUp),
                (6_020, Dial(QuicOnly)),
            ],
        ),
    ]);
}

#[test]
fn a_suspect_path_is_raced_until_it_answers_or_another_is_found() {
    check(&[
        (
            "QUIC that answers again: lanes are left",
            &[
                (10, Connected(Quic)),
                (20, Welcome),
                (5_000, Suspect),
                (5_800, Alive),
                (100_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (5_000, Dial(Hurried)),
                (5_500, Dial(Hurried)),
                (5_800, GiveUp),
                (5_800, LeaveLanes),
            ],
        ),
        (
            "another path",
            &[
                (10, Connected(Quic)),
                (20, Welcome),
                (5_000, Suspect),
                (5_100, Connected(Lane)),
                (5_200, Welcome),
                (7_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (5_000, Dial(Hurried)),
                (5_100, GiveUp),
            ],
        ),
        (
            "a lane that answers again: the whole tunnel goes on elsewhere",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (1_000, Suspect),
                (1_200, Alive),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (1_000, Dial(Together)),
                (1_200, Dial(Together)),
            ],
        ),
        (
            "QUIC that is tried beside a lane gives way to a race",
            &[
                (10, Connected(Lane)),
                (20, Welcome),
                (3_000, Suspect),
                (3_001, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (2_020, Dial(QuicOnly)),
                (3_000, GiveUp),
                (3_000, Dial(Together)),
            ],
        ),
        (
            "attempts that fail change nothing, nor does a tunnel that is lost",
            &[
                (10, Connected(Quic)),
                (20, Welcome),
                (5_000, Suspect),
                (5_001, Failed),
                (5_600, Lost),
                (5_601, Failed),
                (6_000, Time),
            ],
            &[
                (0, Dial(QuicFirst)),
                (10, GiveUp),
                (5_000, Dial(Hurried)),
                (5_500, Dial(Hurried)),
                (5_600, Dial(Hurried)),
            ],
        ),
        (
            "a tunnel that is given up: what is dialled beside it goes on",
            &[
                (10, Connected(Quic)),
                (20, Welcome),
                (5_000, Suspect),
                (5_100, Dead),
                (5_100, Lost),
                (5_200, Time),
            ],
            &[(0, Dial(QuicFirst)), (10, GiveUp), (5_000, Dial(Hurried))],
        ),
    ]);
}

#[test]
fn what_is_told_is_a_change_of_the_transport_and_a_pause() {
    let now = Instant::now();
    let mut policy = DialPolicy::new(now);
    let welcome = |policy: &mut DialPolicy, transport| {
        policy.handle_connected(transport, true);
        policy.handle_welcome(now, 0)
    };
    assert_eq!(welcome(&mut policy, Quic), None);
    assert_eq!(welcome(&mut policy, Lane), Some(true));
    assert_eq!(welcome(&mut policy, Lane), None);
    assert_eq!(welcome(&mut policy, Quic), Some(false));
    let later = now + STOOD;
    assert_eq!(policy.handle_lost(later, 0), None);
    assert_eq!(policy.handle_lost(later, 0), None, "it is lost already");
    policy.handle_timeout(later, 0);
    assert!(policy.handle_failed(later, 0).is_some());
    policy.handle_connected(Quic, true);
    assert!(policy.handle_lost(later, 0).is_some());
}

#[test]
fn a_suspect_path_is_raced_for_as_long_as_streams_wait_for_another() {
    let start = Instant::now();
    let mut policy = DialPolicy::new(start);
    policy.handle_connected(Quic, true);
    policy.handle_welcome(start, 0);
    policy.handle_liveness(start, Liveness::Suspect, 0);
    assert!(policy.poll_timeout(start + SUSPECT_MOST / 2).is_some());
    // The attempts that run go on; no further one is added.
    assert_eq!(policy.poll_timeout(start + SUSPECT_MOST), None);
}
