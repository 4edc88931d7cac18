//! The API's life: it listens, serves in a thread of its own, and ends with the relay.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use adit_control::{
    access::{Access, Tokens},
    events::Ring,
    listen::{Address, ListenError, Listener},
    prometheus,
    server::Server,
    tls::Tls,
};
use adit_daemon::{exit::Stop, log, runtime};
use anyhow::Context;
use tokio::{sync::oneshot, task::spawn_blocking, time};
use tokio_util::sync::CancellationToken;
use tunnel_core::event::Events;

use super::{events, routes, shared::Shared};
use crate::config::AdminConfig;

/// The API, while the relay runs.
pub(crate) struct Admin {
    events: Ring,
    tls: Option<Arc<Tls>>,
    is_ready: Arc<AtomicBool>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Admin {
    /// Listens and serves. An address that this machine does not have yet is waited for, beside the relay; any other failure is
    /// an error.
    pub(crate) async fn start(
        config: &AdminConfig,
        shared: Shared,
        told: Events,
    ) -> Result<Self, Stop> {
        let tls = match config.tls.clone() {
            Some((certificate, key)) => {
                let loaded = spawn_blocking(move || Tls::load(&certificate, &key)).await?;
                Some(loaded.context("[admin]")?)
            }
            None => None,
        };
        if shared.authority.tokens().is_empty() {
            tracing::warn!("nobody can use the API yet: relay-server tokens create makes a token");
        }
        let is_ready = Arc::new(AtomicBool::new(true));
        let events = shared.events.clone();
        let stop = CancellationToken::new();
        let (bound, is_bound) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let door = Door {
            address: config.listen.clone(),
            tls: tls.clone(),
            stop: stop.clone(),
        };
        let server = server(config, shared, is_ready.clone());
        let ring = events.clone();
        let task = async move || {
            let serve = async {
                if let Some(listener) = door.listen(bound).await {
                    server.serve(listener, door.stop).await;
                }
            };
            let tell = async {
                events::tell(told, &ring).await;
                future::pending().await
            };
            tokio::select! {
                () = serve => {}
                () = tell => {}
            }
            drop(end);
        };
        runtime::beside("admin", task).context("no thread for the API is to be had")?;
        match is_bound.await {
            Ok(outcome) => outcome.context("listen in [admin]")?,
            Err(_) => return Err(Stop::failure("the API has ended before it began")),
        }
        Ok(Self {
            events,
            tls,
            is_ready,
            stop,
            ended,
        })
    }

    /// Reads the certificate again.
    pub(crate) async fn reload(&self) {
        let Some(tls) = self.tls.clone() else {
            return;
        };
        match spawn_blocking(move || tls.reload()).await {
            Ok(Ok(())) => tracing::info!("the certificate of the API was read again"),
            Ok(Err(error)) => tracing::error!("{error}: the certificate before it stays"),
            Err(panic) => tracing::error!(%panic, "the certificate could not be read again"),
        }
    }

    /// The relay takes no new players from now on: who asks whether it is ready hears no.
    pub(crate) fn drain(&self) {
        self.is_ready.store(false, Ordering::Relaxed);
    }

    /// Ends, with those who are being served.
    pub(crate) async fn stop(self) {
        self.drain();
        self.events.close();
        self.stop.cancel();
        // Longer than requests have at the end; a disk that hangs holds nothing up.
        if time::timeout(END, self.ended).await.is_err() {
            tracing::warn!("the API does not end: it is left");
        }
    }
}

/// Where the API listens.
struct Door {
    address: Address,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
}

impl Door {
    /// Listens, as soon as this machine has the address; `None` if it cannot, or is not to any more. `bound` is told whether
    /// the relay goes on.
    async fn listen(&self, bound: oneshot::Sender<Result<(), ListenError>>) -> Option<Listener> {
        let mut bound = Some(bound);
        let mut tries: u32 = 0;
        loop {
            let outcome = Listener::bind(&self.address, self.tls.clone());
            let (told, listener) = match outcome {
                Ok(listener) => {
                    let scheme = if self.tls.is_some() { " with TLS" } else { "" };
                    tracing::info!("the API listens on {}{scheme}", self.address);
                    (Ok(()), Some(listener))
                }
                Err(error) if error.is_not_there_yet() => {
                    if tries.is_multiple_of(REMARK_EACH) {
                        tracing::warn!(
                            "listen in [admin]: {error}: waiting until this machine has it"
                        );
                    }
                    tries = tries.wrapping_add(1);
                    (Ok(()), None)
                }
                Err(error) => {
                    tracing::error!("listen in [admin]: {error}");
                    let waiting = bound.take();
                    // Nobody waits once the relay goes on: then the log has it.
                    if let Some(waiting) = waiting {
                        drop(waiting.send(Err(error)));
                    }
                    return None;
                }
            };
            if let Some(waiting) = bound.take() {
                drop(waiting.send(told));
            }
            if listener.is_some() {
                return listener;
            }
            tokio::select! {
                () = time::sleep(ADDRESS_LOOK) => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

fn server(config: &AdminConfig, shared: Shared, is_ready: Arc<AtomicBool>) -> Server {
    let access = Access::new(shared.authority.clone())
        .allow_query_token(config.allow_query_token)
        .hosts(config.hosts.iter().map(String::as_str));
    let relay = shared.relay.clone();
    let counters = move || {
        let mut counters = relay.metrics();
        counters.log_lines_lost = log::lost();
        prometheus::text(prometheus::families(&counters)).ok()
    };
    Server::new("Adit relay", access, shared.authority.clone())
        .health(move || is_ready.load(Ordering::Relaxed))
        .metrics(counters)
        .api(routes::all(shared))
}

/// How often it is looked whether an address has come up.
const ADDRESS_LOOK: Duration = Duration::from_secs(1);
/// Once a minute it is said that it has not.
const REMARK_EACH: u32 = 60;
/// What the API has at the end: a second more than its requests.
const END: Duration = Duration::from_secs(3);
