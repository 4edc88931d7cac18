//! Opens the public ports of a service, all or none, and starts the tasks that serve them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Instant,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    proto::message::Code,
    relay::{
        directory::{FlowService, FlowShard},
        entrance::Entrance,
        ingress::{
            health::ServiceHealth,
            players::Streams,
            service::{OpenSockets, PublicService, Route, pause},
            shard::UdpShard,
            tcp::{self, Listener},
        },
        registry::Binding,
        shared::Shared,
    },
    socket,
    tunnel::supervise::supervise,
};

/// The sockets of a service, open but not served yet: an instance is bound all or nothing.
#[derive(Debug)]
pub(crate) struct OpenPorts {
    tcp: Vec<std::net::TcpListener>,
    /// For each shard, a socket for each port.
    udp: Vec<Vec<std::net::UdpSocket>>,
    /// Permits for the sockets of all shards but the first.
    shards: Option<OwnedSemaphorePermit>,
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{protocol} port {port}: {error}")]
pub(crate) struct OpenError {
    pub(crate) port: u16,
    protocol: &'static str,
    #[source]
    error: io::Error,
}

impl OpenError {
    /// The code that the client is told.
    pub(crate) fn code(&self) -> Code {
        match self.error.kind() {
            io::ErrorKind::AddrInUse => Code::PortInUse,
            io::ErrorKind::PermissionDenied => Code::PrivilegedPort,
            _ if socket::is_exhausted(&self.error) => Code::Limit,
            _ => Code::Internal,
        }
    }
}

impl OpenPorts {
    /// Opens every port of a binding, or none, its UDP ports with as many sockets as `sharding` grants. Yields to other tasks
    /// every few ports.
    pub(crate) async fn open(
        bind: IpAddr,
        binding: &Binding,
        sharding: &Sharding,
    ) -> Result<Self, OpenError> {
        let (shards, permit) = sharding.shards_of(binding);
        let mut open = Self {
            tcp: Vec::new(),
            udp: (0..shards).map(|_| Vec::new()).collect(),
            shards: permit,
        };
        for (at, port) in binding.public.ports().enumerate() {
            pause(at).await;
            let address = SocketAddr::new(bind, port);
            if binding.tcp {
                let listener = socket::listen_players(address).map_err(|error| OpenError {
                    port,
                    protocol: "TCP",
                    error,
                })?;
                open.tcp.push(listener);
            }
            if binding.udp {
                let shards = open.udp.len();
                let sockets = socket::bind_udp_shards(address, shards);
                let sockets = sockets.map_err(|error| OpenError {
                    port,
                    protocol: "UDP",
                    error,
                })?;
                if sockets.len() < shards {
                    // The system has no more: all ports make do with one.
                    open.udp.truncate(1);
                    open.udp.iter().flatten().for_each(socket::share_no_more);
                }
                for (shard, udp) in open.udp.iter_mut().zip(sockets) {
                    socket::grow_buffers(&udp, socket::PUBLIC_BUFFER);
                    shard.push(udp);
                }
            }
        }
        Ok(open)
    }

