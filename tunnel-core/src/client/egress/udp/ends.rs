//! A flow's end towards its target: a connected socket, so that only the target's answers come in.

use std::{io, net::SocketAddr};

use tokio::net::UdpSocket;

use crate::socket;

/// One port of this machine, connected to the target.
#[derive(Debug)]
pub(super) struct Ends {
    main: UdpSocket,
    /// The same port, connected to where the kernel has the target answer from instead, if that is another address.
    twin: Option<UdpSocket>,
}

impl Ends {
    pub(super) fn open(remote: SocketAddr) -> io::Result<Self> {
        let main = socket::bind_udp(SocketAddr::new(socket::unspecified(remote.ip()), 0))?;
        main.connect(remote)?;
        let local = main.local_addr()?;
        // A server on every address of this machine answers from the one that the kernel prefers, which is the one that
        // it has given us: 127.0.0.1 for 127.0.1.1. Where they differ, nothing else tells which it will be.
        let is_elsewhere = local.ip() != remote.ip() && socket::is_ours(remote.ip());
        let answers_from = SocketAddr::new(local.ip(), remote.port());
        let twin = (is_elsewhere && answers_from != local)
            .then(|| socket::join_udp(&main, local, answers_from))
            .transpose()?;
        Ok(Self {
            main: UdpSocket::from_std(main)?,
            twin: twin.map(UdpSocket::from_std).transpose()?,
        })
    }

    pub(super) fn send(&self, payload: &[u8]) -> io::Result<usize> {
        // Not through tokio, which refuses to send until it has seen a new socket's readiness: a flow's first datagram
        // would be lost.
        socket2::SockRef::from(&self.main).send(payload)
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.twin {
            None => self.main.readable().await,
            Some(twin) => tokio::select! {
                ready = self.main.readable() => ready,
                ready = twin.readable() => ready,
            },
        }
    }

    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.main.try_recv(buffer), &self.twin) {
            (Err(error), Some(twin)) if error.kind() == io::ErrorKind::WouldBlock => {
                twin.try_recv(buffer)
            }
            (received, _) => received,
        }
    }
}
