//! Carries one stream: between a socket (the player's or the target's) and a channel of the tunnel.
//!
//! Three activities run side by side, so that none waits for another: `upward` reads the socket and writes the
//! channel, `downward` reads the channel and writes the socket, `backlog` writes what the socket did not take at once.
//! `downward` never waits for the socket: acknowledgements travel behind data, and two ends that wait for each
//! other's would never move again.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use tokio::{io::Interest, net::TcpStream};

use crate::{
    proto::stream::handover::{Handover, PaceMeter},
    socket,
    sync::lock,
    tunnel::{
        fault::fault,
        futures::poll_when_woken,
        stream::{
            channel::{Channel, ChannelError},
            handover::NextChannel,
            liveness::gone,
            resumption::{Carrier, Moved, Resumed, Resumption, StreamEnd, StreamKind},
            state::{Stream, look},
            upward::Restart,
        },
    },
};

/// Carries a stream to its end, over one channel after another; what was read `early` has been sent. `Ok` is a clean end, and gives the last channel back if
/// it is clean, so that a lane can serve again; otherwise the other side has been told and the socket ends in a reset.
pub(crate) async fn run(
    socket: TcpStream,
    early: Option<Bytes>,
    mut channel: Channel,
    carrier: Carrier,
    kind: &StreamKind,
    resumption: &mut impl Resumption,
) -> Result<Option<Channel>, StreamEnd> {
    let mut stream = Stream::new(&socket, carrier, kind);
    if let Some(early) = early {
        stream.sent(early);
    }
    fault!("carrying a stream of {:?}", socket.local_addr().ok());
    fault!("carrying a stream to {:?}", socket.peer_addr().ok());
    let mut restart = None;
    let carried = loop {
        let Err(end) = stream.carry(&mut channel, restart.take(), resumption).await else {
            break Ok(Some(channel));
        };
        if !end.is_of_the_channel() {
            break Err((end, Some(channel)));
        }
        // From here on nothing comes on it that would have to be counted as received.
        drop(channel);
        // Seldom, and large: what every stream has room for all its life is what it always does.
        match Box::pin(stream.resume(resumption, end)).await {
            Ok(resumed) => {
                stream.settle(resumed.carrier);
                tracing::debug!("stream goes on over another channel");
                kind.metrics.streams_resumed.one();
                restart = Some(Box::new(stream.restart(resumed.received, resumed.greeting)));
                channel = resumed.channel;
            }
            // Everything is where it belongs, and only the word of it was lost.
            Err(_) if lock(&stream.state).is_complete() => break Ok(None),
            Err(end) => break Err((end, None)),
        }
    };
    let received = lock(&stream.state).recv.received();
    drop(stream);
    let (end, channel) = match carried {
        Ok(channel) => {
            socket::end_cleanly(socket);
            return Ok(channel);
        }
        Err(failed) => failed,
    };
    drop(socket);
    let channel = match (channel, &end) {
        // The other side waits for the stream to go on, and has to be told that it does not.
        (None, StreamEnd::Socket(_) | StreamEnd::Misbehaved(_)) => {
            let resumed = resumption.resume(received).await;
            resumed.ok().map(|resumed| resumed.channel)
        }
        (channel, _) => channel,
    };
    if let Some(mut channel) = channel {
        channel.tx.abort(end.reset_code()).await;
    }
    end.count(&kind.metrics);
    Err(end)
}

impl Stream<'_> {
    /// Carries the stream over one channel, to the end of either.
    async fn carry(
        &self,
        Channel { tx, rx }: &mut Channel,
        restart: Option<Box<Restart>>,
        resumption: &mut impl Resumption,
    ) -> Result<(), StreamEnd> {
        // What an activity of the channel before was woken for, and did not do.
        self.up.raise();
        self.down.raise();
        let ends = pin!(async {
            loop {
                tokio::select! {
                    moved = resumption.moved(&self.flowing) => match moved {
                        Moved::Away => return StreamEnd::Moved,
                        Moved::Onto(next) => {
                            if !self.hand_over_to(*next) {
                                return StreamEnd::Moved;
                            }
                        }
                    },
                    () = self.kind.cancelled.cancelled() => return StreamEnd::Cancelled,
                    () = self.carrier.closed.cancelled() => return StreamEnd::Cancelled,
                    error = gone(self.socket) => return StreamEnd::Socket(error),
                }
            }
        });
        // Pinned here, or the block below would keep room for it twice.
        let upward = pin!(async {
            match self.upward(tx, restart).await {
                // The other side reads no more. Why, stands behind what it still sends: `downward` comes to it.
                Err(StreamEnd::Broken(ChannelError::QuicWrite(quinn::WriteError::Stopped(_)))) => {
                    std::future::pending().await
                }
                ended => ended,
            }
        });
        // All in the order of the signals between them: see `Signal`.
        tokio::select! {
            biased;
            end = poll_when_woken(ends) => Err(end),
            carried = async {
                tokio::try_join!(biased; self.downward(rx), self.backlog(), upward)
            } => carried.map(drop),
        }
    }

    /// Both directions leave their channel for this one, each at its next word; unless they are on their way to another.
    fn hand_over_to(&self, next: NextChannel) -> bool {
        let may_go = lock(&self.state).handover.handle_agreed();
        if may_go {
            self.flowing.set_in_handover(true);
            self.next.put(next);
            self.up.raise();
            self.follow.raise();
        }
        may_go
    }

    /// Gets another channel, while the socket takes what has come.
    async fn resume(
        &mut self,
        resumption: &mut impl Resumption,
        end: StreamEnd,
    ) -> Result<Resumed, StreamEnd> {
        let received = {
            let mut state = lock(&self.state);
            state.recv.handle_channel_lost();
            state.ack_known = false;
            state.handover = Handover::default();
            state.meter = PaceMeter::new(look(), state.through(), self.kind.lane_rate);
            self.flowing.set(state.meter.pace());
            self.flowing.set_in_handover(false);
            state.recv.received()
        };
        self.next.clear();
        tracing::debug!("stream without a channel: {end}");
        tokio::select! {
            resumed = resumption.resume(received) => resumed,
            error = self.without_channel() => Err(error),
            () = self.kind.cancelled.cancelled() => Err(StreamEnd::Cancelled),
            () = self.carrier.closed.cancelled() => Err(StreamEnd::Cancelled),
        }
    }

    /// Serves the socket alone. Ends with its end.
    async fn without_channel(&self) -> StreamEnd {
        self.down.raise();
        let failed = async {
            loop {
                match self.socket.ready(Interest::ERROR).await {
                    Ok(_) => match self.socket.take_error() {
                        Ok(Some(error)) | Err(error) => return error,
                        Ok(None) => std::future::pending::<()>().await,
                    },
                    Err(error) => return error,
                }
            }
        };
        tokio::select! {
            error = failed => StreamEnd::Socket(error),
            Err(end) = self.backlog() => end,
            else => std::future::pending().await,
        }
    }

    /// Takes the stream's load over to the tunnel of the next channel.
    fn settle(&mut self, carrier: Carrier) {
        if Arc::ptr_eq(&self.carrier.budget, &carrier.budget) {
            self.carrier = carrier;
            return;
        }
        let (held, waiting) = {
            let state = lock(&self.state);
            (state.send.unacked(), state.recv.waiting())
        };
        carrier.budget.reserve_unacked(held);
        // What a tunnel may keep was checked when it came.
        _ = carrier.budget.reserve_undelivered(waiting, waiting);
        self.leave();
        self.carrier = carrier;
    }
}
