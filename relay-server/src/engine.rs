//! The relay of `tunnel_core`, as this program uses it: the one place where the two meet.

use std::{path::Path, sync::Arc, time::Duration};

use adit_daemon::{exit::Stop, notify};
use tokio::time;
use tunnel_core::{
    event::Events,
    metrics::Snapshot,
    relay::{Relay, RelayStartError},
};

use crate::{config::Config, state::StateAuthority};

/// A running relay.
pub(crate) struct Engine {
    relay: Relay,
}

impl Engine {
    /// Starts the relay, once this machine has the addresses that it is told: at boot they may still be coming up.
    pub(crate) async fn start(
        config: &Config,
        authority: Arc<StateAuthority>,
    ) -> Result<Self, Stop> {
        let mut tries: u32 = 0;
        let relay = loop {
            let builder = Relay::builder(config.key.clone(), authority.clone())
                .listen(config.listen)
                .public_bind(config.public_bind)
                .ports(config.ports.clone())
                .limits(config.limits.clone());
            match builder.start().await {
                Ok(relay) => break relay,
                Err(error) if error.is_not_there_yet() => {
                    let error = named(error, &config.path);
                    if tries.is_multiple_of(REMARK_EACH) {
                        tracing::warn!("{error}: waiting until this machine has that address");
                    }
                    notify::status(format_args!("waiting for an address: {error}"));
                    tries = tries.wrapping_add(1);
                    time::sleep(ADDRESS_LOOK).await;
                }
                Err(error) => return Err(Stop::failure(named(error, &config.path))),
            }
        };
        tracing::info!(
            listen = %relay.local_addr().unwrap_or(config.listen),
            public_key = %relay.public_key(),
            "the relay listens"
        );
        Ok(Self { relay })
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

    /// What happens; the first to ask hears what has happened since the start.
    pub(crate) fn events(&self) -> Events {
        self.relay.events()
    }

    /// The counters at this moment.
    pub(crate) fn metrics(&self) -> Snapshot {
        self.relay.metrics()
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

/// An error with the key that it is about.
fn named(error: RelayStartError, config: &Path) -> String {
    let key = match &error {
        RelayStartError::Listen { .. } => "listen",
        RelayStartError::PublicBind { .. } => "public_bind",
        _ => return error.to_string(),
    };
    format!("{key} in {}: {error}", config.display())
}

/// How often it is looked whether an address has come up.
const ADDRESS_LOOK: Duration = Duration::from_secs(1);
/// Once a minute it is said that it has not.
const REMARK_EACH: u32 = 60;
