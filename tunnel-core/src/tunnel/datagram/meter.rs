//! How much a game sends, so that the congestion control never holds it back, nor keeps room for more than there is; and
//! whether anybody is there who would feel a queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::transport::quic::congestion;

/// Counts what datagrams leave on a connection.
#[derive(Debug, Default)]
pub(crate) struct GameMeter {
    /// Bytes, with what each costs on the wire.
    sent: AtomicU64,
    /// A player's stream has talked.
    has_talked: AtomicBool,
    /// Some had to be dropped: there is less room than the game wants.
    is_short: AtomicBool,
    /// Nobody looks until something is sent.
    is_asleep: AtomicBool,
    woken: Notify,
}

impl GameMeter {
    pub(crate) fn handle_sent(&self, bytes: usize) {
        // Relaxed: a look that misses the last datagram sees it with the next.
        self.sent
            .fetch_add((bytes + OVERHEAD) as u64, Ordering::Relaxed);
        self.wake();
    }

    /// A stream sends little after a pause, as players and their games do, not as transfers.
    pub(crate) fn handle_talk(&self) {
        if !self.has_talked.load(Ordering::Relaxed) {
            self.has_talked.store(true, Ordering::Relaxed);
            self.wake();
        }
    }

    fn wake(&self) {
        if self.is_asleep.load(Ordering::Relaxed) && self.is_asleep.swap(false, Ordering::Relaxed) {
            self.woken.notify_one();
        }
    }

    /// Takes what was counted and not looked at.
    #[cfg(test)]
    pub(super) fn take(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn handle_drop(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }
}

/// Tells the connection's congestion control the game's rate, and whether anybody plays, for as long as the connection lasts.
pub(crate) async fn declare(connection: quinn::Connection, meter: Arc<GameMeter>) {
    let mut rate = Rate::default();
    let mut talk = Talk::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = connection.closed() => return,
        }
        let sent = meter.sent.swap(0, Ordering::Relaxed);
        let is_short = meter.is_short.swap(false, Ordering::Relaxed);
        let declared = rate.handle_look(sent, is_short);
        talk.handle_look(meter.has_talked.swap(false, Ordering::Relaxed));
        let is_felt = talk.is_conversation() || rate.is_game();
        congestion::declare(&connection, Some(declared), is_felt);
        if rate.is_idle() && talk.is_over() {
            meter.is_asleep.store(true, Ordering::Relaxed);
            tokio::select! {
                () = meter.woken.notified() => {}
                _ = connection.closed() => return,
            }
            if meter.sent.load(Ordering::Relaxed) > 0 {
                // Nobody knows how large the game becomes, nor whether it is one; the first look at it is yet to come.
                congestion::declare(&connection, None, false);
            }
        }
    }
}

/// Whether a player's stream talks, or has just said once what it wants, as who asks for a file does.
#[derive(Debug, Default)]
struct Talk {
    /// A bit for each of the last looks, the newest lowest: somebody has talked before it.
    looks: u8,
}

impl Talk {
    fn handle_look(&mut self, has_talked: bool) {
        self.looks = self.looks << 1 | u8::from(has_talked);
    }

    fn is_conversation(&self) -> bool {
        self.looks.count_ones() >= TALK_LOOKS
    }

    /// Nothing was said for as long as it counts.
    const fn is_over(&self) -> bool {
        self.looks == 0
    }
}

/// The most that a game has sent of late, in bytes per second.
#[derive(Debug, Default)]
struct Rate {
    looks: [u64; LOOKS],
    next: usize,
}

impl Rate {
    /// `sent` bytes since the look before.
    fn handle_look(&mut self, sent: u64, is_short: bool) -> u64 {
        let now = (sent as f64 / LOOK.as_secs_f64()) as u64;
        if is_short {
            // What is lost anyway must not widen the window: that would only lengthen the queue.
            for look in &mut self.looks {
                *look = *look / 4 * 3;
            }
        } else {
            self.looks[self.next % LOOKS] = now.min(MOST);
        }
        self.next += 1;
        self.looks.iter().copied().max().unwrap_or_default()
    }

    /// Nothing was sent for as long as it counts.
    fn is_idle(&self) -> bool {
        self.looks == [0; LOOKS]
    }

