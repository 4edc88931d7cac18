//! What players report, and which of it somebody is to blame for.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What is between a player and its game server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// Its process is killed now and then.
    Mortal,
    /// Its process is never touched; its path goes dark now and then.
    Lasting,
}

/// What a player may notice of a disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Datagrams lost and connections broken: a process has died.
    Everything,
    /// Datagrams lost alone: connections live through a black-out and a machine that stands still.
    Datagrams,
}

/// Counts of all players, and the disturbances that they lived through.
#[derive(Debug)]
pub(crate) struct Book {
    start: Instant,
    pub(crate) datagrams: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) bulk_bytes: AtomicU64,
    pub(crate) visits: AtomicU64,
    /// Answers that were not what was due, or came twice.
    pub(crate) wrong: AtomicU64,
    losses: Mutex<Vec<Loss>>,
    disturbances: Mutex<Vec<Disturbance>>,
    stalls: Mutex<Vec<Duration>>,
}

/// A datagram without an answer, or a connection that ended before its time.
#[derive(Debug, Clone, Copy)]
struct Loss {
    node: Node,
    is_datagram: bool,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Disturbance {
    /// Whom it reaches; `None` is everybody.
    node: Option<Node>,
    harm: Harm,
    from: Instant,
    to: Option<Instant>,
}

/// Losses, sorted by blame.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Losses {
    pub(crate) datagrams_explained: u64,
    pub(crate) connections_explained: u64,
    pub(crate) datagrams: u64,
    pub(crate) connections: u64,
}

impl Book {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            datagrams: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            bulk_bytes: AtomicU64::new(0),
            visits: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            losses: Mutex::default(),
            disturbances: Mutex::default(),
            stalls: Mutex::default(),
        }
    }

    pub(crate) fn count(&self, which: &AtomicU64, by: u64) {
        which.fetch_add(by, Ordering::Relaxed);
    }

    /// A datagram sent at this time was never answered.
    pub(crate) fn datagram_lost(&self, node: Node, at: Instant) {
        self.lose(node, true, at);
    }

    /// A connection broke, or was not to be had, at this time.
    pub(crate) fn connection_lost(&self, node: Node, at: Instant) {
        self.lose(node, false, at);
    }

    fn lose(&self, node: Node, is_datagram: bool, at: Instant) {
        let loss = Loss {
            node,
            is_datagram,
            at,
        };
        lock(&self.losses).push(loss);
    }

    /// Something is done to these players now. The answer names it for [`Book::healed`].
    pub(crate) fn disturbed(&self, node: Option<Node>, harm: Harm) -> usize {
        let mut disturbances = lock(&self.disturbances);
        disturbances.push(Disturbance {
            node,
            harm,
            from: Instant::now(),
            to: None,
        });
        disturbances.len() - 1
    }

    /// The machine had no time for anybody: datagrams that it kept waiting are too old by now.
    pub(crate) fn stalled(&self, length: Duration) {
        lock(&self.stalls).push(length);
        let now = Instant::now();
        lock(&self.disturbances).push(Disturbance {
            node: None,
            harm: Harm::Datagrams,
            from: now.checked_sub(length).unwrap_or(now),
            to: Some(now),
        });
    }

    /// How often the machine stood still, and for how long altogether.
    pub(crate) fn stalls(&self) -> (usize, Duration) {
        let stalls = lock(&self.stalls);
        (stalls.len(), stalls.iter().sum())
    }

    pub(crate) fn healed(&self, disturbance: usize) {
        lock(&self.disturbances)[disturbance].to = Some(Instant::now());
    }

    /// What was lost, and whether somebody had disturbed it.
    pub(crate) fn losses(&self) -> Losses {
        let disturbances = lock(&self.disturbances);
        let mut sum = Losses::default();
        for loss in lock(&self.losses).iter() {
            let explained = disturbances.iter().any(|one| one.explains(loss));
            *match (loss.is_datagram, explained) {
                (true, true) => &mut sum.datagrams_explained,
                (true, false) => &mut sum.datagrams,
                (false, true) => &mut sum.connections_explained,
                (false, false) => &mut sum.connections,
            } += 1;
        }
        sum
    }

    /// When unexplained losses were, second by second: at most twenty lines.
    pub(crate) fn unexplained(&self) -> Vec<String> {
        let disturbances = lock(&self.disturbances);
        let mut seconds = BTreeMap::<_, u64>::new();
        for loss in lock(&self.losses).iter() {
            if !disturbances.iter().any(|one| one.explains(loss)) {
                let at = loss.at.duration_since(self.start).as_secs();
                let what = if loss.is_datagram {
                    "datagrams"
                } else {
                    "connections"
                };
                *seconds.entry((at, what, loss.node)).or_default() += 1;
            }
        }
        let lines = seconds
            .iter()
            .map(|((at, what, node), count)| format!("{count} {what} of {node:?} at {at} s"));
        lines.take(20).collect()
    }
}

impl Disturbance {
    fn explains(&self, loss: &Loss) -> bool {
        self.node.is_none_or(|node| node == loss.node)
            && (self.harm == Harm::Everything || loss.is_datagram)
            && loss.at + MARGIN > self.from
            && self.to.is_none_or(|to| loss.at < to + MARGIN)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was on its way when it began is lost too, and who was refused just before it ended is told later: 1 s.
const MARGIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_explained_by_what_reaches_its_player_at_its_time() {
        let start = Instant::now();
        let book = Book::new(start);
        let death = book.disturbed(Some(Node::Mortal), Harm::Everything);
        let dark = book.disturbed(Some(Node::Lasting), Harm::Datagrams);
        book.healed(death);
        book.healed(dark);
        let now = Instant::now();
        book.connection_lost(Node::Mortal, now);
        book.datagram_lost(Node::Lasting, now);
        // A black-out is no reason for a connection to break, and a minute later nothing is one.
        book.connection_lost(Node::Lasting, now);
        book.datagram_lost(Node::Mortal, now + Duration::from_secs(60));
        let expected = Losses {
            datagrams_explained: 1,
            connections_explained: 1,
            datagrams: 1,
            connections: 1,
        };
        assert_eq!(book.losses(), expected);
        assert_eq!(book.unexplained().len(), 2);
    }
}
