//! The upward direction of a stream: reads the socket and writes the channel, with the acknowledgements that are owed.

use std::{
    cell::RefCell,
    io,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{io::Interest, net::TcpStream};

use crate::{
    proto::stream::{ACK_DELAY, StreamMisbehaved, frame::Frame},
    socket,
    sync::lock,
    tunnel::stream::{channel::ChannelTx, resumption::StreamEnd, state::Stream},
};

/// What goes first on a channel that continues a stream.
pub(super) struct Restart {
    pub(super) greeting: Option<Frame>,
    pub(super) again: Result<Vec<Bytes>, StreamMisbehaved>,
    pub(super) fin: Option<Frame>,
}

/// Where the stream stands between two steps of its upward direction.
struct Owed {
    /// An acknowledgement that leaves now.
    ack: Option<Frame>,
    /// One more is owed, and may wait for data to travel with.
    owes: bool,
    /// Bytes that may be read from the socket.
    room: u64,
    /// Bytes sent and not acknowledged.
    unacked: u64,
    /// All that came is delivered and acknowledged, and all that was sent.
    is_complete: bool,
}

impl Stream<'_> {
    pub(super) fn restart(&self, received: u64, greeting: Option<Frame>) -> Restart {
        let state = lock(&self.state);
        let fin = state.send.is_finished().then_some(Frame::Fin {
            offset: state.send.offset(),
        });
        Restart {
            greeting,
            again: state.send.resend_from(received),
            fin,
        }
    }

    /// Socket to channel, with the acknowledgements that the other direction owes.
    pub(super) async fn upward(
        &self,
        tx: &mut ChannelTx,
        restart: Option<Box<Restart>>,
    ) -> Result<(), StreamEnd> {
        if let Some(restart) = restart {
            // Seldom, and large, as `resume`.
            Box::pin(self.catch_up(tx, *restart)).await?;
        }
        let mut buffer = BytesMut::new();
        let mut read_size = READ_MIN;
        let mut ack_due: Option<Instant> = None;
        let mut at_end = lock(&self.state).send.is_finished();
        // Without room or after the end nothing is read, and only the socket's error state tells of a reset.
        let mut may_fail = true;
        // Set anew only for an earlier time: a wake too many every now and then costs less than a timer for each read.
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let mut timer_due: Option<Instant> = None;
        loop {
            self.leave_channel(tx).await?;
            let Owed {
                ack,
                owes,
                room,
                unacked,
                is_complete,
            } = self.poll_owed(ack_due)?;
            if at_end && is_complete {
                return tx.end(ack).await.map_err(StreamEnd::Broken);
            }
            if ack.is_some() {
                tx.write(ack, None).await.map_err(StreamEnd::Broken)?;
                ack_due = None;
                continue;
            }
            match (owes, ack_due) {
                (true, None) => ack_due = Some(Instant::now() + ACK_DELAY),
                (false, Some(_)) => ack_due = None,
                _ => {}
            }
            let may_read = !at_end && room > 0;
            // Without room, either our own reader has to take something, or others have to give something back,
            // of which nobody tells.
            let look_again = match (at_end || room > 0, unacked) {
                (true, 0) => None,
                (false, 0) => Some(Instant::now() + BUDGET_RETRY),
                (_, _) => Some(Instant::now() + STALL_LOOK),
            };
            if let Some(due) = ack_due.into_iter().chain(look_again).min()
                && timer_due.is_none_or(|set| due < set)
            {
                timer.as_mut().reset(due.into());
                timer_due = Some(due);
            }
            tokio::select! {
                biased;
                () = self.up.raised() => {}
                ready = self.socket.readable(), if may_read => {
                    ready.map_err(StreamEnd::Socket)?;
                    at_end = self.read_socket(tx, &mut buffer, &mut read_size, room, unacked).await?;
                    continue;
                }
                failed = self.socket.ready(Interest::ERROR), if !may_read && may_fail => {
                    failed.map_err(StreamEnd::Socket)?;
                    if let Some(error) = self.socket.take_error().map_err(StreamEnd::Socket)? {
                        return Err(StreamEnd::Socket(error));
                    }
                    may_fail = false;
                }
                () = timer.as_mut(), if timer_due.is_some() => timer_due = None,
            }
            if lock(&self.state).send.unacked() == 0 {
                // An idle stream holds nothing.
                buffer = BytesMut::new();
            }
        }
    }

    /// What is to be sent, and how much may be.
    fn poll_owed(&self, ack_due: Option<Instant>) -> Result<Owed, StreamEnd> {
        let mut state = lock(&self.state);
        let overdue = ack_due.is_some_and(|due| due <= Instant::now());
        let ack = match overdue || state.recv.owes_ack_now() {
            true => state.recv.poll_ack(),
            false => None,
        };
        let owes = state.recv.owes_ack();
        state.ack_known = owes;
        if self.carrier.budget.is_short() && state.send.is_stalled(Instant::now()) {
            return Err(StreamEnd::Stalled);
        }
        let unacked = state.send.unacked();
        Ok(Owed {
            ack: ack.map(|offset| Frame::Ack { offset }),
            owes,
            room: state.send.allowance(self.carrier.budget.free()),
            unacked,
            is_complete: unacked == 0 && state.recv.is_complete() && !owes,
        })
    }

    /// Sends what the channel before may have lost.
    async fn catch_up(&self, tx: &mut ChannelTx, restart: Restart) -> Result<(), StreamEnd> {
        let mut first = restart.greeting;
        for piece in restart.again? {
            let written = tx.write(first.take(), Some(piece)).await;
            written.map_err(StreamEnd::Broken)?;
        }
        for frame in first.into_iter().chain(restart.fin) {
            tx.write(Some(frame), None)
                .await
                .map_err(StreamEnd::Broken)?;
        }
        Ok(())
    }

    /// Goes on to the next channel, if there is one.
    async fn leave_channel(&self, tx: &mut ChannelTx) -> Result<(), StreamEnd> {
        let offset = {
            let state = lock(&self.state);
            if !state.handover.may_leave() {
                return Ok(());
            }
            state.send.offset()
        };
        let said = tx.write(Some(Frame::Move { offset }), None).await;
        said.map_err(StreamEnd::Broken)?;
        if !self.next.change_tx(tx) {
            return Err(StreamEnd::Moved);
        }
        if lock(&self.state).handover.handle_left() {
            self.flowing.set_in_handover(false);
        }
        self.kind.metrics.streams_moved.one();
        Ok(())
    }

    /// Reads once, as much as the bounds allow, and writes it to the channel. Returns whether the socket has ended.
    async fn read_socket(
        &self,
        tx: &mut ChannelTx,
        buffer: &mut BytesMut,
        read_size: &mut usize,
        room: u64,
        unacked: u64,
    ) -> Result<bool, StreamEnd> {
        let most = (*read_size).min(usize::try_from(room).unwrap_or(usize::MAX));
        let size = *read_size;
        let is_talk = size == READ_MIN && unacked <= TALK_MAX as u64;
        let data = match is_talk {
            true => read_talk(self.socket, most),
            false => read(self.socket, buffer, size, most),
        };
        let data = match data {
            Ok(data) if data.is_empty() => {
                let offset = lock(&self.state).send.handle_fin();
                tx.write(Some(Frame::Fin { offset }), None)
                    .await
                    .map_err(StreamEnd::Broken)?;
                return Ok(true);
            }
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(StreamEnd::Socket(e)),
        };
        // Reads grow while the socket fills them, so that bulk costs few system calls and talk little memory.
        if data.len() == size {
            *read_size = (size * 2).min(READ_MAX);
        } else if data.len() < size / 4 {
            *read_size = (size / 2).max(READ_MIN);
        }
        if is_talk
            && data.len() <= TALK_MAX
            && let Some(meter) = &self.carrier.meter
        {
            meter.handle_talk();
        }
        self.sent(data.clone());
        let ack = lock(&self.state).recv.poll_ack();
        let ack = ack.map(|offset| Frame::Ack { offset });
        tx.write(ack, Some(data)).await.map_err(StreamEnd::Broken)?;
        Ok(false)
    }
}

