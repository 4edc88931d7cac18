//! What a lane runs on: a TCP connection, or memory in tests.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf},
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
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
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
    /// Of a TCP connection.
    Tcp(tcp::OwnedWriteHalf),
    /// Of a pipe in memory.
    Mem(tokio::io::WriteHalf<DuplexStream>),
}

impl WriteHalf {
    /// The TCP connection, if it is one.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp.as_ref()),
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
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
