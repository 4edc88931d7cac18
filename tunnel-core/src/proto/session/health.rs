//! The health of services, as it stands in HEALTH.

use std::time::{Duration, Instant};

use crate::{
    health::{Health, HealthState, Report},
    instance::{InstanceId, ServiceName},
    proto::message::{HealthWord, Message, Text},
};

/// What to tell the relay of a service.
pub(super) fn message(
    now: Instant,
    instance: InstanceId,
    service: ServiceName,
    health: Option<&Health>,
) -> Message {
    let state = match health.map(|health| (health.state, health.refuses)) {
        None => HealthWord::Unchecked,
        Some((HealthState::Starting, _)) => HealthWord::Starting,
        Some((HealthState::Healthy, _)) => HealthWord::Healthy,
        Some((HealthState::Unhealthy, false)) => HealthWord::Unhealthy,
        Some((HealthState::Unhealthy, true)) => HealthWord::Refusing,
    };
    let report = health.map(|health| &health.report);
    let text = |text: &str| (!text.is_empty()).then(|| Text::new(text));
    Message::Health {
        instance,
        service,
        state,
        age: health.map_or(Duration::ZERO, |health| {
            now.saturating_duration_since(health.since)
        }),
        reason: health.and_then(|health| text(&health.reason)),
        name: report.and_then(|report| text(&report.name)),
        players: report.and_then(|report| report.players),
        max: report.and_then(|report| report.max),
        version: report.and_then(|report| text(&report.version)),
        map: report.and_then(|report| text(&report.map)),
    }
}

/// What a HEALTH says, but for which service.
pub(super) struct Told {
    pub(super) state: HealthWord,
    pub(super) age: Duration,
    pub(super) reason: Option<Text<256>>,
    pub(super) name: Option<Text<256>>,
    pub(super) players: Option<u32>,
    pub(super) max: Option<u32>,
    pub(super) version: Option<Text<256>>,
    pub(super) map: Option<Text<256>>,
}

impl Told {
    /// The health that it tells; `None` if the service is not checked.
    pub(super) fn health(self, now: Instant) -> Option<Health> {
        let (state, refuses) = match self.state {
            HealthWord::Unchecked => return None,
            HealthWord::Starting => (HealthState::Starting, false),
            HealthWord::Healthy => (HealthState::Healthy, false),
            HealthWord::Unhealthy => (HealthState::Unhealthy, false),
            HealthWord::Refusing => (HealthState::Unhealthy, true),
        };
        let text = |text: Option<Text<256>>| text.map_or(String::new(), |it| it.as_str().into());
        Some(Health {
            state,
            // A machine may not have been up for as long.
            since: now.checked_sub(self.age).unwrap_or(now),
            refuses,
            reason: text(self.reason),
            report: Report {
                name: text(self.name),
                players: self.players,
                max: self.max,
                version: text(self.version),
                map: text(self.map),
            },
        })
    }
}