    /// Somebody plays, and does not just ask who is there.
    fn is_game(&self) -> bool {
        self.looks.iter().filter(|look| **look > 0).count() >= GAME_LOOKS
    }
}

/// A quarter of a second: ten ticks of a game, and a quarter of what a player would notice.
const LOOK: Duration = Duration::from_millis(250);
/// The most of 4 s counts: a game's rate swings with what happens in it.
const LOOKS: usize = 16;
/// Of the looks of 4 s, those with datagrams that make it a game: a query, its challenge and its answer take two.
const GAME_LOOKS: usize = 3;
/// Of the looks of 2 s, those with talk that make it a conversation: who plays, or types, says something in most of them;
/// a request and its answer, even after a greeting, take two.
const TALK_LOOKS: u32 = 3;
/// IPv6, UDP and QUIC heads of a packet with one datagram.
pub(super) const OVERHEAD: usize = 80;
/// 1 Gbit/s: more than games send through one tunnel. What of it the path carries is for the congestion control to see.
const MOST: u64 = 1_000_000_000 / 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::handshake::Suite, transport::quic::tests::pair};

    #[test]
    fn the_most_of_four_seconds_counts() {
        let mut rate = Rate::default();
        assert_eq!(rate.handle_look(25_000, false), 100_000);
        for _ in 1..LOOKS {
            assert_eq!(rate.handle_look(2_500, false), 100_000);
        }
        assert_eq!(rate.handle_look(2_500, false), 10_000);
    }

    #[test]
    fn a_flood_that_does_not_fit_gets_no_wider_window() {
        let mut rate = Rate::default();
        rate.handle_look(25_000, false);
        for _ in 0..8 {
            let declared = rate.handle_look(25_000_000, true);
            assert!(declared < 100_000, "{declared}");
        }
        assert_eq!(rate.handle_look(250_000_000, false), MOST);
    }

    #[tokio::test]
    async fn what_a_game_needs_is_unknown_when_it_begins_after_a_silence() {
        let (connection, _, _peer, _endpoints) = pair(Suite::Aes256Gcm).await;
        let meter = Arc::<GameMeter>::default();
        let declares = tokio::spawn(declare(connection.clone(), meter.clone()));
        let is = async |wanted| {
            while congestion::declared(&connection) != wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let hang = Duration::from_secs(30);
        tokio::time::timeout(hang, is(Some(0))).await.unwrap();
        meter.handle_sent(1_000);
        tokio::time::timeout(hang, is(None)).await.unwrap();
        declares.abort();
    }

    #[test]
    fn a_query_is_no_game() {
        let mut rate = Rate::default();
        for sent in [100, 1_400, 0, 0, 0] {
            rate.handle_look(sent, false);
            assert!(!rate.is_game(), "{rate:?}");
        }
        rate.handle_look(100, false);
        assert!(rate.is_game());
        // One packet a second is felt for as long as it goes on.
        for look in 0..40 {
            rate.handle_look(if look % 4 == 3 { 100 } else { 0 }, false);
            assert!(rate.is_game(), "{look}");
        }
    }

    #[test]
    fn a_request_is_no_conversation() {
        let mut talk = Talk::default();
        for has_talked in [true, true, false, false, false, false, false, false] {
            talk.handle_look(has_talked);
            assert!(!talk.is_conversation() && !talk.is_over(), "{talk:?}");
        }
        for has_talked in [false, false] {
            talk.handle_look(has_talked);
        }
        assert!(talk.is_over());
        for _ in 0..2 {
            talk.handle_look(true);
            talk.handle_look(false);
            assert!(!talk.is_conversation());
        }
        talk.handle_look(true);
        assert!(talk.is_conversation());
        // A pause of a second ends it.
        for _ in 0..3 {
            talk.handle_look(false);
            assert!(talk.is_conversation());
        }
        talk.handle_look(false);
        assert!(!talk.is_conversation());
    }

    #[test]
    fn it_sleeps_when_nothing_was_sent_for_as_long() {
        let mut rate = Rate::default();
        rate.handle_look(0, false);
        assert!(rate.is_idle(), "nothing yet");
        rate.handle_look(1, false);
        for _ in 1..LOOKS {
            rate.handle_look(0, false);
            assert!(!rate.is_idle());
        }
        rate.handle_look(0, false);
        assert!(rate.is_idle());
        rate.handle_look(1, false);
        assert!(!rate.is_idle());
    }
}
