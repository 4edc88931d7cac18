//! `relay-server run`: the relay itself.

use std::{sync::Arc, time::Duration};

use adit_daemon::{
    exit::Stop,
    log::{self, Format},
    notify,
    observe::SUMMARY,
    print, runtime,
    signal::{Signal, Signals},
};
use clap::Args;

use super::ConfigFile;
use crate::{config::Config, engine::Engine, state::StateAuthority};

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

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), Stop> {
    log::install(format);
    let loaded = Config::load(&arguments.config.path).map_err(Stop::invalid)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    runtime::raise_descriptor_limit();
    runtime::block_on(serve(loaded.value))?
}

async fn serve(config: Config) -> Result<(), Stop> {
    let mut signals = Signals::new()?;
    let mut state = State::open(&config)?;
    let mut engine = Engine::start(&config, state.authority.clone()).await?;
    if let Err(error) = print::line("ready") {
        tracing::warn!(%error, "nobody reads stdout");
    }
    notify::ready(engine.status().await);
    let mut poll = runtime::every(POLL);
    let mut summary = runtime::every(SUMMARY);
    let mut running = config;
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => reload(&mut running, &state, &engine).await,
                Signal::Stop => break,
            },
            _ = poll.tick() => state.poll().await,
            () = state.authority.changed() => engine.recheck().await,
            _ = summary.tick() => engine.summarize(),
            () = engine.next_event() => notify::status(engine.status().await),
        }
    }
    tracing::info!("stopping; a second signal ends at once");
    notify::stopping();
    tokio::select! {
        () = engine.shutdown(running.grace) => Ok(()),
        () = signals.stop() => Err(Stop::failure("ended at once, at the second signal")),
    }
}

/// Takes over what the file says now; if it does not hold, what was before stays.
async fn reload(running: &mut Config, state: &State, engine: &Engine) {
    let loaded = match Config::load(&running.path) {
        Ok(loaded) => loaded,
        Err(invalid) => {
            for problem in &invalid.problems {
                tracing::error!("{problem}");
            }
            tracing::error!("the configuration does not hold: everything stays as it was");
            return;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.value;
    for key in needs_restart(running, &config) {
        tracing::warn!("{key} has changed: it takes effect at the next start");
    }
    if state.configure(&config).await {
        engine.set_ports(&config).await;
        engine.recheck().await;
        tracing::info!(
            clients = state.authority.clients(),
            "configuration read again"
        );
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

/// The authority, from a task that must not block.
struct State {
    authority: Arc<StateAuthority>,
    /// What went wrong last, so that it is said once and not four times a second.
    failure: Option<String>,
}

impl State {
    fn open(config: &Config) -> Result<Self, Stop> {
        Ok(Self {
            authority: Arc::new(StateAuthority::open(config)?),
            failure: None,
        })
    }

    async fn poll(&mut self) {
        let authority = self.authority.clone();
        let polled = tokio::task::spawn_blocking(move || authority.poll()).await;
        let failure = match polled {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        if self.failure != failure {
            match &failure {
                Some(error) => tracing::error!("{error}; who could connect before still can"),
                None => tracing::info!("the state file can be read again"),
            }
            self.failure = failure;
        }
    }

    /// Whether it worked.
    async fn configure(&self, config: &Config) -> bool {
        let (authority, config) = (self.authority.clone(), config.clone());
        let configured = tokio::task::spawn_blocking(move || authority.configure(&config)).await;
        match configured {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!("{error}: everything stays as it was");
                false
            }
            Err(panic) => {
                tracing::error!("{panic}: everything stays as it was");
                false
            }
        }
    }
}

/// A change by another process takes effect within a second; a poll is one read of 100 bytes.
const POLL: Duration = Duration::from_millis(250);
