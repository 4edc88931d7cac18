//! Wall-clock time, as the state file keeps it: seconds since 1970. It may jump, in both directions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnixTime(pub(crate) i64);

impl UnixTime {
    /// What the clock says; 0 if it stands before 1970.
    pub(crate) fn now() -> Self {
        SystemTime::now().into()
    }

    /// Later by `duration`, at most the end of time.
    pub(crate) fn after(self, duration: Duration) -> Self {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(seconds))
    }

    /// Earlier by `duration`, at least the beginning of time.
    pub(crate) fn before(self, duration: Duration) -> Self {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(seconds))
    }

    /// As RFC 3339 has it, `2026-01-31T12:00:00Z`; times outside the years 1970 to 9999 show the nearest end.
    pub(crate) fn rfc3339(self) -> String {
        let seconds = self.0.clamp(0, YEAR_9999).unsigned_abs();
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        }))
    }
}

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const YEAR_9999: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_panics() {
        assert_eq!(UnixTime(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixTime(i64::MIN).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixTime(i64::MAX).rfc3339(), "9999-12-31T23:59:59Z");
        assert_eq!(UnixTime(5).after(Duration::MAX), UnixTime(i64::MAX));
        assert!(UnixTime(5).before(Duration::MAX) < UnixTime(0));
    }
}
