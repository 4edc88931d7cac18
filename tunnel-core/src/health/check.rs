//! How a service is checked.

use std::{fmt, ops::RangeInclusive, str::FromStr, sync::Arc, time::Duration};

use crate::health::probe::Probe;

/// How the health of a service is checked, and what becomes of the service when it is unhealthy.
///
/// ```
/// use std::time::Duration;
/// use tunnel_core::{health::{HealthCheck, OnUnhealthy, TcpProbe}, instance::{Protocol, Service}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let check = HealthCheck::new(TcpProbe)
///     .with_interval(Duration::from_secs(10))?
///     .on_unhealthy(OnUnhealthy::Refuse);
/// let game = Service::new("game", Protocol::Tcp, "127.0.0.1:25565")?.with_health(check)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HealthCheck {
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) start_period: Duration,
    pub(crate) up: u32,
    pub(crate) down: u32,
    pub(crate) on_unhealthy: OnUnhealthy,
}

/// What becomes of an unhealthy service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnUnhealthy {
    /// It is shown, and players are led there all the same.
    #[default]
    Keep,
    /// The relay refuses new players; those who are there go on.
    Refuse,
}

impl HealthCheck {
    /// What [`with_interval`](Self::with_interval) may be, in seconds.
    pub const INTERVAL_SECONDS: RangeInclusive<u64> = 1..=3_600;
    /// What [`with_timeout`](Self::with_timeout) may be, in seconds.
    pub const TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=60;
    /// What [`with_start_period`](Self::with_start_period) may be, in seconds.
    pub const START_PERIOD_SECONDS: RangeInclusive<u64> = 0..=3_600;
    /// What [`with_thresholds`](Self::with_thresholds) may be.
    pub const THRESHOLD: RangeInclusive<u32> = 1..=100;

    /// Asks by this probe every 30 s, for 5 s at most. One answer makes the service healthy, three in a row that do not come make
    /// it unhealthy, and it is kept then.
    pub fn new(probe: impl Probe + 'static) -> Self {
        Self {
            probe: Arc::new(probe),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            start_period: Duration::ZERO,
            up: 1,
            down: 3,
            on_unhealthy: OnUnhealthy::Keep,
        }
    }

    /// Asks this often, in whole seconds.
    pub fn with_interval(mut self, interval: Duration) -> Result<Self, CheckError> {
        bounded("interval", interval.as_secs(), Self::INTERVAL_SECONDS)?;
        self.interval = interval;
        Ok(self)
    }

    /// Waits this long for an answer, in whole seconds.
    pub fn with_timeout(mut self, timeout: Duration) -> Result<Self, CheckError> {
        bounded("timeout", timeout.as_secs(), Self::TIMEOUT_SECONDS)?;
        self.timeout = timeout;
        Ok(self)
    }

    /// What fails this long after the start, in whole seconds, does not count.
    pub fn with_start_period(mut self, period: Duration) -> Result<Self, CheckError> {
        bounded("start_period", period.as_secs(), Self::START_PERIOD_SECONDS)?;
        self.start_period = period;
        Ok(self)
    }

    /// So many answers in a row make the service healthy, so many failures unhealthy.
    pub fn with_thresholds(mut self, up: u32, down: u32) -> Result<Self, CheckError> {
        let bounds = *Self::THRESHOLD.start() as u64..=*Self::THRESHOLD.end() as u64;
        bounded("up", up.into(), bounds.clone())?;
        bounded("down", down.into(), bounds)?;
        (self.up, self.down) = (up, down);
        Ok(self)
    }

    /// What becomes of the service when it is unhealthy.
    #[must_use]
    pub const fn on_unhealthy(mut self, on_unhealthy: OnUnhealthy) -> Self {
        self.on_unhealthy = on_unhealthy;
        self
    }

    /// How the target is asked.
    pub fn probe(&self) -> &dyn Probe {
        &*self.probe
    }

    /// How often.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// How long for an answer.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What becomes of an unhealthy service.
    pub const fn action(&self) -> OnUnhealthy {
        self.on_unhealthy
    }
}

/// Probes of one name ask alike.
impl PartialEq for HealthCheck {
    fn eq(&self, other: &Self) -> bool {
        self.probe.name() == other.probe.name()
            && self.interval == other.interval
            && self.timeout == other.timeout
            && self.start_period == other.start_period
            && (self.up, self.down) == (other.up, other.down)
            && self.on_unhealthy == other.on_unhealthy
    }
}

impl Eq for HealthCheck {}

impl FromStr for OnUnhealthy {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        match text {
            "keep" => Ok(Self::Keep),
            "refuse" => Ok(Self::Refuse),
            _ => Err(CheckError::OnUnhealthy(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for OnUnhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Refuse => "refuse",
        })
    }
}

/// Why a check of health is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A number outside its bounds.
    #[error("health: {name} = {value} is outside {low} to {high}")]
    OutOfBounds {
        /// The setting.
        name: &'static str,
        /// What was written.
        value: u64,
        /// The least allowed.
        low: u64,
        /// The most allowed.
        high: u64,
    },
    /// Neither `keep` nor `refuse`. At most 80 characters of it.
    #[error("unknown on_unhealthy {0:?}: expected keep or refuse")]
    OnUnhealthy(String),
    /// Not a path of HTTP. At most 80 characters of it.
    #[error("health: {0:?} is no path: expected one such as /health, without spaces")]
    Path(String),
    /// Not a status of HTTP.
    #[error("health: {0} is no status: expected 100 to 599")]
    Status(u16),
    /// A datagram that is empty or too long.
    #[error("health: what is sent has 1 to 1,200 bytes, and what is expected at most 1,200")]
    Datagram,
}

fn bounded(name: &'static str, value: u64, bounds: RangeInclusive<u64>) -> Result<(), CheckError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(CheckError::OutOfBounds {
        name,
        value,
        low: *bounds.start(),
        high: *bounds.end(),
    })
}
