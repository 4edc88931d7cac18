//! One attempt to reach the relay: which address is tried over which transport, and when.
//!
//! It works like Happy Eyeballs (RFC 8305). An address is tried a little after the one before it, or as soon as that one has
//! failed. At each address QUIC has a head start before a lane is tried beside it, so that an address or a transport that
//! is silent delays no other.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Which transports an attempt uses, and how long QUIC is tried alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// QUIC, and a lane beside it once QUIC has been silent for a second.
    QuicFirst,
    /// The same with a short head start: the path in use is suspect, and players wait.
    Hurried,
    /// Both at once: a lane worked last.
    Together,
    /// QUIC alone: a lane carries everything already.
    QuicOnly,
}

impl Strategy {
    const fn head_start(self) -> Duration {
        match self {
            Self::Together => Duration::ZERO,
            Self::Hurried => HURRIED_HEAD_START,
            Self::QuicFirst | Self::QuicOnly => HEAD_START,
        }
    }
}

/// What one try is made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Quic,
    Lane,
}

/// What the executor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Try this address over this transport. How it ends goes to [`Attempt::handle_failed`], unless it is established.
    Try(SocketAddr, Over),
    /// Drop every try of this address.
    GiveUp(SocketAddr),
    /// QUIC has not answered within its head start: a lane is tried beside it.
    TellSilent(SocketAddr),
}

/// No answer came within this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silent(pub(crate) Duration);

/// Why an address was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure<E> {
    /// The one transport that was tried has failed, or everything was silent.
    One(E),
    /// Both transports have failed.
    Both { quic: E, lane: E },
}

/// The state of one attempt. `E` is what a try fails with.
///
/// The executor does what [`poll_action`](Self::poll_action) yields and reports what becomes of it, until a try is
/// established or the attempt [has ended](Self::has_ended).
#[derive(Debug)]
pub(crate) struct Attempt<E> {
    strategy: Strategy,
    tries: Vec<Try<E>>,
    /// How many addresses are still tried at most.
    left: usize,
    /// When the next address is tried; `None` once there are no more.
    next_at: Option<Instant>,
    wants_address: bool,
    failure: Option<Failure<E>>,
    actions: VecDeque<Action>,
}

/// An address that is being tried.
#[derive(Debug)]
struct Try<E> {
    address: SocketAddr,
    /// When a lane is tried beside QUIC; `None` once it is, or if none will be.
    lane_at: Option<Instant>,
    quic_error: Option<E>,
    lane_error: Option<E>,
    /// When the address is given up, and after how long a wait that is.
    until: Instant,
    patience: Duration,
}

impl<E: From<Silent>> Attempt<E> {
    /// An attempt that tries `most` addresses at most.
    pub(crate) const fn new(now: Instant, strategy: Strategy, most: usize) -> Self {
        Self {
            strategy,
            tries: Vec::new(),
            left: most,
            next_at: Some(now),
            wants_address: true,
            failure: None,
            actions: VecDeque::new(),
        }
    }

    /// Whether the next address is to be tried now. The answer is [`handle_address`](Self::handle_address) or
    /// [`handle_no_address`](Self::handle_no_address), however long it takes to find out.
    pub(crate) const fn wants_address(&self) -> bool {
        self.wants_address
    }

    /// The next address is this.
    pub(crate) fn handle_address(&mut self, now: Instant, address: SocketAddr) {
        self.left = self.left.saturating_sub(1);
        self.wants_address = false;
        self.next_at = (self.left > 0).then(|| now + STAGGER);
        let has_lane = self.strategy != Strategy::QuicOnly;
        let head_start = self.strategy.head_start();
        self.tries.push(Try {
            address,
            lane_at: has_lane.then(|| now + head_start),
            quic_error: None,
            lane_error: None,
            until: now + DIAL_PATIENCE + if has_lane { head_start } else { Duration::ZERO },
            patience: DIAL_PATIENCE,
        });
        self.actions.push_back(Action::Try(address, Over::Quic));
        if head_start.is_zero() {
            self.handle_timeout(now);
        }
    }

