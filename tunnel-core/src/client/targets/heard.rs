//! What is known of a target's answers over UDP: where they come from, and for how long none has come. Pure: no socket, no clock.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// What the flows of a target have learnt of its answers.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The address that was asked, and the one that answered.
    origin: Option<(IpAddr, IpAddr)>,
    /// When a player was seen last who is answered.
    served: Option<Instant>,
    /// When it is said next that nobody is, and how long after that again.
    next: Option<(Instant, Duration)>,
}

impl Heard {
    /// Where answers come from, if `asked` has answered.
    pub(crate) fn origin(&self, asked: IpAddr) -> Option<IpAddr> {
        let (of, from) = self.origin?;
        (of == asked).then_some(from)
    }

    /// A flow has its first answer, or one that comes from elsewhere than those before it.
    pub(crate) fn handle_origin(&mut self, now: Instant, asked: IpAddr, from: IpAddr) {
        self.origin = Some((asked, from));
        self.handle_served(now);
    }

    /// A player is answered.
    pub(crate) fn handle_served(&mut self, now: Instant) {
        self.served = Some(now);
        self.next = None;
    }

    /// A player is not. Whether that is to be said now: nobody else is answered either, and it was not said lately.
    pub(crate) fn handle_silence(&mut self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < SERVED_RECENTLY;
        if self.served.is_some_and(is_recent) {
            return false;
        }
        let pause = match self.next {
            Some((at, _)) if now < at => return false,
            Some((_, pause)) => (pause * 2).min(PAUSE_MOST),
            None => PAUSE_LEAST,
        };
        self.next = Some((now + pause, pause));
        true
    }
}

/// How long it counts that a player was answered: 20 s, in which every flow of whom plays is looked at twice.
const SERVED_RECENTLY: Duration = Duration::from_secs(20);
/// Between two lines that say the same. A service whose target never answers, nor means to, is named once an hour in the end.
const PAUSE_LEAST: Duration = Duration::from_secs(60);
const PAUSE_MOST: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_said_when_nobody_is_answered_and_less_often_the_longer_it_lasts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::default();
        let said: Vec<u64> = (0..20_000)
            .filter(|seconds| heard.handle_silence(at(*seconds)))
            .collect();
        assert_eq!(
            said,
            [
                0, 60, 180, 420, 900, 1_860, 3_780, 7_380, 10_980, 14_580, 18_180
            ]
        );
        // One player of two is answered: the other has what the game thinks of him.
        heard.handle_served(at(20_000));
        assert!(!heard.handle_silence(at(20_019)));
        assert!(heard.handle_silence(at(20_020)));
        assert!(!heard.handle_silence(at(20_079)));
        assert!(heard.handle_silence(at(20_080)));
    }

    #[test]
    fn where_answers_come_from_is_known_for_the_address_that_was_asked() {
        let now = Instant::now();
        let [asked, from, other] = [1, 2, 3].map(|last| IpAddr::from([127, 0, 0, last]));
        let mut heard = Heard::default();
        assert_eq!(heard.origin(asked), None);
        heard.handle_origin(now, asked, from);
        assert_eq!(heard.origin(asked), Some(from));
        assert_eq!(heard.origin(other), None);
        assert!(!heard.handle_silence(now));
    }
}
