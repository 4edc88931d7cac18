//! `relay-server run`: the relay itself.

use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    thread,
};

use adit_daemon::{
    config::Loaded,
    exit::Stop,
    notify,
    observe::{self, SUMMARY, Summary},
    print, runtime,
    signal::{Signal, Signals},
};
use anyhow::Context;
use clap::Args;
use tokio::{sync::Notify, task::spawn_blocking};

use super::ConfigFile;
use crate::{config::Config, engine::Engine, state::{StateAuthority, watch}};

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
    let mut relay = tokio::select! {
        started = start(config) => started?,
        () = signals.stop() => return Ok(()),
    };
    print::announce("ready");
    notify::ready(relay.engine.status().await);
    let asked = Notify::new();
    {
        // Beside the signals: what waits for a slow disk or a busy relay does not keep it from ending.
        let mut serving = pin!(relay.serve(&asked));
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => asked.notify_one(),
                    Signal::Stop => break,
                },
                never = &mut serving => match never {},
            }
        }
    }
    tracing::info!("stopping; a second signal ends at once");
    notify::stopping();
    tokio::select! {
        () = relay.engine.shutdown(relay.config.grace) => Ok(()),
        () = signals.stop() => Err(Stop::failure("ended at once, at the second signal")),
    }
}

/// Opens the state file and the sockets, however long an address takes to come up.
async fn start(config: Config) -> Result<Running, Stop> {
    let own = config.clone();
    let authority = spawn_blocking(move || StateAuthority::open(&own)).await??;
    let authority = Arc::new(authority);
    let engine = Engine::start(&config, authority.clone()).await?;
    let watched = authority.clone();
    let thread = thread::Builder::new().name("state file".into());
    thread
        .spawn(move || watch::watch(&watched))
        .context("no thread for the state file is to be had")?;
    Ok(Running {
        config,
        authority,
        engine,
    })
}

/// A relay that runs, and what it runs with.
struct Running {
    config: Config,
    authority: Arc<StateAuthority>,
    engine: Engine,
}

impl Running {
    /// Does what comes up, each beside the others. `asked` asks for a reload.
    async fn serve(&mut self, asked: &Notify) -> Infallible {
        let Self {
            config,
            authority,
            engine,
        } = self;
        let rights = async {
            loop {
                authority.changed().await;
                engine.recheck().await;
            }
        };
        let reloads = async {
            loop {
                asked.notified().await;
                reload(config, authority, engine).await;
            }
        };
        let news = async {
            let mut events = engine.events();
            let mut summary = Summary::since(engine.metrics());
            let mut minute = runtime::every(SUMMARY);
            loop {
                tokio::select! {
                    _ = minute.tick() => summary.log(engine.metrics()),
                    () = observe::log_next(&mut events) => notify::status(engine.status().await),
                }
            }
        };
        tokio::join!(rights, reloads, news).0
    }
}

/// Takes over what the file says now, as a whole; if it does not hold, what was before stays, as a whole.
async fn reload(running: &mut Config, authority: &StateAuthority, engine: &Engine) {
    let path = running.path.clone();
    let config = match spawn_blocking(move || Config::load(&path)).await {
        Ok(Ok(loaded)) => warned(loaded),
        Ok(Err(invalid)) => {
            for problem in &invalid.problems {
                tracing::error!("{problem}");
            }
            tracing::error!("the configuration does not hold: everything stays as it was");
            return;
        }
        Err(panic) => {
            tracing::error!("{panic}: everything stays as it was");
            return;
        }
    };
    for key in needs_restart(running, &config) {
        tracing::warn!("{key} has changed: it takes effect at the next start");
    }
    authority.configure(&config);
    engine.set_ports(&config).await;
    engine.recheck().await;
    tracing::info!(clients = authority.clients(), "configuration read again");
    *running = Config {
        // These stay what they are, so that the next reload remarks them too.
        listen: running.listen,
        public_bind: running.public_bind,
        key: running.key.clone(),
        state_file: running.state_file.clone(),
        limits: running.limits.clone(),
        ..config
    };
}

fn warned(loaded: Loaded<Config>) -> Config {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    loaded.value
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
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key).collect()
}
