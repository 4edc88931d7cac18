//! What a lane runs on: a TCP connection, or memory in tests.

use std::{
    io,
    net::Shutdown,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, Interest, ReadBuf},
    net::{TcpStream, tcp},
};

/// A connection that has yet to become a lane.
#[derive(Debug)]
pub(crate) enum Io {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A pipe in memory, for tests.
    Mem(DuplexStream),
}

impl Io {
    /// The two directions, to be used by two tasks. On TCP they share no lock.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(tcp) => {
                let (read, write) = tcp.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(Arc::new(write)))
            }
            Self::Mem(mem) => {
                let (read, write) = tokio::io::split(mem);
                (ReadHalf::Mem(read), WriteHalf::Mem(write))
            }
        }
    }
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl From<DuplexStream> for Io {
    fn from(mem: DuplexStream) -> Self {
        Self::Mem(mem)
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedReadHalf),
    /// Of a pipe in memory.
    Mem(tokio::io::ReadHalf<DuplexStream>),
}

impl ReadHalf {
    /// Whether reading may give something. `Pending` needs no buffer, so that a silent connection has none.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.as_ref().poll_read_ready(cx),
            // A pipe tells only by being read.
            Self::Mem(_) => Poll::Ready(Ok(())),
        }
    }

    /// Appends what is there to `buffer`, as much as it has room for. 0 is the end.
    pub(crate) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        // `read_buf` keeps no state between polls: what it read is in `buffer`.
        match self {
            Self::Tcp(tcp) => pin!(tcp.read_buf(buffer)).poll(cx),
            Self::Mem(mem) => pin!(mem.read_buf(buffer)).poll(cx),
        }
    }
}

/// The direction to the peer.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    /// Of a TCP connection. Shared with whoever watches it; only the lane writes.
    Tcp(Arc<tcp::OwnedWriteHalf>),
    /// Of a pipe in memory.
    Mem(tokio::io::WriteHalf<DuplexStream>),
}

impl WriteHalf {
    /// The TCP connection, if it is one.
    pub(crate) fn tcp(&self) -> Option<&Arc<tcp::OwnedWriteHalf>> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Mem(_) => None,
        }
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($io) => $call,
            Self::Mem($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => poll_write_tcp((**tcp).as_ref(), cx, buf),
            Self::Mem(mem) => Pin::new(mem).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Mem(mem) => Pin::new(mem).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => {
                Poll::Ready(SockRef::from((**tcp).as_ref()).shutdown(Shutdown::Write))
            }
            Self::Mem(mem) => Pin::new(mem).poll_shutdown(cx),
        }
    }
}

/// As tokio writes, but what the system took in part it will take more of only after a word of its own.
fn poll_write_tcp(tcp: &TcpStream, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let mut written = None;
        let tried = tcp.try_io(Interest::WRITABLE, || {
            let taken = tcp.try_write(buf)?;
            written = Some(taken);
            // Less than all: the system's buffer is full. `WouldBlock` lets the next write wait for epoll, not ask.
            match cfg!(target_os = "linux") && 0 < taken && taken < buf.len() {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        });
        match (written, tried) {
            (Some(written), _) => return Poll::Ready(Ok(written)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn more_than_the_system_buffers_arrives_whole_and_then_the_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (mut far, _) = listener.accept().await.unwrap();
        let (_read, mut write) = Io::from(near.unwrap()).into_split();
        let sent: Vec<u8> = (0..16_u32 << 20).map(|n| (n >> 7) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            for piece in sent.chunks(256 << 10) {
                write.write_all(piece).await.unwrap();
            }
            write.shutdown().await.unwrap();
            write
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        drop(far);
        let mut write = writer.await.unwrap();
        let error = write.write(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
