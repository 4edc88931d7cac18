//! One instance of a client, with the revisions of it that the relay may hold.

use std::time::{Duration, Instant};

use crate::{
    instance::{Instance, PortRange},
    proto::{
        backoff::Backoff,
        message::{Code, Message, Revision, ServiceDeclaration, ServiceId},
    },
};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Version,
    /// Older versions that the relay may hold until it has bound `wanted`, oldest first: their players go on.
    pub(super) earlier: Vec<Version>,
    pub(super) state: InstanceState,
    pub(super) backoff: Backoff,
    pub(super) retry_at: Option<Instant>,
}

/// One revision of an instance with the ids of its services, in their order.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) instance: Instance,
    pub(super) revision: Revision,
    pub(super) ids: Vec<ServiceId>,
    /// The relay may hold it: it was declared, and not refused since.
    pub(super) may_be_held: bool,
    /// The relay has held it, and may hold it even where it refuses to bind it anew on another tunnel.
    pub(super) was_bound: bool,
}

/// What became of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceState {
    /// Not declared yet, or not answered.
    Pending,
    /// All of its services are bound.
    #[non_exhaustive]
    Bound {
        /// The relay's ports, one range for each service, in their order.
        ports: Vec<PortRange>,
    },
    /// The relay refused it; it is tried again.
    #[non_exhaustive]
    Refused {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
}

impl InstanceState {
    /// Whether all services of the instance are bound.
    pub const fn is_bound(&self) -> bool {
        matches!(self, Self::Bound { .. })
    }
}

impl Entry {
    /// An instance that is to be declared; `before` is what was wanted of it so far.
    pub(super) fn new(wanted: Version, before: Option<Self>) -> Self {
        Self {
            wanted,
            earlier: before.map_or_else(Vec::new, Self::into_versions),
            state: InstanceState::Pending,
            backoff: Backoff::new(RETRY_LEAST, RETRY_MOST),
            retry_at: None,
        }
    }

    /// The versions that the relay may hold, oldest first.
    fn into_versions(self) -> Vec<Version> {
        let mut versions = self.earlier;
        versions.push(self.wanted);
        versions.retain(|version| version.may_be_held);
        if versions.len() > EARLIER_MAX {
            // The oldest is what the relay has bound for certain.
            versions.remove(1);
        }
        versions
    }

    pub(super) fn version(&mut self, revision: Revision) -> Option<&mut Version> {
        let versions = std::iter::once(&mut self.wanted).chain(&mut self.earlier);
        versions.into_iter().find(|it| it.revision == revision)
    }

    /// Forgets earlier versions. Returns whether there were any.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&Version) -> bool) -> bool {
        let before = self.earlier.len();
        self.earlier.retain(|version| !is_gone(version));
        self.earlier.len() != before
    }
}

impl Version {
    pub(super) fn declare(&mut self) -> Message {
        self.may_be_held = true;
        let services = self
            .ids
            .iter()
            .zip(self.instance.services())
            .map(|(id, service)| ServiceDeclaration {
                id: *id,
                name: service.name.clone(),
                protocol: service.protocol,
                public: service.public,
                optimize: service.optimize,
                redundancy: service.redundancy,
                flows: service.flows,
                tells_local: service.tells_datagrams(),
            });
        Message::Declare {
            instance: self.instance.id().clone(),
            revision: self.revision,
            services: services.collect(),
        }
    }
}

/// First wait before a refused instance is declared again: a port that another process just gave up is soon free.
const RETRY_LEAST: Duration = Duration::from_millis(500);
/// Longest wait: half a minute after the reason went away, the instance is bound.
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Versions of one instance that are kept until the relay answers: 4 changes within one round trip.
const EARLIER_MAX: usize = 4;