    /// There are no more addresses.
    pub(crate) const fn handle_no_address(&mut self) {
        self.wants_address = false;
        self.next_at = None;
    }

    /// More addresses are known only once a look-up has ended. An attempt of which everything has failed does not wait for a
    /// resolver that may hang: what it finds is for the next attempt.
    pub(crate) const fn handle_dry(&mut self) {
        if self.tries.is_empty() && self.failure.is_some() {
            self.handle_no_address();
        }
    }

    /// A try has failed.
    pub(crate) fn handle_failed(
        &mut self,
        now: Instant,
        address: SocketAddr,
        over: Over,
        error: E,
    ) {
        let Some(place) = self.tries.iter().position(|it| it.address == address) else {
            return;
        };
        let tried = &mut self.tries[place];
        let is_alone = match over {
            Over::Quic => {
                tried.quic_error = Some(error);
                tried.lane_error.is_some() || self.strategy == Strategy::QuicOnly
            }
            Over::Lane => {
                tried.lane_error = Some(error);
                tried.quic_error.is_some()
            }
        };
        if is_alone {
            return self.end(now, place);
        }
        // What has failed is a host where none listens, or a firewall: the other transport has less time.
        let rest = now + REST_PATIENCE;
        if tried.lane_at.take().is_some() {
            self.actions.push_back(Action::Try(address, Over::Lane));
            (tried.until, tried.patience) = (rest, REST_PATIENCE);
        } else if rest < tried.until {
            (tried.until, tried.patience) = (rest, REST_PATIENCE);
        }
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.wants_address |= self.next_at.is_some_and(|at| at <= now);
        for tried in &mut self.tries {
            if tried.lane_at.take_if(|at| *at <= now).is_some() {
                let address = tried.address;
                if self.strategy == Strategy::QuicFirst {
                    self.actions.push_back(Action::TellSilent(address));
                }
                self.actions.push_back(Action::Try(address, Over::Lane));
            }
        }
        while let Some(place) = self.tries.iter().position(|it| it.until <= now) {
            self.end(now, place);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next_at.filter(|_| !self.wants_address);
        let tries = self.tries.iter();
        tries
            .flat_map(|tried| [Some(tried.until), tried.lane_at])
            .chain([next])
            .flatten()
            .min()
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether nothing is left to try.
    pub(crate) const fn has_ended(&self) -> bool {
        self.tries.is_empty() && self.next_at.is_none()
    }

    /// Why the last address was not reached; `None` if there was none.
    pub(crate) fn into_failure(self) -> Option<Failure<E>> {
        self.failure
    }

    /// An address has failed: the next one is tried at once.
    fn end(&mut self, now: Instant, place: usize) {
        let tried = self.tries.remove(place);
        self.actions.push_back(Action::GiveUp(tried.address));
        let silent = || E::from(Silent(tried.patience));
        self.failure = Some(match (tried.quic_error, tried.lane_error) {
            (None, None) => Failure::One(silent()),
            (Some(quic), None) if self.strategy == Strategy::QuicOnly => Failure::One(quic),
            (quic, lane) => Failure::Both {
                quic: quic.unwrap_or_else(silent),
                lane: lane.unwrap_or_else(silent),
            },
        });
        if self.next_at.is_some() {
            self.next_at = Some(now);
            self.wants_address = true;
        }
    }
}

/// Head start of an address before the next is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// Head start of QUIC before a lane is tried beside it: 1 s, three round trips of a long path.
const HEAD_START: Duration = Duration::from_secs(1);
/// The same while a path is suspect: 100 ms. A lane takes two round trips more anyhow, and players wait.
const HURRIED_HEAD_START: Duration = Duration::from_millis(100);
/// How long one transport is tried on when the other has failed. That is the answer of a relay which is there, of a host
/// where none listens, or of a firewall: 2 s, in which what was lost is repeated once. Then a fresh attempt finds more.
const REST_PATIENCE: Duration = Duration::from_secs(2);
/// How long one address is tried.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::{Action::*, Over::*, *};

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Error {
        Refused,
        Silent(u64),
    }

    impl From<Silent> for Error {
        fn from(Silent(patience): Silent) -> Self {
            Self::Silent(patience.as_secs())
        }
    }

    /// What happens, at a number of milliseconds from the start.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Address(u16),
        NoAddress,
        Dry,
        Refused(u16, Over),
        /// Nothing but the time.
        Timeout,
    }

