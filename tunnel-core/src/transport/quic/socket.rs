//! quinn's socket behind the filter.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::filter::{DropReason, Filter};

/// What the sockets dropped unseen, by reason. Shared with the metrics.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    foreign_version: AtomicU64,
    malformed: AtomicU64,
    short_initial: AtomicU64,
    foreign_initial: AtomicU64,
    unopened: AtomicU64,
}

impl Drops {
    /// What no client sent.
    pub(crate) fn strangers(&self) -> u64 {
        let counts = self.counts();
        counts.foreign_version + counts.malformed + counts.short_initial + counts.foreign_initial
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> DropCounts {
        DropCounts {
            foreign_version: self.foreign_version.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            short_initial: self.short_initial.load(Ordering::Relaxed),
            foreign_initial: self.foreign_initial.load(Ordering::Relaxed),
            unopened: self.unopened.load(Ordering::Relaxed),
        }
    }

    fn count(&self, reason: DropReason) {
        let counter = match reason {
            DropReason::ForeignVersion => &self.foreign_version,
            DropReason::Malformed => &self.malformed,
            DropReason::ShortInitial => &self.short_initial,
            DropReason::ForeignInitial => &self.foreign_initial,
            DropReason::Unopened => &self.unopened,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Datagrams dropped unseen since the start, by [`DropReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DropCounts {
    /// [`DropReason::ForeignVersion`].
    pub(crate) foreign_version: u64,
    /// [`DropReason::Malformed`].
    pub(crate) malformed: u64,
    /// [`DropReason::ShortInitial`].
    pub(crate) short_initial: u64,
    /// [`DropReason::ForeignInitial`].
    pub(crate) foreign_initial: u64,
    /// [`DropReason::Unopened`].
    pub(crate) unopened: u64,
}

/// quinn's own tokio socket with `filter` in front of it.
pub(super) fn wrap(
    socket: std::net::UdpSocket,
    filter: Filter,
    drops: Arc<Drops>,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(FilteredSocket {
        inner: TokioRuntime.wrap_udp_socket(socket)?,
        filter,
        drops,
    }))
}

struct FilteredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    filter: Filter,
    drops: Arc<Drops>,
}

impl AsyncUdpSocket for FilteredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter_mut().zip(meta).take(received) {
            retain(&self.filter, &self.drops, buf, meta);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl std::fmt::Debug for FilteredSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilteredSocket")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Keeps, of the datagrams of one receive, those that pass; they stay in order.
fn retain(filter: &Filter, drops: &Drops, buf: &mut [u8], meta: &mut RecvMeta) {
    let (mut kept, mut at) = (0, 0);
    // All datagrams of a receive have the stride's length, but for the last, so what is left may close up.
    while at < meta.len {
        let end = meta.len.min(at.saturating_add(meta.stride.max(1)));
        match filter.check(&buf[at..end], meta.addr.ip()) {
            Ok(()) => {
                if kept < at {
                    buf.copy_within(at..end, kept);
                }
                kept += end - at;
            }
            Err(reason) => drops.count(reason),
        }
        at = end;
    }
    meta.len = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::handshake::keys::Secret, transport::quic::cid::CidKey};

    #[test]
    fn dropped_datagrams_leave_no_gap() {
        let filter = Filter::client(CidKey::new(Secret::from([1; 32])));
        let drops = Drops::default();
        // Three of four bytes and one of two; a long header of four bytes is none.
        let mut buf = *b"\xffbad\x40two\xffbad\x40l";
        let mut meta = RecvMeta::default();
        (meta.len, meta.stride) = (14, 4);
        retain(&filter, &drops, &mut buf, &mut meta);
        assert_eq!(&buf[..meta.len], b"\x40two\x40l");
        assert_eq!(drops.counts().malformed, 2);
        retain(&filter, &drops, &mut [0xff; 4], {
            meta.len = 4;
            &mut meta
        });
        assert_eq!(meta.len, 0);
    }
}
