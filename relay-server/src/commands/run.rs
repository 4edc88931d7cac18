//! `relay-server run`: the relay itself.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use adit_control::events::Ring;
use adit_daemon::{
    exit::Stop,
    notify, observe, print, runtime,
    service::{self, warned},
    signal::Signals,
};
use anyhow::Context;
use arc_swap::ArcSwap;
use clap::Args;
use tokio::{sync::Notify, task::spawn_blocking, time};
use tunnel_core::{
    event::Events,
    relay::{Relay, RelayStartError},
};

use super::config_file::ConfigFile;
use crate::{
    admin::{Admin, Desk, Said, Shared},
    config::Config,
    state::{StateAuthority, watch},
};

/// Run the relay until SIGTERM or SIGINT; SIGHUP reads the configuration again.
///
/// stdout carries the line "ready" once the relay listens; logs go to stderr, filtered by RUST_LOG.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  relay-server run --config /etc/adit/relay.toml")]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Stop> {
    let loaded = Config::load(&arguments.config.path).map_err(Stop::invalid)?;
    runtime::raise_descriptor_limit();
    runtime::block_on(serve(warned(loaded)))?
}

async fn serve(config: Config) -> Result<(), Stop> {
    let mut signals = Signals::new()?;
    let mut running = tokio::select! {
        started = Running::start(config) => started?,
        () = signals.stop() => return Ok(()),
    };
    print::announce("ready");
    notify::ready(status(&running.relay).await);
    let reload = Notify::new();
    service::until_stopped(&mut signals, &reload, running.serve(&reload)).await;
    service::shut_down(&mut signals, running.end()).await
}

/// A relay that runs, and what it runs with.
struct Running {
    config: Arc<ArcSwap<Config>>,
    authority: Arc<StateAuthority>,
    relay: Arc<Relay>,
    /// The engine's events, from the first on.
    events: Events,
    /// What the API tells of them.
    ring: Ring,
    desk: Arc<Desk>,
    admin: Option<Admin>,
}

impl Running {
    /// Opens the state file and the sockets, however long an address takes to come up.
    async fn start(config: Config) -> Result<Self, Stop> {
        let own = config.clone();
        let authority = spawn_blocking(move || StateAuthority::open(&own)).await??;
        let authority = Arc::new(authority);
        let own = config.clone();
        let said = spawn_blocking(move || Said::load(&own)).await??;
        let relay = Arc::new(start(&config, authority.clone(), &said).await?);
        watch::start(authority.clone()).context("no thread for the state file is to be had")?;
        let config = Arc::new(ArcSwap::from_pointee(config));
        // The log first: what has happened before is told to the first who asks.
        let events = relay.events();
        let ring = Ring::of_this_process();
        let desk = Desk::new(relay.clone(), config.clone(), ring.clone(), said);
        let admin = match &config.load().admin {
            Some(admin) => {
                let shared = Shared {
                    config: config.clone(),
                    authority: authority.clone(),
                    relay: relay.clone(),
                    desk: desk.clone(),
                    events: ring.clone(),
                };
                Some(Admin::start(admin, shared, relay.events()).await?)
            }
            None => None,
        };
        Ok(Self {
            config,
            authority,
            relay,
            events,
            ring,
            desk,
            admin,
        })
    }

    /// Does what comes up, each beside the others. `reload` asks for a reload.
    async fn serve(&mut self, reload: &Notify) -> Infallible {
        let Self {
            config,
            authority,
            relay,
            events,
            ring,
            desk,
            admin,
        } = self;
        let rights = async {
            loop {
                authority.changed().await;
                relay.recheck().await;
            }
        };
        let reloads = async {
            loop {
                reload.notified().await;
                if read_again(config, authority, relay).await {
                    ring.publish("configuration_applied", &());
                }
                if let Some(admin) = admin {
                    admin.reload().await;
                }
            }
        };
        let report = observe::report(events, || relay.metrics(), async || status(relay).await);
        tokio::join!(rights, reloads, report, desk.expire()).0
    }

    /// Ends in peace: the API last, so that the end can be watched.
    async fn end(self) {
        let grace = self.config.load().grace;
        if let Some(admin) = &self.admin {
            admin.drain();
        }
        self.relay.shutdown(grace).await;
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
    }
}

/// Starts the relay, once this machine has the addresses that it is told: at boot they may still be coming up.
async fn start(
    config: &Config,
    authority: Arc<StateAuthority>,
    said: &Said,
) -> Result<Relay, Stop> {
    let mut tries: u32 = 0;
    let relay = loop {
        let builder = Relay::builder(config.key.clone(), authority.clone())
            .listen(config.listen)
            .public_bind(config.public_bind)
            .ports(config.ports.clone())
            .trusted_proxies(config.trusted_proxies.clone())
            .operator(said.for_start())
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
    Ok(relay)
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

/// One line for `systemctl status`.
async fn status(relay: &Relay) -> String {
    let status = match relay.status().await {
        Ok(status) => status,
        Err(ended) => return ended.to_string(),
    };
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

/// Takes over what the file says now, as a whole; if it is invalid, what was before stays, as a whole. Whether it was valid.
async fn read_again(running: &ArcSwap<Config>, authority: &StateAuthority, relay: &Relay) -> bool {
    let before = running.load_full();
    let path = before.path.clone();
    let Some(config) = service::reload(move || Config::load(&path)).await else {
        return false;
    };
    for key in needs_restart(&before, &config) {
        tracing::warn!("{key} has changed: it takes effect at the next start");
    }
    authority.configure(&config);
    relay.set_ports(config.ports.clone()).await;
    relay.set_trusted_proxies(config.trusted_proxies.clone());
    relay.recheck().await;
    tracing::info!(clients = authority.clients(), "configuration read again");
    running.store(Arc::new(Config {
        // These stay what they are, so that the next reload remarks them too.
        listen: before.listen,
        public_bind: before.public_bind,
        key: before.key.clone(),
        state_file: before.state_file.clone(),
        limits: before.limits.clone(),
        admin: before.admin.clone(),
        ..config
    }));
    true
}

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("listen", old.listen != new.listen),
        ("public_bind", old.public_bind != new.public_bind),
        (
            "private_key_file",
            old.key.public_key() != new.key.public_key(),
        ),
        ("state_file", old.state_file != new.state_file),
        ("[limits]", old.limits != new.limits),
        ("[admin]", admin_differs(old, new)),
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key).collect()
}

/// Whether the API would be another one; its tokens and certificates are taken over as they are.
fn admin_differs(old: &Config, new: &Config) -> bool {
    match (&old.admin, &new.admin) {
        (Some(old), Some(new)) => old.needs_restart(new),
        (None, None) => false,
        _ => true,
    }
}
