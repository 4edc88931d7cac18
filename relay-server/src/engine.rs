//! The relay of `tunnel_core`, as this program uses it: the one place where the two meet.

use std::{sync::Arc, time::Duration};

use adit_daemon::observe::{self, Summary};
use tunnel_core::{
    event::Events,
    relay::{Relay, RelayStartError},
};

use crate::{config::Config, state::StateAuthority};

/// A running relay.
pub(crate) struct Engine {
    relay: Relay,
    events: Events,
    summary: Summary,
}

impl Engine {
    pub(crate) async fn start(
        config: &Config,
        authority: Arc<StateAuthority>,
    ) -> Result<Self, RelayStartError> {
        let relay = Relay::builder(config.key.clone(), authority)
            .listen(config.listen)
            .public_bind(config.public_bind)
            .ports(config.ports.clone())
            .limits(config.limits.clone())
            .start()
            .await?;
        tracing::info!(
            listen = %relay.local_addr().unwrap_or(config.listen),
            public_key = %relay.public_key(),
            "the relay listens"
        );
        Ok(Self {
            events: relay.events(),
            summary: Summary::since(relay.metrics()),
            relay,
        })
    }

    /// One line for `systemctl status`.
    pub(crate) async fn status(&self) -> String {
        let status = self.relay.status().await;
        let connected = status
            .clients
            .iter()
            .filter(|client| client.transport.is_some());
        let instances = status.clients.iter().map(|client| client.instances.len());
        format!(
            "{} clients connected, {} instances bound",
            connected.count(),
            instances.sum::<usize>()
        )
    }

    /// Logs the next event. Cancel safe.
    pub(crate) async fn next_event(&mut self) {
        observe::log_next(&mut self.events).await;
    }

    /// Logs the counters if any has moved since the last time.
    pub(crate) fn summarize(&mut self) {
        self.summary.log(self.relay.metrics());
    }

    /// Ends the tunnels of clients that may not connect any more.
    pub(crate) async fn recheck(&self) {
        self.relay.recheck().await;
    }

    /// What clients may be given at all has changed.
    pub(crate) async fn set_ports(&self, config: &Config) {
        self.relay.set_ports(config.ports.clone()).await;
    }

    /// Takes no new players, and ends when those who are there have left or the grace is over.
    pub(crate) async fn shutdown(self, grace: Duration) {
        self.relay.shutdown(grace).await;
    }
}