/// Reads what the socket has, as far as the bounds allow. Empty at its end.
fn read(socket: &TcpStream, buffer: &mut BytesMut, size: usize, most: usize) -> io::Result<Bytes> {
    fill(socket, buffer, size, most)?;
    Ok(buffer.split().freeze())
}

/// The same into a buffer that all streams of the thread share, so that those that are idle have none. What is little is
/// copied: a byte that waits for its acknowledgement holds a byte.
fn read_talk(socket: &TcpStream, most: usize) -> io::Result<Bytes> {
    TALK.with_borrow_mut(|buffer| {
        fill(socket, buffer, READ_MIN, most)?;
        if buffer.len() > TALK_MAX {
            return Ok(buffer.split().freeze());
        }
        let copied = Bytes::copy_from_slice(buffer);
        buffer.clear();
        Ok(copied)
    })
}

fn fill(socket: &TcpStream, buffer: &mut BytesMut, size: usize, most: usize) -> io::Result<()> {
    if buffer.capacity() < most.min(size / 2) || buffer.capacity() == 0 {
        buffer.reserve(size);
    }
    let asked = most.min(buffer.capacity() - buffer.len());
    let came = socket.try_read_buf(&mut buffer.limit(most))?;
    if came < asked && came > 0 {
        socket::settle(socket);
    }
    Ok(())
}

thread_local! {
    static TALK: RefCell<BytesMut> = RefCell::default();
}

/// Bytes that are talk, which is copied as it is read: 2 KiB. A player who sends single bytes to a reader that stalls gets
/// no more copies than these, of which each has a place of its own.
const TALK_MAX: usize = 2 * 1024;
/// First size of a socket read: 16 KiB, one record of a lane.
const READ_MIN: usize = 16 * 1024;
/// Largest size of a socket read: 256 KiB, one write of a lane.
const READ_MAX: usize = 256 * 1024;
/// How soon a stream without room looks again whether others have given some back.
const BUDGET_RETRY: Duration = Duration::from_millis(10);
/// How often a stream that waits for its reader looks whether it stalls the tunnel.
const STALL_LOOK: Duration = Duration::from_secs(10);