    /// Whether the attempt has ended, and how.
    type Outcome = Option<Option<Failure<Error>>>;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Runs an attempt through events; returns the actions with their times, and how it has ended.
    fn run(strategy: Strategy, events: &[(u64, Event)]) -> (Vec<(u64, Action)>, Outcome) {
        let start = Instant::now();
        let mut attempt = Attempt::<Error>::new(start, strategy, 3);
        let (mut done, mut events) = (Vec::new(), events.iter().peekable());
        loop {
            let due = attempt.poll_timeout();
            let due = due.map(|due| due.saturating_duration_since(start).as_millis() as u64);
            let next = events.peek().map(|(time, _)| *time);
            let now = match (next, due) {
                (Some(next), due) if due.is_none_or(|due| next <= due) => next,
                (Some(_), Some(due)) => due,
                _ => break,
            };
            let time = start + Duration::from_millis(now);
            if next == Some(now) {
                match events.next().unwrap().1 {
                    Event::Address(port) => {
                        assert!(attempt.wants_address(), "at {now}");
                        attempt.handle_address(time, at(port));
                    }
                    Event::NoAddress => attempt.handle_no_address(),
                    Event::Dry => attempt.handle_dry(),
                    Event::Refused(port, over) => {
                        attempt.handle_failed(time, at(port), over, Error::Refused);
                    }
                    Event::Timeout => attempt.handle_timeout(time),
                }
            } else {
                attempt.handle_timeout(time);
            }
            done.extend(std::iter::from_fn(|| attempt.poll_action()).map(|it| (now, it)));
        }
        let failure = attempt.has_ended().then(|| attempt.into_failure());
        (done, failure)
    }

    const END: (u64, Event) = (60_000, Event::Timeout);

