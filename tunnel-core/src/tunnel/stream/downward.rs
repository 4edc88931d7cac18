//! The downward direction of a stream: reads frames from the channel and writes their data to the socket, without ever waiting for it.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    time::{Duration, Instant},
};

use bytes::Bytes;
use socket2::SockRef;

use crate::{
    proto::stream::{StreamMisbehaved, frame::Frame},
    sync::lock,
    tunnel::stream::{
        backlog::Backlog,
        budget::Full,
        channel::{ChannelError, ChannelRx, Item},
        resumption::StreamEnd,
        state::{State, Stream, look},
    },
};

impl Stream<'_> {
    /// Channel to socket, until the other side has ended and nothing of ours is under way.
    pub(super) async fn downward(&self, rx: &mut ChannelRx) -> Result<(), StreamEnd> {
        loop {
            let mut next = rx.read().await.map_err(StreamEnd::Broken)?;
            let mut gathered = 0;
            loop {
                match next {
                    Item::Data(data) => {
                        gathered += data.len();
                        self.handle_data(data)?;
                    }
                    Item::Frame(Frame::Ack { offset }) => {
                        let now = Instant::now();
                        let mut state = lock(&self.state);
                        let released = state.send.handle_ack(now, offset)?;
                        self.measure(&mut state);
                        drop(state);
                        self.carrier.budget.release_unacked(released);
                        self.up.raise();
                    }
                    Item::Frame(Frame::Move { offset }) => {
                        self.write_backlog()?;
                        self.follow_channel(rx, offset).await?;
                    }
                    other => {
                        self.write_backlog()?;
                        if self.handle_end(&other)? {
                            return Ok(());
                        }
                    }
                }
                if gathered >= WRITE_MAX {
                    break;
                }
                match rx.read_ready().await {
                    Ok(Some(ready)) => next = ready,
                    Ok(None) => break,
                    Err(error) => {
                        self.write_backlog()?;
                        return Err(StreamEnd::Broken(error));
                    }
                }
            }
            if gathered > 0 {
                self.write_backlog()?;
            }
        }
    }

    /// The other side goes on elsewhere: reads there from now on.
    async fn follow_channel(&self, rx: &mut ChannelRx, offset: u64) -> Result<(), StreamEnd> {
        if !self.flowing.is_named() {
            return Err(StreamMisbehaved::MovedUnasked.into());
        }
        {
            let mut state = lock(&self.state);
            let state = &mut *state;
            state.handover.handle_move(offset, &state.recv)?;
        }
        // Its last word here may be faster than its first one there.
        let agreed = async {
            while !lock(&self.state).handover.may_follow() {
                self.follow.raised().await;
            }
        };
        let is_agreed = tokio::time::timeout(FOLLOW_PATIENCE, agreed).await;
        if is_agreed.is_err() || !self.next.change_rx(rx) {
            return Err(StreamEnd::Moved);
        }
        if lock(&self.state).handover.handle_followed() {
            self.flowing.set_in_handover(false);
        }
        Ok(())
    }

    /// What ends the stream or announces it. Returns whether the channel has ended as it should.
    fn handle_end(&self, item: &Item) -> Result<bool, StreamEnd> {
        match item {
            Item::Frame(Frame::Fin { offset }) => {
                lock(&self.state).recv.handle_fin(*offset)?;
                self.down.raise();
                Ok(false)
            }
            Item::Frame(Frame::Reset { code }) => Err(StreamEnd::PeerReset(*code)),
            Item::Frame(other) => Err(StreamEnd::Broken(ChannelError::Unexpected(other.kind()))),
            Item::Data(_) | Item::End => {
                // The other side ends it only when it knows that everything has come.
                if lock(&self.state).is_complete() {
                    Ok(true)
                } else {
                    Err(StreamEnd::Broken(ChannelError::Ended))
                }
            }
        }
    }

    /// Keeps data for the next write to the socket.
    fn handle_data(&self, data: Bytes) -> Result<(), StreamEnd> {
        let mut state = lock(&self.state);
        let length = data.len() as u64;
        state.recv.handle_data(length)?;
        let own = state.recv.waiting();
        match self.carrier.budget.reserve_undelivered(length, own) {
            Ok(()) => {}
            Err(Full::Tunnel) => {
                return Err(StreamMisbehaved::WindowExceeded { waiting: own }.into());
            }
            Err(Full::All) => return Err(StreamEnd::Stalled),
        }
        state.waiting.push(data);
        self.measure(&mut state);
        Ok(())
    }

    /// More has gone through.
    fn measure(&self, state: &mut State) {
        let through = state.through();
        self.flowing.handle_progress(through);
        if let Some(pace) = state.meter.handle_progress(through, look) {
            self.flowing.set(pace);
        }
    }

    /// Writes what waits as the socket takes it; at the other side's end, ends the socket's writing.
    pub(super) async fn backlog(&self) -> Result<(), StreamEnd> {
        loop {
            self.down.raised().await;
            while !lock(&self.state).waiting.is_empty() {
                self.socket.writable().await.map_err(StreamEnd::Socket)?;
                self.write_backlog()?;
            }
            if lock(&self.state).recv.is_complete() {
                // An error says that the connection is gone, which the next read says too.
                drop(SockRef::from(self.socket).shutdown(Shutdown::Write));
                self.up.raise();
                return Ok(());
            }
        }
    }

    /// Writes what waits, as much as the socket takes at once; `backlog` does the rest.
    fn write_backlog(&self) -> Result<(), StreamEnd> {
        let mut state = lock(&self.state);
        while !state.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = state.waiting.fill(&mut slices);
            match self.socket.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    state.waiting.take(written);
                    self.delivered(&mut state, written);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    state.waiting.settle();
                    drop(state);
                    self.down.raise();
                    return Ok(());
                }
                Err(e) => return Err(StreamEnd::Socket(e)),
            }
        }
        // A stalled reader's queue is not kept for ever.
        state.waiting = Backlog::default();
        Ok(())
    }

    fn delivered(&self, state: &mut State, written: usize) {
        self.written.add(written as u64);
        if let Some(traffic) = &self.kind.traffic {
            traffic.written.add(written as u64);
        }
        state.recv.handle_delivered(written as u64);
        self.carrier.budget.release_undelivered(written as u64);
        if !state.ack_known || state.recv.owes_ack_now() {
            state.ack_known = true;
            self.up.raise();
        }
    }
}

/// Bytes gathered for one write to the socket: 256 KiB, what one write of a lane brings.
const WRITE_MAX: usize = 256 * 1024;
/// Pieces of one write to the socket: 64 packets of a QUIC stream; a lane has 16 in one write.
const SLICES: usize = 64;
/// How long the word that agrees to a channel may come after the one that leads there: a few round trips, and losses
/// among them.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(3);
