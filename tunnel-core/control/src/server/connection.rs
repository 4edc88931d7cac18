//! Connections: each in a task of its own, as many as there may be, none for longer than it has something to say.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::patience::Patient;
use crate::{
    access::Peer,
    listen::{Connection, Listener},
    tls::Tls,
};

/// What a service may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Those of other machines: whoever is on this one, or comes by a tunnel to it, finds a place in any case.
    pub connections_from_afar: usize,
    /// Connections of one address at a time.
    pub connections_per_address: usize,
    /// Requests that are served at a time.
    pub requests: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// How long a handler may take until its answer begins.
    pub request_time: Duration,
    /// How long the head of a request, or a TLS handshake, may take to come; and how long a connection may be silent.
    pub head_time: Duration,
    /// How long the other side may take nothing of an answer.
    pub stall_time: Duration,
    /// What those who are being served have at the end.
    pub grace: Duration,
}

impl Default for Bounds {
    /// For operators and their programs, not for the public: 20 MiB at the very most.
    fn default() -> Self {
        Self {
            connections: 256,
            connections_from_afar: 192,
            connections_per_address: 64,
            requests: 64,
            body: 256 << 10,
            request_time: Duration::from_secs(30),
            head_time: Duration::from_secs(10),
            stall_time: Duration::from_secs(30),
            grace: Duration::from_secs(2),
        }
    }
}

/// Serves connections until `stop`.
pub(super) async fn serve(
    listener: Listener,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let shares = Arc::new(Shares::default());
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let mut remarked: Option<Instant> = None;
    loop {
        // A permit first: what is not accepted waits in the system's queue, which is bounded.
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if remarked.is_none_or(|at| at.elapsed() > REMARK_EACH) {
                    remarked = Some(Instant::now());
                    tracing::warn!(%error, "a connection to the API cannot be accepted");
                }
                // No descriptor is free: the next try would find none either.
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(share) = shares.take(peer, &bounds) else {
            continue;
        };
        let conversation = Conversation {
            tls: listener.tls.clone(),
            router: router.clone(),
            peer,
            bounds,
            stop: stop.clone(),
        };
        let end = end.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = conversation.run(connection) => {}
                () = end.cancelled() => {}
            }
            drop((permit, share));
        });
    }
    // Nobody new, from now on.
    drop(listener);
    tasks.close();
    if time::timeout(bounds.grace, tasks.wait()).await.is_err() {
        end.cancel();
        tasks.wait().await;
    }
}

/// One connection.
struct Conversation {
    tls: Option<Arc<Tls>>,
    router: Router,
    peer: Peer,
    bounds: Bounds,
    stop: CancellationToken,
}

impl Conversation {
    async fn run(self, connection: Connection) {
        match connection {
            Connection::Tcp(stream) => {
                limit_silence(&stream, self.bounds.stall_time);
                let Some(tls) = &self.tls else {
                    return self.speak(stream).await;
                };
                let handshake = time::timeout(self.bounds.head_time, tls.acceptor().accept(stream));
                match handshake.await {
                    Ok(Ok(stream)) => self.speak(stream).await,
                    Ok(Err(error)) => {
                        tracing::debug!(from = %self.peer, %error, "no TLS handshake")
                    }
                    Err(_) => tracing::debug!(from = %self.peer, "a TLS handshake takes too long"),
                }
            }
            #[cfg(unix)]
            Connection::Unix(stream) => self.speak(stream).await,
        }
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self {
            router,
            peer,
            bounds,
            stop,
            ..
        } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request.map(Body::new))
        });
        let stream = TokioIo::new(Patient::new(stream, bounds.stall_time));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_time)
            .max_headers(HEADERS)
            .max_buf_size(BUFFER)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(from = %peer, %error, "a connection to the API has ended");
        }
    }
}

/// Ends a connection whose other machine is gone, while something is on its way to it.
fn limit_silence(stream: &tokio::net::TcpStream, patience: Duration) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(patience)) {
        tracing::debug!(%error, "no TCP_USER_TIMEOUT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, patience);
}

/// How many connections there are of each address, and of other machines.
#[derive(Debug, Default)]
struct Shares(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    by_address: HashMap<Option<IpAddr>, usize>,
    from_afar: usize,
}

/// A connection's place; dropped, it is free.
struct Share {
    shares: Arc<Shares>,
    peer: Peer,
}

impl Shares {
    fn take(self: &Arc<Self>, peer: Peer, bounds: &Bounds) -> Option<Share> {
        let mut counts = self.counts();
        let is_afar = !peer.is_loopback();
        if is_afar && counts.from_afar >= bounds.connections_from_afar {
            return None;
        }
        let count = counts.by_address.entry(peer.network()).or_default();
        if *count >= bounds.connections_per_address {
            return None;
        }
        *count += 1;
        counts.from_afar += usize::from(is_afar);
        Some(Share {
            shares: self.clone(),
            peer,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // It is whole between any two steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.counts();
        counts.from_afar -= usize::from(!self.peer.is_loopback());
        let network = self.peer.network();
        if let Some(count) = counts.by_address.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&network);
            }
        }
    }
}

/// A head has 64 headers at most, those of proxies among them.
const HEADERS: usize = 64;
/// And 64 KiB, as has what is read of a body at a time.
const BUFFER: usize = 64 << 10;
/// How long nothing is accepted after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often such a failure is remarked.
const REMARK_EACH: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_other_machines_have_theirs_and_both_give_it_back() {
        let shares = Arc::new(Shares::default());
        let bounds = Bounds {
            connections_per_address: 2,
            connections_from_afar: 3,
            ..Bounds::default()
        };
        let take = |text: &str| shares.take(Peer::Tcp(text.parse().unwrap()), &bounds);
        let (first, second) = (take("192.0.2.1:1").unwrap(), take("192.0.2.1:2").unwrap());
        assert!(take("192.0.2.1:3").is_none());
        let other = take("192.0.2.2:1").unwrap();
        assert!(take("192.0.2.3:1").is_none());
        // Who is on this machine finds a place all the same.
        let near = [take("127.0.0.1:1").unwrap(), take("[::1]:1").unwrap()];
        drop(first);
        let third = take("192.0.2.3:1").unwrap();
        drop((second, other, near, third));
        assert!(shares.counts().by_address.is_empty());
        assert_eq!(shares.counts().from_afar, 0);
    }
}
