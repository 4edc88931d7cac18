//! Sessions of a browser: a cookie stands for a token, which the browser need not keep.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::token::{Secret, SecretError, TokenDigest};

/// The sessions that are open, in memory: a restart ends them.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<TokenDigest, Session>>);

#[derive(Debug)]
struct Session {
    /// Whose it is: it ends with that token.
    token: TokenDigest,
    opened: Instant,
    used: Instant,
}

impl Session {
    fn is_open(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.opened) < LONGEST
            && now.saturating_duration_since(self.used) < IDLE
    }
}

impl Sessions {
    /// Opens a session for the holder of a token; returns what its cookie says.
    pub(super) fn open(&self, token: TokenDigest, now: Instant) -> Result<Secret, SecretError> {
        let secret = Secret::generate()?;
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.is_open(now));
        for bound in [
            Bound {
                of: Some(token),
                most: MOST_PER_TOKEN,
            },
            Bound {
                of: None,
                most: MOST,
            },
        ] {
            bound.make_room(&mut sessions);
        }
        let session = Session {
            token,
            opened: now,
            used: now,
        };
        sessions.insert(secret.digest(), session);
        Ok(secret)
    }

    /// The token that a session stands for.
    pub(super) fn token(&self, session: &TokenDigest, now: Instant) -> Option<TokenDigest> {
        let mut sessions = self.sessions();
        let session = sessions
            .get_mut(session)
            .filter(|session| session.is_open(now))?;
        session.used = now;
        Some(session.token)
    }

    /// Ends a session.
    pub(super) fn close(&self, session: &TokenDigest) {
        self.sessions().remove(session);
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<TokenDigest, Session>> {
        // It is a whole map between any two steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many sessions there may be, of one token or of all.
struct Bound {
    of: Option<TokenDigest>,
    most: usize,
}

impl Bound {
    /// The one that was not used for longest makes room for the next.
    fn make_room(&self, sessions: &mut HashMap<TokenDigest, Session>) {
        let counted = |session: &Session| self.of.is_none_or(|token| session.token == token);
        if sessions.values().filter(|session| counted(session)).count() < self.most {
            return;
        }
        let oldest = sessions
            .iter()
            .filter(|(_, session)| counted(session))
            .min_by_key(|(_, session)| session.used)
            .map(|(digest, _)| *digest);
        if let Some(oldest) = oldest {
            sessions.remove(&oldest);
        }
    }
}

/// A session ends after twelve hours: a long day.
pub(super) const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// And an hour after it was used last.
const IDLE: Duration = Duration::from_secs(3600);
/// 1,024 sessions are 100 KiB.
const MOST: usize = 1024;
/// A person has a few browsers; who opens more loses the oldest, and nobody else's.
const MOST_PER_TOKEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u8) -> TokenDigest {
        TokenDigest::from([n; 32])
    }

    #[test]
    fn a_session_ends_with_disuse_with_its_day_and_by_request() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let open = |at| sessions.open(token(1), at).unwrap().digest();
        let idle = open(start);
        assert_eq!(sessions.token(&idle, start + IDLE / 2), Some(token(1)));
        assert_eq!(sessions.token(&idle, start + IDLE / 2 + IDLE), None);
        let long = open(start);
        let mut now = start;
        while now + IDLE / 2 < start + LONGEST {
            now += IDLE / 2;
            assert_eq!(sessions.token(&long, now), Some(token(1)));
        }
        assert_eq!(sessions.token(&long, start + LONGEST), None);
        let closed = open(start);
        sessions.close(&closed);
        assert_eq!(sessions.token(&closed, start), None);
    }

    #[test]
    fn one_token_takes_no_session_of_another() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let quiet = sessions.open(token(1), now).unwrap().digest();
        let first = sessions.open(token(2), now).unwrap().digest();
        for _ in 0..MOST {
            sessions
                .open(token(2), now + Duration::from_secs(1))
                .unwrap();
        }
        assert_eq!(sessions.sessions().len(), 1 + MOST_PER_TOKEN);
        assert_eq!(sessions.token(&quiet, now), Some(token(1)));
        assert_eq!(sessions.token(&first, now), None);
    }
}