    /// Serves the ports until the service is cancelled.
    pub(crate) async fn serve(
        self,
        shared: &Arc<Shared>,
        binding: Binding,
        route: Arc<Route>,
        entrance: Entrance,
    ) -> io::Result<Arc<PublicService>> {
        let limits = route.service.flows;
        let cancelled = CancellationToken::new();
        let (owner, directory) = (route.tunnel.client, route.tunnel.flows.clone());
        let service = Arc::new(PublicService {
            health: ServiceHealth::new(&route.service.name, route.tunnel.process),
            binding,
            owner,
            route: watch::Sender::new(Some(route)),
            listening: cancelled.child_token(),
            cancelled,
            closed: CancellationToken::new(),
            entrance,
            streams: Streams::default(),
            unproved: Mutex::new(shared.config.limits.unproved()),
            began: Instant::now(),
            flows: Arc::new(shared.directories.counts(&directory)),
            udp: OnceLock::new(),
        });
        // What is served already ends if the rest fails, and its ports are free again.
        let undo = service.cancelled.clone().drop_guard();
        let open = Arc::new(OpenSockets {
            _closed: service.closed.clone().drop_guard(),
            _shards: self.shards,
        });
        serve_tcp(shared, &service, self.tcp, &open).await?;
        if service.binding.udp {
            let own: Weak<dyn FlowService> = Arc::<PublicService>::downgrade(&service);
            directory.note(own);
            let shards = self.udp.into_iter().map(|sockets| {
                let (shared, service) = (shared.clone(), service.clone());
                UdpShard::new(shared, service, sockets, limits, open.clone()).map(Arc::new)
            });
            let shards = shards.collect::<io::Result<Vec<_>>>()?;
            drop(open);
            serve_udp(&service, shards).await;
        }
        undo.disarm();
        Ok(service)
    }
}

/// Starts a task for each TCP port of a service.
async fn serve_tcp(
    shared: &Arc<Shared>,
    service: &Arc<PublicService>,
    listeners: Vec<std::net::TcpListener>,
    open: &Arc<OpenSockets>,
) -> io::Result<()> {
    for (index, listener) in listeners.into_iter().enumerate() {
        pause(index).await;
        let listener = Arc::new(Listener {
            io: tokio::net::TcpListener::from_std(listener)?,
            _open: open.clone(),
        });
        let (shared, service) = (shared.clone(), service.clone());
        supervise(
            shared.reporter(),
            service.listening.clone(),
            format!("TCP of {}", service.binding),
            move || {
                let (shared, service) = (shared.clone(), service.clone());
                tcp::serve(shared, service, listener.clone(), index as u16)
            },
        );
    }
    Ok(())
}

/// Starts the tasks of the shards of a service, which end with it.
async fn serve_udp(service: &Arc<PublicService>, shards: Vec<Arc<UdpShard>>) {
    let weak = shards.iter().map(|shard| {
        let shard: Weak<dyn FlowShard> = Arc::<UdpShard>::downgrade(shard);
        shard
    });
    // Never an error: this is the only place that sets them.
    drop(service.udp.set(weak.collect()));
    for shard in &shards {
        shard.start().await;
    }
    let cancelled = service.cancelled.clone();
    tokio::spawn(async move {
        cancelled.cancelled().await;
        shards.iter().for_each(|shard| shard.end());
    });
}

/// How many sockets a UDP port has: one for each of the runtime's threads, so that they receive side by side.
#[derive(Debug)]
pub(crate) struct Sharding {
    threads: usize,
    /// Permits for sockets beyond the first one of a port.
    more: Arc<Semaphore>,
}

impl Sharding {
    /// As many shards as the runtime has threads.
    pub(crate) fn new() -> Self {
        let threads = Handle::current().metrics().num_workers();
        Self {
            threads: threads.min(SHARDS_MAX),
            more: Arc::new(Semaphore::new(SOCKETS_MORE)),
        }
    }

    /// How many shards a binding gets, and the permit for them.
    fn shards_of(&self, binding: &Binding) -> (usize, Option<OwnedSemaphorePermit>) {
        // A range has a socket for each of its ports anyway.
        let shards = self.threads / usize::from(binding.public.count());
        if !binding.udp || shards <= 1 {
            return (1, None);
        }
        let more = (shards - 1) * usize::from(binding.public.count());
        match self.more.clone().try_acquire_many_owned(more as u32) {
            Ok(permit) => (shards, Some(permit)),
            Err(_) => (1, None),
        }
    }
}

/// Shards of one port at most: 8 receive more than any one game's players send.
const SHARDS_MAX: usize = 8;
/// Sockets that all services' shards may take beyond one a port: 1,024, so that ten thousand small games need no more
/// descriptors than on one thread.
const SOCKETS_MORE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;
    use crate::relay::ingress::service::SLICE;

    #[tokio::test(flavor = "current_thread")]
    async fn a_large_range_is_opened_without_keeping_the_thread_from_others() {
        let binding = Binding {
            instance: "a".parse().unwrap(),
            public: "20000-20127".parse().unwrap(),
            tcp: true,
            udp: true,
        };
        // A loopback address that nothing else has.
        let bind = "127.120.3.77".parse().unwrap();
        let (sharding, turns) = (Sharding::new(), Rc::new(Cell::new(0)));
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = others => {}
            open = OpenPorts::open(bind, &binding, &sharding) => {
                let open = open.unwrap();
                assert_eq!((open.tcp.len(), open.udp[0].len()), (128, 128));
            }
        }
        assert!(turns.get() >= 128 / SLICE, "{} turns", turns.get());
    }
}
