use std::time::{Duration, Instant};

use crate::{
    health::{
        Asked, CheckError, Exchange, HealthCheck, HealthState, HttpProbe, Monitor, OnUnhealthy,
        Probe, Report, TcpProbe, UdpProbe,
    },
    proto::testing::XorShift,
};

/// A monitor in virtual time, which is asked whenever it is due.
struct World {
    monitor: Monitor,
    start: Instant,
}

impl World {
    fn new(check: &HealthCheck) -> Self {
        let start = Instant::now();
        Self {
            monitor: Monitor::new(check, start, Duration::ZERO),
            start,
        }
    }

    /// The next check ends so. Returns the seconds since the start, and the verdict.
    fn check(&mut self, works: bool) -> (u64, HealthState) {
        let now = self.monitor.poll_timeout();
        self.monitor.handle_result(now, works);
        ((now - self.start).as_secs(), self.monitor.state())
    }

    /// How many answers in a row it takes until the service is healthy.
    fn answers_needed(&mut self) -> usize {
        (1..1000)
            .find(|_| self.check(true).1 == HealthState::Healthy)
            .unwrap()
    }

    fn fail(&mut self) {
        while self.check(false).1 != HealthState::Unhealthy {}
    }
}

fn check() -> HealthCheck {
    HealthCheck::new(TcpProbe)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn verdicts_follow_the_thresholds_and_nothing_less() {
    use HealthState::{Healthy, Starting, Unhealthy};
    let mut world = World::new(&check().with_thresholds(2, 3).unwrap());
    assert_eq!(world.check(true), (0, Starting));
    // While it starts it is asked every 5 s, then every 30 s.
    assert_eq!(world.check(true), (5, Healthy));
    assert_eq!(world.check(false), (35, Healthy));
    assert_eq!(world.check(false), (65, Healthy));
    assert_eq!(world.check(true), (95, Healthy));
    assert_eq!(world.check(false), (125, Healthy));
    assert_eq!(world.check(false), (155, Healthy));
    assert_eq!(world.check(false), (185, Unhealthy));
    assert_eq!(world.monitor.since(), world.start + seconds(185));
    assert_eq!(world.check(false), (215, Unhealthy));
    assert_eq!(world.monitor.since(), world.start + seconds(185));
}

#[test]
fn what_fails_in_the_start_period_does_not_count() {
    let mut world = World::new(&check().with_start_period(seconds(60)).unwrap());
    for _ in 0..12 {
        assert_eq!(world.check(false).1, HealthState::Starting);
    }
    let (at, state) = world.check(false);
    assert_eq!((at, state), (60, HealthState::Starting));
    world.check(false);
    assert_eq!(world.check(false), (70, HealthState::Unhealthy));
    // An answer within it is a start.
    let mut early = World::new(&check().with_start_period(seconds(60)).unwrap());
    assert_eq!(early.check(true).1, HealthState::Healthy);
    early.check(false);
    early.check(false);
    assert_eq!(early.check(false).1, HealthState::Unhealthy);
}

#[test]
fn who_flaps_has_to_answer_for_longer_each_time() {
    let mut world = World::new(&check());
    assert_eq!(world.answers_needed(), 1);
    let mut needed = Vec::new();
    for _ in 0..6 {
        world.fail();
        needed.push(world.answers_needed());
    }
    assert_eq!(needed, [2, 4, 8, 16, 16, 16]);
    // 600 s of calm, and it is trusted as before.
    for _ in 0..20 {
        assert_eq!(world.check(true).1, HealthState::Healthy);
    }
    world.fail();
    assert_eq!(world.answers_needed(), 1);
}

#[test]
fn a_check_that_could_not_be_made_says_nothing() {
    let mut world = World::new(&check().with_thresholds(1, 1).unwrap());
    world.check(true);
    let due = world.monitor.poll_timeout();
    world.monitor.handle_skipped(due);
    assert_eq!(world.monitor.state(), HealthState::Healthy);
    assert_eq!(world.monitor.poll_timeout(), due + seconds(30));
}

/// A plain model beside it: the last results alone decide whether a verdict may have changed.
#[test]
fn a_verdict_never_changes_without_its_run() {
    let mut random = XorShift::new(9);
    for _ in 0..200 {
        let (up, down) = (1 + random.below(4) as u32, 1 + random.below(4) as u32);
        let mut world = World::new(&check().with_thresholds(up, down).unwrap());
        let mut results = Vec::new();
        for _ in 0..200 {
            let works = random.below(3) > 0;
            let before = world.monitor.state();
            results.push(works);
            let (_, after) = world.check(works);
            if after == before {
                continue;
            }
            let run = results.iter().rev().take_while(|it| **it == works);
            let least = if works { up } else { down };
            assert!(run.count() >= least as usize);
            assert_eq!(after == HealthState::Healthy, works);
        }
    }
}

#[test]
fn settings_are_within_their_bounds() {
    for bad in [
        check().with_interval(seconds(0)),
        check().with_interval(seconds(3601)),
        check().with_timeout(seconds(0)),
        check().with_timeout(seconds(61)),
        check().with_start_period(seconds(3601)),
        check().with_thresholds(0, 1),
        check().with_thresholds(1, 101),
    ] {
        assert!(
            matches!(bad, Err(CheckError::OutOfBounds { .. })),
            "{bad:?}"
        );
    }
    assert_eq!(
        check().with_timeout(seconds(61)).unwrap_err().to_string(),
        "health: timeout = 61 is outside 1 to 60"
    );
    assert!(HttpProbe::new("health", 200..=200).is_err());
    assert!(HttpProbe::new("/a b", 200..=200).is_err());
    assert!(HttpProbe::new("/a\r\nX: y", 200..=200).is_err());
    assert!(HttpProbe::new("/", 0..=200).is_err());
    assert!(UdpProbe::new(b"", b"").is_err());
    assert!(UdpProbe::new(&[0; 1201], b"").is_err());
    for word in [OnUnhealthy::Keep, OnUnhealthy::Refuse] {
        assert_eq!(word.to_string().parse(), Ok(word));
    }
    assert!("close".parse::<OnUnhealthy>().is_err());
}

#[test]
fn checks_are_the_same_if_they_ask_alike() {
    let http = |path| HealthCheck::new(HttpProbe::new(path, 200..=399).unwrap());
    assert_eq!(http("/a"), http("/a"));
    assert_ne!(http("/a"), http("/b"));
    assert_ne!(http("/a"), check());
    assert_ne!(check(), check().on_unhealthy(OnUnhealthy::Refuse));
    assert_ne!(check(), check().with_interval(seconds(31)).unwrap());
}

fn ask(probe: &dyn Probe) -> Box<dyn Exchange> {
    probe.ask(Asked::new(&"localhost:80".parse().unwrap(), 1))
}

#[test]
fn http_is_judged_by_its_first_line() {
    let probe = HttpProbe::new("/health", 200..=399).unwrap();
    let mut exchange = ask(&probe);
    let request = String::from_utf8(exchange.poll_transmit().unwrap()).unwrap();
    assert!(request.starts_with("GET /health HTTP/1.1\r\nHost: localhost:80\r\n"));
    assert!(request.ends_with("\r\n\r\n"));
    assert_eq!(exchange.poll_transmit(), None);
    assert_eq!(exchange.handle_input(b"HTTP/1."), Ok(None));
    assert_eq!(
        exchange.handle_input(b"1 204 No Content\r\nX"),
        Ok(Some(Report::default()))
    );
    for (answer, error) in [
        (
            "HTTP/1.1 503 Service Unavailable\r\n",
            "the answer's status is 503",
        ),
        ("HTTP/1.0 404\n", "the answer's status is 404"),
        ("SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        ("HTTP/1.1 abc\r\n", "the answer is not HTTP"),
        ("", "the answer is not HTTP"),
    ] {
        assert_eq!(
            ask(&probe).handle_input(answer.as_bytes()),
            Err(error.into()),
            "{answer}"
        );
    }
    let mut endless = ask(&probe);
    let mut sent = 0;
    while endless.handle_input(&[b'x'; 100]).is_ok() {
        sent += 100;
        assert!(sent <= 1100);
    }
}

#[test]
fn udp_is_judged_by_how_the_answer_begins() {
    let probe = UdpProbe::new(b"ping", b"pong").unwrap();
    let mut exchange = ask(&probe);
    assert_eq!(exchange.poll_transmit(), Some(b"ping".to_vec()));
    assert_eq!(exchange.poll_transmit(), None);
    exchange.handle_silence();
    assert_eq!(exchange.poll_transmit(), Some(b"ping".to_vec()));
    assert!(exchange.handle_input(b"nope").is_err());
    assert_eq!(exchange.handle_input(b"pong!"), Ok(Some(Report::default())));
    let any = UdpProbe::new(b"x", b"").unwrap();
    assert_eq!(ask(&any).handle_input(b""), Ok(Some(Report::default())));
}

#[test]
fn what_a_target_says_is_one_short_line() {
    let report = Report {
        name: "a\x1b[2J\n".repeat(100),
        ..Report::default()
    };
    let name = report.bounded().name;
    assert!(name.len() <= 256 && name.starts_with("a [2J a"), "{name}");
}
