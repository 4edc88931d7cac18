//! What a client has told of a service's health, and whether new players are refused for it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    health::{Health, HealthState},
    instance::ServiceName,
    metrics::{Gauge, Metrics},
    proto::handshake::ProcessId,
    relay::limit::bucket::TokenBucket,
    sync::lock,
};

/// The health of a service whose ports are open. Players are held against it without a lock.
#[derive(Debug)]
pub(crate) struct ServiceHealth {
    refuses: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    /// Which service it was told of, and by which process of its client: what another one knows of it is not known yet.
    of: (ServiceName, ProcessId),
    health: Option<Health>,
    unhealthy: Option<Gauge>,
    /// How often changes are events: a client may tell of them faster than anybody reads.
    events: TokenBucket,
}

impl ServiceHealth {
    /// Nothing is known of this service of this process.
    pub(crate) fn new(name: &ServiceName, process: ProcessId) -> Self {
        Self {
            refuses: AtomicBool::new(false),
            told: Mutex::new(Told {
                of: (name.clone(), process),
                health: None,
                unhealthy: None,
                events: TokenBucket::new(EVENTS_PER_SECOND, EVENT_BURST, Instant::now()),
            }),
        }
    }

    /// Whether new players are refused.
    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// What is known.
    pub(crate) fn health(&self) -> Option<Health> {
        lock(&self.told).health.clone()
    }

    /// The service is this one of this process from now on: what was told of another is of no use.
    pub(crate) fn follow(&self, name: &ServiceName, process: ProcessId) {
        let mut told = lock(&self.told);
        let now = (name.clone(), process);
        if told.of != now {
            told.of = now;
            told.health = None;
            told.unhealthy = None;
            self.refuses.store(false, Ordering::Relaxed);
        }
    }

    /// The client tells how the service is. Returns whether the verdict has changed and is to be told.
    pub(crate) fn set(&self, metrics: &Arc<Metrics>, health: Option<Health>) -> bool {
        let mut told = lock(&self.told);
        let state = |health: &Option<Health>| health.as_ref().map(|health| health.state);
        let (before, after) = (state(&told.health), state(&health));
        let refuses = health.as_ref().is_some_and(|health| health.refuses);
        self.refuses.store(refuses, Ordering::Relaxed);
        if after != Some(HealthState::Unhealthy) {
            told.unhealthy = None;
        } else if told.unhealthy.is_none() {
            told.unhealthy = Some(Gauge::new(metrics, |m| &m.services_unhealthy));
        }
        told.health = health;
        let is_first = before.is_none() && after == Some(HealthState::Starting);
        let has_changed = before != after && after.is_some() && !is_first;
        has_changed && told.events.take(1, Instant::now())
    }
}

/// A service may change every second, and flap ten times at once; a check takes longer.
const EVENTS_PER_SECOND: u32 = 1;
const EVENT_BURST: u32 = 10;
