//! Which of its target's addresses a flow goes to, as long as none of them has answered. Pure: no socket, no clock.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// A look for the address that answers. One after the other is tried; each of the first datagrams goes to each, once.
#[derive(Debug)]
pub(super) struct Search<H> {
    candidates: Vec<Candidate>,
    at: usize,
    /// How many have been left since the round began.
    left: usize,
    /// When the present one is given up unless it answers; set by what is sent to it.
    until: Option<Instant>,
    /// How long it has, from then on.
    patience: Duration,
    rounds: u32,
    kept: Vec<Kept<H>>,
    kept_bytes: usize,
}

#[derive(Debug)]
struct Candidate {
    ip: IpAddr,
    refused: bool,
}

/// A datagram that may have to be sent again, and what holds its place in memory.
#[derive(Debug)]
struct Kept<H> {
    datagram: Bytes,
    /// Addresses that it has not been sent to.
    unsent: usize,
    _held: H,
}

impl<H> Search<H> {
    /// Begins at the first of these.
    pub(super) fn new(candidates: &[IpAddr]) -> Self {
        let candidates = candidates.iter().map(|ip| Candidate {
            ip: *ip,
            refused: false,
        });
        Self {
            candidates: candidates.collect(),
            at: 0,
            left: 0,
            until: None,
            patience: SILENCE,
            rounds: 0,
            kept: Vec::new(),
            kept_bytes: 0,
        }
    }

    /// How many addresses there are.
    pub(super) const fn count(&self) -> usize {
        self.candidates.len()
    }

    /// A datagram goes to the present address now. `hold` gives it a place in memory, if there is one.
    pub(super) fn handle_sent(
        &mut self,
        now: Instant,
        datagram: &[u8],
        hold: impl FnOnce(usize) -> Option<H>,
    ) {
        self.until.get_or_insert(now + self.patience);
        let bytes = self.kept_bytes + datagram.len();
        if self.kept.len() < KEPT_MOST
            && bytes <= KEPT_BYTES
            && let Some(held) = hold(datagram.len())
        {
            self.kept_bytes = bytes;
            self.kept.push(Kept {
                datagram: Bytes::copy_from_slice(datagram),
                unsent: self.candidates.len() - 1,
                _held: held,
            });
        }
    }

    /// The present address refuses. Where to go on.
    pub(super) fn handle_refused(&mut self, now: Instant) -> Option<IpAddr> {
        if let Some(candidate) = self.candidates.get_mut(self.at) {
            candidate.refused = true;
        }
        self.go_on(now)
    }

    /// When the present address has been silent for long enough.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// Time has passed. Where to go on, if it is time to.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<IpAddr> {
        let is_over = self.until.is_some_and(|until| until <= now);
        is_over.then(|| self.go_on(now)).flatten()
    }

    /// What is to be sent to the present address, too.
    pub(super) fn poll_again(&mut self) -> Vec<Bytes> {
        let mut again = Vec::new();
        self.kept.retain_mut(|kept| {
            let is_due = kept.unsent > 0;
            if is_due {
                kept.unsent -= 1;
                again.push(kept.datagram.clone());
            } else {
                self.kept_bytes -= kept.datagram.len();
            }
            is_due
        });
        again
    }

    fn go_on(&mut self, now: Instant) -> Option<IpAddr> {
        let count = self.candidates.len();
        self.left += 1;
        if self.left < count {
            self.at = (self.at + 1) % count;
            self.patience = SILENCE;
        } else {
            // None has answered. Where nobody refuses there may be one that never answers.
            let silent = |candidate: &Candidate| !candidate.refused;
            self.at = self.candidates.iter().position(silent).unwrap_or(0);
            self.left = 0;
            self.patience = (REST_LEAST * 2_u32.saturating_pow(self.rounds)).min(REST_MOST);
            self.rounds += 1;
            for candidate in &mut self.candidates {
                candidate.refused = false;
            }
        }
        let waits = self.kept.iter().any(|kept| kept.unsent > 0);
        // Nothing is sent there before the player says more: his next datagram sets it.
        self.until = waits.then(|| now + self.patience);
        self.candidates.get(self.at).map(|candidate| candidate.ip)
    }
}

