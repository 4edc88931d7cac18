//! The client of `tunnel_core`, as this program uses it: the one place where the two meet.

use std::time::Duration;

use tunnel_core::{
    client::{self, Client, ClientEnd, ClientStartError, Enrolled},
    event::Events,
    instance::Instance,
    join::JoinString,
    key::SecretKey,
    metrics::Snapshot,
    proto::session::client::InstanceState,
};

use crate::config::Config;

/// Why a client could not enrol.
#[derive(Debug)]
pub(crate) enum EnrolFailure {
    /// Trying again changes nothing.
    Final(anyhow::Error),
    /// The relay could not be asked, or could not answer, at the moment.
    Retry(anyhow::Error),
}

impl EnrolFailure {
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Final(error) | Self::Retry(error) => error,
        }
    }
}

/// Enrols a key by a join string: one try.
pub(crate) async fn enrol(join: &JoinString, key: &SecretKey) -> Result<Enrolled, EnrolFailure> {
    client::enrol(join, key).await.map_err(|error| {
        if error.is_temporary() {
            EnrolFailure::Retry(error.into())
        } else {
            EnrolFailure::Final(error.into())
        }
    })
}

/// A running client.
pub(crate) struct Engine {
    client: Client,
}

impl Engine {
    /// Starts the client. What happens to it comes by itself, so that it can be waited for beside the rest.
    pub(crate) fn start(config: &Config) -> Result<(Self, Events), ClientStartError> {
        let client = Client::builder(config.identity.clone())
            .instances(config.instances.clone())
            .limits(config.limits.clone())
            .start()?;
        tracing::info!(
            relay = %config.identity.relay,
            public_key = %config.identity.secret_key.public_key(),
            instances = config.instances.len(),
            "the client runs"
        );
        let events = client.events();
        Ok((Self { client }, events))
    }

    /// One line for `systemctl status`.
    pub(crate) async fn status(&self) -> String {
        let status = self.client.status().await;
        let instances = &status.instances;
        let bound = instances
            .iter()
            .filter(|(_, state)| *state == InstanceState::Bound);
        let tunnel = match status.transport {
            Some(transport) => format!("connected over {transport}"),
            None => "not connected".into(),
        };
        let mut line = format!(
            "{tunnel}, {} of {} instances bound",
            bound.count(),
            instances.len()
        );
        for (instance, state) in instances {
            if let InstanceState::Refused { text, .. } = state {
                line.push_str(&format!("; {} refused: {text}", instance.id()));
            }
        }
        line
    }

    /// Waits until every service is bound. Cancel safe.
    pub(crate) async fn bound(&self) {
        self.client.bound().await;
    }

    /// Waits until the client has ended by itself. Cancel safe.
    pub(crate) async fn finished(&self) -> ClientEnd {
        self.client.finished().await
    }

    /// The counters at this moment.
    pub(crate) fn metrics(&self) -> Snapshot {
        self.client.metrics()
    }

    /// Changes what is exposed; only what differs is touched.
    pub(crate) async fn set_instances(&self, instances: &[Instance]) {
        self.client.set_instances(instances.to_vec()).await;
    }

    /// Takes no new players, and ends when those who are there have left or the grace is over.
    pub(crate) async fn shutdown(self, grace: Duration) {
        self.client.shutdown(grace).await;
    }
}
