//! What is said once a minute and no more, however often it happens.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{proto::flow::spare_map, sync::lock};

/// When what was said last.
#[derive(Debug)]
pub(crate) struct Notices<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Notices<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Notices<K> {
    /// Whether this is to be said now. It counts as said then.
    pub(crate) fn is_due(&self, now: Instant, about: K) -> bool {
        let mut said = lock(&self.0);
        let is_lately = |at: &Instant| now.saturating_duration_since(*at) < PAUSE;
        if said.get(&about).is_some_and(is_lately) {
            return false;
        }
        if said.len() >= MOST {
            said.retain(|_, at| is_lately(at));
            spare_map(&mut said);
        }
        let has_room = said.len() < MOST;
        if has_room {
            said.insert(about, now);
        }
        has_room
    }
}

/// Between two lines that say the same.
const PAUSE: Duration = Duration::from_secs(60);
/// Lines a minute in all, whatever is wrong: 64 can be read, and the counters tell the rest.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_said_once_a_minute_and_so_many_in_all() {
        let notices = Notices::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (seconds, about, expected) in [
            (0, 1, true),
            (0, 1, false),
            (30, 2, true),
            (59, 1, false),
            (60, 1, true),
            (89, 2, false),
            (90, 2, true),
        ] {
            assert_eq!(notices.is_due(at(seconds), about), expected, "{seconds}");
        }
        let said = |seconds| {
            let due = (0..10_000).filter(|n| notices.is_due(at(seconds), *n));
            due.count()
        };
        assert_eq!(said(1_000), MOST);
        assert_eq!(said(1_059), 0);
        assert_eq!(said(1_060), MOST);
        assert_eq!(lock(&notices.0).len(), MOST);
    }
}
