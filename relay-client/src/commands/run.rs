//! `relay-client run`: the client itself.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use adit_daemon::{
    exit::Stop,
    notify, observe, print, runtime,
    service::{self, warned},
    signal::Signals,
};
use clap::Args;
use tokio::{sync::Notify, time};
use tunnel_core::{
    client::{self, Client, ClientEnd, ClientStartError, InstanceState},
    join::JoinString,
    proto::backoff::Backoff,
};

use crate::{
    config::Config,
    identity::IdentityDir,
    setup::{ENVIRONMENT_HELP, Environment, Options, Setup},
};

/// Run the client until SIGTERM or SIGINT; SIGHUP reads the configuration again.
///
/// stdout carries the line "ready" once all services are bound; logs go to stderr, filtered by RUST_LOG.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{ENVIRONMENT_HELP}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
Examples:
  relay-client run --config /var/lib/adit/client.toml
  relay-client run --config client.toml --expose both:7777=srv_123:7777 --expose udp:15000,name=beacon
  ADIT_JOIN='adit://…' ADIT_EXPOSE='both:7777=srv_123:7777' relay-client run";

pub(super) fn run(arguments: &Arguments) -> Result<(), Stop> {
    let (setup, join) = Setup::new(&arguments.options, Environment::read()?)?;
    // Before anything is joined: a wrong SPEC must not cost a token.
    setup.load_exposed().map_err(Stop::invalid)?;
    runtime::raise_descriptor_limit();
    runtime::block_on(serve(setup.into(), join))?
}

async fn serve(setup: Arc<Setup>, join: Option<(IdentityDir, JoinString)>) -> Result<(), Stop> {
    let mut signals = Signals::new()?;
    if let Some((identity, join)) = join {
        notify::ready(format_args!("joining {}", join.relay));
        tokio::select! {
            joined = enrol(&identity, &join) => joined?,
            () = signals.stop() => return Ok(()),
        }
    }
    let mut running = warned(setup.load().map_err(Stop::invalid)?);
    let client = start(&running)?;
    // Taken at once, so that nothing that happens is missed.
    let mut events = client.events();
    notify::ready(status(&client).await);
    let reload = Notify::new();
    let serving = async {
        let reloads = async {
            loop {
                reload.notified().await;
                read_again(&setup, &mut running, &client).await;
            }
        };
        let report = observe::report(
            &mut events,
            || client.metrics(),
            async || status(&client).await,
        );
        let ready = async {
            bound(&client).await;
            print::announce("ready");
        };
        let serve = async { tokio::join!(reloads, report, ready) };
        tokio::select! {
            end = client.finished() => end,
            never = serve => {
                let (never, ..): (Infallible, Infallible, ()) = never;
                match never {}
            }
        }
    };
    if let Some(end) = service::until_stopped(&mut signals, &reload, serving).await {
        return Err(match end {
            ClientEnd::Superseded => Stop::Superseded(end.into()),
            end => Stop::failure(end.to_string()),
        });
    }
    service::shut_down(&mut signals, client.shutdown(running.grace)).await
}

fn start(config: &Config) -> Result<Client, ClientStartError> {
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
    Ok(client)
}

/// One line for `systemctl status`.
async fn status(client: &Client) -> String {
    let status = match client.status().await {
        Ok(status) => status,
        Err(end) => return end.to_string(),
    };
    let instances = &status.instances;
    let bound = instances.iter().filter(|(_, state)| state.is_bound());
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

/// Waits until every service is bound, however often the relay refuses one: what it permits may change.
async fn bound(client: &Client) {
    let mut events = client.events();
    while client.bound().await.is_err() {
        drop(events.next().await);
        // The main task answers once it has done what the event tells of.
        drop(client.status().await);
    }
}

/// Joins the relay, however long it takes until it answers.
async fn enrol(identity: &IdentityDir, join: &JoinString) -> Result<(), Stop> {
    let key = identity.key()?;
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        match client::enrol(join, &key).await {
            Ok(enrolled) => {
                identity.keep(join, &enrolled.name, &enrolled.psk)?;
                tracing::info!(name = enrolled.name, relay = %join.relay, "joined");
                return Ok(());
            }
            Err(error) if !error.is_temporary() => {
                let error = anyhow::Error::new(error);
                return Err(Stop::Failure(error.context(
                    "ADIT_JOIN does not hold any more (a new one: relay-server invite)",
                )));
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                let wait = backoff.next(random());
                tracing::warn!(
                    "the relay {} cannot be joined: {error:#}; next try in {:.1} s",
                    join.relay,
                    wait.as_secs_f64()
                );
                time::sleep(wait).await;
            }
        }
    }
}

/// Takes over what the file says now; if it is invalid, what was before stays.
async fn read_again(setup: &Arc<Setup>, running: &mut Config, client: &Client) {
    let setup = setup.clone();
    let Some(config) = service::reload(move || setup.load()).await else {
        return;
    };
    if !same_identity(running, &config) {
        tracing::warn!("[client] has changed: it takes effect at the next start");
    }
    if running.limits != config.limits {
        tracing::warn!("[limits] has changed: it takes effect at the next start");
    }
    if let Err(end) = client.set_instances(config.instances.clone()).await {
        return tracing::error!("{end}: the configuration is of no more use");
    }
    tracing::info!(
        instances = config.instances.len(),
        "configuration read again"
    );
    running.instances = config.instances;
    running.grace = config.grace;
}

/// A random number, good enough to spread tries.
fn random() -> u64 {
    // The standard library seeds its hashers with the operating system's randomness.
    RandomState::new().hash_one(())
}

/// A relay that restarts is back within a second or two.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A dead network is asked every minute at least, so that a node is back soon after it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn same_identity(a: &Config, b: &Config) -> bool {
    let (a, b) = (&a.identity, &b.identity);
    a.relay == b.relay
        && a.relay_public_key == b.relay_public_key
        && a.secret_key.public_key() == b.secret_key.public_key()
        && a.psk == b.psk
}
