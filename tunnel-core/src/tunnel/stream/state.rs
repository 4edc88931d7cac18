//! A stream with its offsets and windows, which its concurrent activities (upward, downward, backlog) share.

use std::{
    future::poll_fn,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::{
    metrics::Counter,
    proto::stream::{
        RecvHalf, SendHalf,
        handover::{Handover, Look, PaceMeter},
    },
    socket,
    sync::lock,
    tunnel::stream::{
        backlog::Backlog,
        handover::{ChannelSwitch, Flowing},
        resumption::{Carrier, Direction, StreamKind},
    },
};

pub(super) struct Stream<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) carrier: Carrier,
    pub(super) kind: &'a StreamKind,
    pub(super) state: Mutex<State>,
    /// Wakes `upward`: an acknowledgement came or is owed.
    pub(super) up: Signal,
    /// Wakes `downward`, which waits for the channel to follow to.
    pub(super) follow: Signal,
    /// Wakes `backlog`: something waits for the socket, or the end came.
    pub(super) down: Signal,
    pub(super) flowing: Flowing,
    pub(super) next: ChannelSwitch,
    pub(super) read: &'a Counter,
    pub(super) written: &'a Counter,
}

/// However it ends, its tunnel gets back what it held.
impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<'a> Stream<'a> {
    pub(super) fn new(socket: &'a TcpStream, carrier: Carrier, kind: &'a StreamKind) -> Self {
        let metrics = &kind.metrics;
        let (read, written) = match kind.direction {
            Direction::FromPlayer => (&metrics.stream_bytes_in, &metrics.stream_bytes_out),
            Direction::FromTarget => (&metrics.stream_bytes_out, &metrics.stream_bytes_in),
        };
        let now = Instant::now();
        let state = State {
            send: SendHalf::new(now),
            recv: RecvHalf::new(),
            waiting: Backlog::default(),
            ack_known: false,
            handover: Handover::default(),
            meter: PaceMeter::new(look(), 0, kind.lane_rate),
        };
        Self {
            socket,
            carrier,
            kind,
            state: Mutex::new(state),
            up: Signal::default(),
            follow: Signal::default(),
            down: Signal::default(),
            flowing: Flowing::default(),
            next: ChannelSwitch::default(),
            read,
            written,
        }
    }

    /// Gives back what the stream holds of its tunnel's budget.
    pub(super) fn leave(&self) {
        let state = lock(&self.state);
        self.carrier.budget.release_unacked(state.send.unacked());
        self.carrier
            .budget
            .release_undelivered(state.recv.waiting());
    }

    /// Counts what the socket gave and the channel gets, and keeps it until it is acknowledged.
    pub(super) fn sent(&self, data: Bytes) {
        self.read.add(data.len() as u64);
        if let Some(traffic) = &self.kind.traffic {
            traffic.read.add(data.len() as u64);
        }
        self.carrier.budget.reserve_unacked(data.len() as u64);
        lock(&self.state).send.handle_sent(Instant::now(), data);
    }
}

/// Wakes an activity of the same task that is polled later in the same round, so that no waker is needed and the
/// task is not run once more.
#[derive(Debug, Default)]
pub(super) struct Signal(AtomicBool);

impl Signal {
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) async fn raised(&self) {
        poll_fn(|_| match self.0.swap(false, Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

pub(super) struct State {
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    /// What the socket did not take yet.
    pub(super) waiting: Backlog,
    /// Whether `upward` knows that an acknowledgement is owed.
    pub(super) ack_known: bool,
    pub(super) handover: Handover,
    pub(super) meter: PaceMeter,
}

impl State {
    /// Bytes that are where they belong, in both directions.
    pub(super) const fn through(&self) -> u64 {
        self.send.offset() - self.send.unacked() + self.recv.received()
    }

    /// Whether both ends have everything that there was.
    pub(super) fn is_complete(&self) -> bool {
        self.send.is_finished() && self.send.unacked() == 0 && self.recv.is_complete()
    }
}

pub(super) fn look() -> Look {
    Look {
        now: Instant::now(),
        processor: socket::processor_time(),
    }
}
