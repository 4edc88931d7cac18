//! `relay-client run`: the client itself.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use adit_daemon::{
    config::{Loaded, Remark},
    exit::Stop,
    notify,
    observe::{self, SUMMARY, Summary},
    print, runtime,
    signal::{Signal, Signals},
};
use clap::Args;
use tokio::{sync::Notify, task::spawn_blocking, time};
use tunnel_core::{client::ClientEnd, join::JoinString, proto::backoff::Backoff};

use crate::{
    config::Config,
    engine::{self, Engine, EnrolFailure},
    identity::Place,
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

async fn serve(setup: Arc<Setup>, join: Option<(Place, JoinString)>) -> Result<(), Stop> {
    let mut signals = Signals::new()?;
    if let Some((place, join)) = join {
        notify::ready(format_args!("joining {}", join.relay));
        tokio::select! {
            joined = enrol(&place, &join) => joined?,
            () = signals.stop() => return Ok(()),
        }
    }
    let mut running = warned(setup.load().map_err(Stop::invalid)?);
    let (engine, mut events) = Engine::start(&running)?;
    notify::ready(engine.status().await);
    let asked = Notify::new();
    let serving = async {
        let reloads = async {
            loop {
                asked.notified().await;
                reload(&setup, &mut running, &engine).await;
            }
        };
        let news = async {
            let mut summary = Summary::since(engine.metrics());
            let mut minute = runtime::every(SUMMARY);
            loop {
                tokio::select! {
                    _ = minute.tick() => summary.log(engine.metrics()),
                    () = observe::log_next(&mut events) => notify::status(engine.status().await),
                }
            }
        };
        let ready = async {
            engine.bound().await;
            print::announce("ready");
        };
        let (never, ..): (Infallible, Infallible, ()) = tokio::join!(reloads, news, ready);
        never
    };
    {
        // Beside the signals: what waits for a slow disk or a busy tunnel does not keep the client from ending.
        let mut serving = pin!(serving);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => asked.notify_one(),
                    Signal::Stop => break,
                },
                end = engine.finished() => return Err(match end {
                    ClientEnd::Superseded => Stop::Superseded(end.into()),
                    end => Stop::failure(end.to_string()),
                }),
                never = &mut serving => match never {},
            }
        }
    }
    tracing::info!("stopping; a second signal ends at once");
    notify::stopping();
    tokio::select! {
        () = engine.shutdown(running.grace) => Ok(()),
        () = signals.stop() => Err(Stop::failure("ended at once, at the second signal")),
    }
}

/// Joins the relay, however long it takes until it answers.
async fn enrol(place: &Place, join: &JoinString) -> Result<(), Stop> {
    let key = place.key()?;
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        match engine::enrol(join, &key).await {
            Ok(enrolled) => {
                place.keep(join, &enrolled.name, &enrolled.psk)?;
                tracing::info!(name = enrolled.name, relay = %join.relay, "joined");
                return Ok(());
            }
            Err(EnrolFailure::Final(error)) => {
                return Err(Stop::Failure(error.context(
                    "ADIT_JOIN does not hold any more (a new one: relay-server invite)",
                )));
            }
            Err(EnrolFailure::Retry(error)) => {
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

/// Takes over what the file says now; if it does not hold, what was before stays.
async fn reload(setup: &Arc<Setup>, running: &mut Config, engine: &Engine) {
    let setup = setup.clone();
    let config = match spawn_blocking(move || setup.load()).await {
        Ok(Ok(loaded)) => warned(loaded),
        Err(panic) => {
            tracing::error!("{panic}: everything stays as it was");
            return;
        }
        Ok(Err(invalid)) => {
            warn(&invalid.warnings);
            for problem in &invalid.problems {
                tracing::error!("{problem}");
            }
            tracing::error!("the configuration does not hold: everything stays as it was");
            return;
        }
    };
    if !same_identity(running, &config) {
        tracing::warn!("[client] has changed: it takes effect at the next start");
    }
    if running.limits != config.limits {
        tracing::warn!("[limits] has changed: it takes effect at the next start");
    }
    engine.set_instances(&config.instances).await;
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

fn warned(loaded: Loaded<Config>) -> Config {
    warn(&loaded.warnings);
    loaded.value
}

fn warn(warnings: &[Remark]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
