//! A flow's end towards its target: a connected socket, so that only the target's answers come in.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    client::{
        egress::udp::preface::Preface,
        ports::{LocalPorts, Purpose},
    },
    socket,
};

/// One port of this machine, connected to the target.
#[derive(Debug)]
pub(super) struct Ends {
    main: UdpSocket,
    /// The same port, connected to where the kernel has the target answer from instead, if that is another address.
    twin: Option<UdpSocket>,
    /// The target answers from where it is asked: then nobody else does.
    answers_there: AtomicBool,
    /// Whom the target knows at this port.
    pub(super) preface: Preface,
}

impl Ends {
    pub(super) fn open(ports: &LocalPorts, remote: SocketAddr) -> io::Result<Self> {
        let main = ports.udp(Purpose::Player, remote)?;
        let local = main.local_addr()?;
        // A server on every address of this machine answers from the one that the kernel prefers, which is the one that
        // it has given us: 127.0.0.1 for 127.0.1.1. Where they differ, nothing else tells which it will be.
        let is_elsewhere = local.ip() != remote.ip() && ports.is_ours(remote.ip());
        let answers_from = SocketAddr::new(local.ip(), remote.port());
        // Where there can be none, most servers answer from where they are asked all the same.
        let twin = is_elsewhere
            .then(|| socket::join_udp(&main, local, answers_from))
            .and_then(Result::ok);
        Ok(Self {
            main: UdpSocket::from_std(main)?,
            twin: twin.map(UdpSocket::from_std).transpose()?,
            answers_there: AtomicBool::new(false),
            preface: Preface::default(),
        })
    }

    /// The port of this machine.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.main.local_addr()?.port())
    }

    /// Sends a datagram, with a header in front if there is one.
    pub(super) fn send(&self, header: Option<&[u8]>, payload: &[u8]) -> io::Result<usize> {
        // Not through tokio, which refuses to send until it has seen a new socket's readiness: a flow's first datagram
        // would be lost.
        let socket = SockRef::from(&self.main);
        let sent = match header {
            None => socket.send(payload),
            Some(header) => socket.send_vectored(&[IoSlice::new(header), IoSlice::new(payload)]),
        };
        if let Err(error) = &sent
            && (header.is_some() || error.kind() == io::ErrorKind::ConnectionRefused)
        {
            self.preface.handle_lost();
        }
        sent
    }

    /// Waits for an answer, or the news that there will be none.
    pub(super) async fn ready(&self) -> io::Result<()> {
        // That nobody listens makes a socket no more readable.
        let main = self.main.ready(Interest::READABLE | Interest::ERROR);
        match self.twin() {
            None => main.await.map(drop),
            Some(twin) => tokio::select! {
                ready = main => ready.map(drop),
                ready = twin.readable() => ready,
            },
        }
    }

    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_take_error()?;
        let received = self.main.try_recv(buffer);
        let Some(twin) = self.twin() else {
            return received;
        };
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => twin.try_recv(buffer),
            Ok(_) => {
                self.answers_there.store(true, Ordering::Relaxed);
                received
            }
            Err(_) => received,
        }
    }

    fn twin(&self) -> Option<&UdpSocket> {
        let twin = self.twin.as_ref();
        twin.filter(|_| !self.answers_there.load(Ordering::Relaxed))
    }

    fn try_take_error(&self) -> io::Result<()> {
        let taken = self.main.try_io(Interest::ERROR, || {
            let told = SockRef::from(&self.main).take_error()?;
            Err::<(), _>(told.unwrap_or(io::ErrorKind::WouldBlock.into()))
        });
        match taken {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.preface.handle_lost();
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn that_nobody_listens_is_heard_without_another_word() {
        let ports = LocalPorts::of_system();
        for ip in ["127.0.0.1", "::1"] {
            let nobody = std::net::UdpSocket::bind((ip, 0)).unwrap();
            let remote = nobody.local_addr().unwrap();
            drop(nobody);
            let ends = Ends::open(&ports, remote).unwrap();
            for _ in 0..2 {
                ends.send(None, b"hello").unwrap();
                let ready = tokio::time::timeout(Duration::from_secs(30), ends.ready());
                ready.await.unwrap().unwrap();
                let error = ends.try_recv(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{ip}");
                let nothing = ends.try_recv(&mut [0]).unwrap_err();
                assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            }
        }
    }
}