    #[test]
    fn quic_has_a_head_start_that_ends_when_it_fails() {
        use Event::*;
        type Case<'a> = (&'a str, Strategy, &'a [(u64, Event)], &'a [(u64, Action)]);
        let cases: [Case<'_>; 6] = [
            (
                "silence",
                Strategy::QuicFirst,
                &[(0, Address(1)), (0, NoAddress), (2_000, Timeout)],
                &[
                    (0, Try(at(1), Quic)),
                    (1_000, TellSilent(at(1))),
                    (1_000, Try(at(1), Lane)),
                ],
            ),
            (
                "QUIC fails at once",
                Strategy::QuicFirst,
                &[
                    (0, Address(1)),
                    (0, NoAddress),
                    (5, Refused(1, Quic)),
                    (1_500, Timeout),
                ],
                &[(0, Try(at(1), Quic)), (5, Try(at(1), Lane))],
            ),
            (
                "a suspect path",
                Strategy::Hurried,
                &[(0, Address(1)), (0, NoAddress), (2_000, Timeout)],
                &[(0, Try(at(1), Quic)), (100, Try(at(1), Lane))],
            ),
            (
                "a lane worked last",
                Strategy::Together,
                &[(0, Address(1)), (0, NoAddress), (2_000, Timeout)],
                &[(0, Try(at(1), Quic)), (0, Try(at(1), Lane))],
            ),
            (
                "a lane carries everything",
                Strategy::QuicOnly,
                &[(0, Address(1)), (0, NoAddress), (9_000, Timeout)],
                &[(0, Try(at(1), Quic))],
            ),
            (
                "that one fails",
                Strategy::QuicOnly,
                &[(0, Address(1)), (0, NoAddress), (5, Refused(1, Quic))],
                &[(0, Try(at(1), Quic)), (5, GiveUp(at(1)))],
            ),
        ];
        for (name, strategy, events, expected) in cases {
            let (done, _) = run(strategy, events);
            assert_eq!(done, expected, "{name}");
        }
    }

    #[test]
    fn the_next_address_is_tried_a_little_later_or_when_one_has_failed() {
        use Event::*;
        let (done, failed) = run(
            Strategy::QuicOnly,
            &[
                (0, Address(1)),
                (250, Timeout),
                (250, Address(2)),
                // Both of them fail, and the third is the last that is tried.
                (300, Refused(1, Quic)),
                (300, Address(3)),
                (310, Refused(2, Quic)),
                (320, Refused(3, Quic)),
            ],
        );
        let expected = [
            (0, Try(at(1), Quic)),
            (250, Try(at(2), Quic)),
            (300, GiveUp(at(1))),
            (300, Try(at(3), Quic)),
            (310, GiveUp(at(2))),
            (320, GiveUp(at(3))),
        ];
        assert_eq!(done, expected);
        assert_eq!(failed, Some(Some(Failure::One(Error::Refused))));
    }

    #[test]
    fn an_attempt_ends_with_its_last_address_and_says_what_was_the_matter() {
        use Event::*;
        let refused = || Error::Refused;
        type Case<'a> = (&'a str, Strategy, &'a [(u64, Event)], Outcome);
        let cases: [Case<'_>; 9] = [
            (
                "no address",
                Strategy::QuicFirst,
                &[(0, NoAddress)],
                Some(None),
            ),
            (
                "a look-up that hangs before anything was tried",
                Strategy::QuicFirst,
                &[(0, Dry)],
                None,
            ),
            (
                "the same after what was known has failed",
                Strategy::QuicOnly,
                &[(0, Address(1)), (1, Dry), (5, Refused(1, Quic)), (5, Dry)],
                Some(Some(Failure::One(refused()))),
            ),
            (
                "while another address is tried",
                Strategy::QuicOnly,
                &[
                    (0, Address(1)),
                    (250, Timeout),
                    (250, Address(2)),
                    (300, Refused(1, Quic)),
                    (300, Dry),
                ],
                None,
            ),
            (
                "both refused",
                Strategy::QuicFirst,
                &[
                    (0, Address(1)),
                    (0, NoAddress),
                    (5, Refused(1, Quic)),
                    (6, Refused(1, Lane)),
                ],
                Some(Some(Failure::Both {
                    quic: refused(),
                    lane: refused(),
                })),
            ),
            (
                "QUIC refused, the lane silent for the rest",
                Strategy::QuicFirst,
                &[(0, Address(1)), (0, NoAddress), (5, Refused(1, Quic)), END],
                Some(Some(Failure::Both {
                    quic: refused(),
                    lane: Error::Silent(2),
                })),
            ),
            (
                "a lane refused beside QUIC that is silent",
                Strategy::Together,
                &[
                    (0, Address(1)),
                    (0, NoAddress),
                    (9_500, Refused(1, Lane)),
                    END,
                ],
                Some(Some(Failure::Both {
                    quic: Error::Silent(10),
                    lane: refused(),
                })),
            ),
            (
                "everything silent",
                Strategy::QuicFirst,
                &[(0, Address(1)), (0, NoAddress), END],
                Some(Some(Failure::One(Error::Silent(10)))),
            ),
            (
                "QUIC alone silent",
                Strategy::QuicOnly,
                &[(0, Address(1)), (0, NoAddress), END],
                Some(Some(Failure::One(Error::Silent(10)))),
            ),
        ];
        for (name, strategy, events, expected) in cases {
            assert_eq!(run(strategy, events).1, expected, "{name}");
        }
    }

    #[test]
    fn a_failure_leaves_the_other_transport_two_seconds_and_no_address_more_than_its_time() {
        use Event::*;
        let given_up = |events: &[(u64, Event)]| {
            let (done, _) = run(Strategy::QuicFirst, events);
            done.iter()
                .find(|(_, it)| *it == GiveUp(at(1)))
                .map(|(time, _)| *time)
        };
        let first = [(0, Address(1)), (0, NoAddress)];
        for (failed, expected) in [(500, 2_500), (3_000, 5_000), (10_500, 11_000)] {
            let events = [&first[..], &[(failed, Refused(1, Quic)), END]].concat();
            assert_eq!(given_up(&events), Some(expected), "{failed}");
        }
        assert_eq!(given_up(&[&first[..], &[END]].concat()), Some(11_000));
    }
}