/// How long an address may be silent while another has not been tried: 1 s, three round trips of a long path, and three
/// addresses are tried within what players wait for.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a flow stays at an address after none has answered; each time twice as long, so that one that is never
/// answered, nor means to be, loses next to nothing at the others.
const REST_LEAST: Duration = Duration::from_secs(4);
const REST_MOST: Duration = Duration::from_secs(64);
/// What is kept of a flow that nobody has answered: 16 datagrams, a quarter of a second of a game's first words, or a
/// handshake with its repetitions.
const KEPT_MOST: usize = 16;
/// Their bytes: 16 KiB, ten full packets.
const KEPT_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    fn search(count: u8) -> Search<()> {
        Search::new(&(0..count).map(ip).collect::<Vec<_>>())
    }

    fn again(search: &mut Search<()>) -> Vec<Vec<u8>> {
        let again = search.poll_again();
        again.iter().map(|datagram| datagram.to_vec()).collect()
    }

    #[test]
    fn each_of_the_first_datagrams_goes_to_each_address_once() {
        let now = Instant::now();
        let mut search = search(3);
        search.handle_sent(now, b"1", |_| Some(()));
        search.handle_sent(now, b"2", |_| Some(()));
        assert_eq!(search.handle_refused(now), Some(ip(1)));
        assert_eq!(again(&mut search), [b"1", b"2"]);
        search.handle_sent(now, b"3", |_| Some(()));
        assert_eq!(search.handle_refused(now), Some(ip(2)));
        assert_eq!(again(&mut search), [b"1", b"2", b"3"]);
        // All three refuse: only what has not been to the first goes there.
        assert_eq!(search.handle_refused(now), Some(ip(0)));
        assert_eq!(again(&mut search), [b"3"]);
        assert_eq!(search.handle_refused(now), Some(ip(1)));
        assert!(again(&mut search).is_empty());
        assert_eq!((search.kept.len(), search.kept_bytes), (0, 0));
    }

    #[test]
    fn silence_moves_it_on_within_a_round_and_seldom_after_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut search = search(2);
        assert_eq!(search.poll_timeout(), None);
        search.handle_sent(at(0), b"hello", |_| Some(()));
        search.handle_sent(at(900), b"hello", |_| Some(()));
        assert_eq!(search.handle_timeout(at(999)), None);
        assert_eq!(search.poll_timeout(), Some(at(1_000)));
        assert_eq!(search.handle_timeout(at(1_000)), Some(ip(1)));
        assert_eq!(again(&mut search).len(), 2);
        assert_eq!(search.poll_timeout(), Some(at(2_000)));
        assert_eq!(search.handle_timeout(at(2_000)), Some(ip(0)));
        // Nothing is left to be sent: it waits for the player.
        assert!(again(&mut search).is_empty());
        assert_eq!(search.poll_timeout(), None);
        let mut moment = 2_000;
        for rest in [4_000, 8_000, 16_000, 32_000, 64_000, 64_000] {
            search.handle_sent(at(moment), b"hello", |_| None);
            assert_eq!(search.handle_timeout(at(moment + rest - 1)), None);
            moment += rest;
            assert_eq!(search.handle_timeout(at(moment)), Some(ip(1)));
            search.handle_sent(at(moment), b"hello", |_| None);
            moment += 1_000;
            assert_eq!(search.handle_timeout(at(moment)), Some(ip(0)));
        }
    }

    #[test]
    fn where_one_refuses_and_one_is_silent_it_rests_at_the_silent_one() {
        let now = Instant::now();
        let mut search = search(2);
        search.handle_sent(now, b"to a sink", |_| Some(()));
        assert_eq!(search.handle_refused(now), Some(ip(1)));
        assert_eq!(again(&mut search).len(), 1);
        assert_eq!(search.handle_timeout(now + SILENCE), Some(ip(1)));
        assert!(again(&mut search).is_empty(), "nothing comes twice");
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_in_bytes_and_by_who_has_the_memory() {
        let now = Instant::now();
        let mut many = search(2);
        for _ in 0..100 {
            many.handle_sent(now, b"small", |_| Some(()));
        }
        assert_eq!(many.kept.len(), KEPT_MOST);
        let mut large = search(2);
        for _ in 0..100 {
            large.handle_sent(now, &[0; 3_000], |_| Some(()));
        }
        assert_eq!(large.kept.len(), 5);
        let mut none = search(2);
        none.handle_sent(now, b"small", |bytes| {
            assert_eq!(bytes, 5);
            None
        });
        assert!(none.kept.is_empty());
    }
}
