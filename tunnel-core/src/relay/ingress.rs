//! Public ports: where players come in.

pub(crate) mod tcp;
pub(crate) mod udp;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    key::PublicKey,
    proto::message::{Code, ServiceDeclaration},
    relay::{Shared, registry::Binding, tunnel::RelayTunnel},
    socket,
    tunnel::supervise::supervise,
};

/// A service whose public ports are open.
#[derive(Debug)]
pub(crate) struct PublicService {
    pub(crate) binding: Binding,
    /// Whose it is.
    pub(crate) owner: PublicKey,
    /// Where players go: the tunnel and the declaration in force. `None` while no tunnel stands.
    pub(crate) route: watch::Sender<Option<Arc<Route>>>,
    /// Closes the TCP listeners: whoever connects is refused. Ends with `cancelled` at the latest.
    pub(crate) listening: CancellationToken,
    /// Ends the ports and all of their players.
    pub(crate) cancelled: CancellationToken,
    /// Comes when the last socket is closed: then the ports can be opened again.
    pub(crate) closed: CancellationToken,
    udp: OnceLock<Weak<udp::UdpService>>,
}

/// A listener of a service, and word of its closing.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) io: tokio::net::TcpListener,
    _open: Arc<DropGuard>,
}

/// Where a service's players go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) tunnel: Arc<RelayTunnel>,
    pub(crate) service: ServiceDeclaration,
}

/// The sockets of a service, open but not served yet: an instance is bound all or nothing.
#[derive(Debug)]
pub(crate) struct OpenPorts {
    tcp: Vec<std::net::TcpListener>,
    udp: Vec<std::net::UdpSocket>,
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
    /// Opens every port of a binding, or none. Players' packets go on between the ports of a large one.
    pub(crate) async fn open(bind: IpAddr, binding: &Binding) -> Result<Self, OpenError> {
        let mut open = Self {
            tcp: Vec::new(),
            udp: Vec::new(),
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
                let udp = socket::bind_udp(address).map_err(|error| OpenError {
                    port,
                    protocol: "UDP",
                    error,
                })?;
                socket::grow_buffers(&udp, socket::PUBLIC_BUFFER);
                open.udp.push(udp);
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
    ) -> io::Result<Arc<PublicService>> {
        let name = format!("instance {} port {}", binding.instance, binding.public);
        let limits = route.service.flows;
        let cancelled = CancellationToken::new();
        let service = Arc::new(PublicService {
            binding,
            owner: route.tunnel.client,
            route: watch::Sender::new(Some(route)),
            listening: cancelled.child_token(),
            cancelled,
            closed: CancellationToken::new(),
            udp: OnceLock::new(),
        });
        let open = Arc::new(service.closed.clone().drop_guard());
        for (index, listener) in self.tcp.into_iter().enumerate() {
            pause(index).await;
            let listener = Arc::new(Listener {
                io: tokio::net::TcpListener::from_std(listener)?,
                _open: open.clone(),
            });
            let (shared, service) = (shared.clone(), service.clone());
            supervise(
                shared.reporter(),
                service.listening.clone(),
                format!("TCP of {name}"),
                move || {
                    tcp::serve(
                        shared.clone(),
                        service.clone(),
                        listener.clone(),
                        index as u16,
                    )
                },
            );
        }
        if !self.udp.is_empty() {
            let udp = Arc::new(udp::UdpService::new(
                shared.clone(),
                service.clone(),
                self.udp,
                limits,
                open,
            )?);
            // It was set nowhere before.
            drop(service.udp.set(Arc::downgrade(&udp)));
            for index in 0..udp.ports() {
                pause(index).await;
                let udp = udp.clone();
                supervise(
                    shared.reporter(),
                    service.cancelled.clone(),
                    format!("UDP of {name}"),
                    move || udp.clone().serve(index),
                );
            }
            let expiry = udp.clone();
            supervise(
                shared.reporter(),
                service.cancelled.clone(),
                format!("flow expiry of {name}"),
                move || expiry.clone().expire(),
            );
            let cancelled = service.cancelled.clone();
            tokio::spawn(async move {
                cancelled.cancelled().await;
                udp.end();
            });
        }
        Ok(service)
    }
}

/// Lets everybody else go on, every now and then.
async fn pause(at: usize) {
    if at % SLICE == SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Ports opened at a stretch: 16, some 300 µs.
const SLICE: usize = 16;

impl PublicService {
    /// The route in force, if a tunnel stands.
    pub(crate) fn route(&self) -> Option<Arc<Route>> {
        self.route.borrow().clone()
    }

    /// Whether a tunnel stands and a datagram of some player has passed since then.
    pub(crate) fn has_flows_since(&self, then: Instant) -> bool {
        let udp = self.udp.get().and_then(Weak::upgrade);
        self.route.borrow().is_some() && udp.is_some_and(|udp| udp.is_alive_since(then))
    }
}

impl Route {
    /// Whether new players may take it.
    pub(crate) fn takes_players(&self, shared: &Shared) -> bool {
        !shared.draining.is_cancelled() && !self.tunnel.draining.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

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
        let turns = Rc::new(Cell::new(0));
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = others => {}
            open = OpenPorts::open(bind, &binding) => {
                let open = open.unwrap();
                assert_eq!((open.tcp.len(), open.udp.len()), (128, 128));
            }
        }
        assert!(turns.get() >= 128 / SLICE, "{} turns", turns.get());
    }
}
