//! How a stream of a client comes to its next channel: while the one that it is on works, and after that has broken.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::{
    client::{
        mailbox::Mailbox,
        shared::Shared,
        streams::{self, Attach, Attaches},
        tunnel::ClientTunnel,
    },
    metrics::Gauge,
    proto::stream::frame::{Frame, ResetCode, StreamId},
    tunnel::stream::{
        Channel, ChannelError, Flowing, Moved, NextChannel, RESUME_PATIENCE, Resumed, Resumption,
        StreamEnd,
    },
};

/// A stream's place, and how it comes to another.
#[derive(Debug)]
pub(crate) struct ClientResumption {
    shared: Arc<Shared>,
    stream: StreamId,
    resumes: bool,
    /// While it is on a lane.
    on_lane: Option<Gauge>,
    /// Changes when lanes from the former address are of no more use.
    path: watch::Receiver<u64>,
    mailbox: Arc<Attaches>,
    /// The newest that has come and was not used yet.
    next: Option<Box<Attach>>,
    back: Option<oneshot::Sender<Channel>>,
}

impl ClientResumption {
    /// A stream that the relay has just opened; `None` if it is too late for that.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        tunnel: &ClientTunnel,
        stream: StreamId,
        on_lane: bool,
    ) -> Option<Self> {
        let mailbox = match tunnel.resumes {
            true => shared.streams.open(stream)?,
            false => streams::mailbox(),
        };
        Some(Self {
            shared: shared.clone(),
            stream,
            resumes: tunnel.resumes,
            on_lane: on_lane.then(|| on_lanes(shared)),
            path: tunnel.path.subscribe(),
            mailbox,
            next: None,
            back: None,
        })
    }

    /// Gives a clean channel to whom it belongs: to the task of the lane that the stream moved to, or to the caller.
    pub(crate) fn hand_back(&mut self, channel: Channel) -> Option<Channel> {
        match self.back.take() {
            // Its task has ended with its tunnel.
            Some(back) => {
                drop(back.send(channel));
                None
            }
            None => Some(channel),
        }
    }

    /// Agrees to a channel that stands beside the stream's own.
    async fn agree(&mut self, attach: Attach, flowing: &Flowing) -> Option<Box<NextChannel>> {
        let mut channel = attach.channel;
        if flowing.is_in_handover() {
            // The relay is there already, and stays.
            channel.tx.abort(Some(ResetCode::Socket)).await;
            return None;
        }
        let stream = self.stream;
        let beside = Frame::Join { stream };
        flowing.set_named(true);
        // Of a lane that broke the relay hears as we do.
        channel.tx.write(Some(beside), None).await.ok()?;
        self.on_lane = channel.is_lane().then(|| on_lanes(&self.shared));
        self.path = attach.tunnel.path.subscribe();
        let back = std::mem::replace(&mut self.back, attach.back);
        Some(Box::new(NextChannel { channel, back }))
    }
}

impl Resumption for ClientResumption {
    async fn moved(&mut self, flowing: &Flowing) -> Moved {
        if !self.resumes {
            return std::future::pending().await;
        }
        while self.next.is_none() {
            let is_on_lane = self.on_lane.is_some();
            let next = tokio::select! {
                next = self.mailbox.next() => next,
                _ = self.path.changed(), if is_on_lane => None,
            };
            match next {
                Some(attach) if attach.is_beside => {
                    // A stream that stays where it is has no room for it.
                    if let Some(onward) = Box::pin(self.agree(*attach, flowing)).await {
                        return Moved::Onto(onward);
                    }
                }
                Some(attach) => self.next = Some(attach),
                None => break,
            }
        }
        Moved::Away
    }

    async fn resume(&mut self, received: u64) -> Result<Resumed, StreamEnd> {
        if !self.resumes {
            return Err(StreamEnd::Broken(ChannelError::Ended));
        }
        // The lane that it was on is gone.
        self.back = None;
        if self.on_lane.take().is_some() && self.next.is_none() {
            self.shared.streams.handle_lost(self.stream);
        }
        let newest = newest(self.next.take(), &self.mailbox, |it| it.is_beside);
        let attached = tokio::time::timeout(RESUME_PATIENCE, newest).await;
        let Ok(Some(attach)) = attached else {
            return Err(StreamEnd::Moved);
        };
        self.on_lane = attach.channel.is_lane().then(|| on_lanes(&self.shared));
        self.path = attach.tunnel.path.subscribe();
        self.back = attach.back;
        Ok(Resumed {
            channel: attach.channel,
            carrier: attach.tunnel.carrier(),
            received: attach.received,
            greeting: Some(Frame::Attach {
                stream: self.stream,
                received,
            }),
        })
    }
}

/// The newest channel that continues a stream; what stands beside one is of no use without it.
async fn newest<T>(
    next: Option<T>,
    more: &Mailbox<T>,
    is_beside: impl Fn(&T) -> bool,
) -> Option<T> {
    let mut newest = next.filter(|next| !is_beside(next));
    loop {
        match more.try_next() {
            Some(newer) if is_beside(&newer) => {}
            Some(newer) => newest = Some(newer),
            None if newest.is_some() => return newest,
            None => newest = Some(more.next().await?).filter(|next| !is_beside(next)),
        }
    }
}

impl Drop for ClientResumption {
    fn drop(&mut self) {
        // Once its own entry is gone, the number may be that of another relay's stream.
        if self.resumes && !self.mailbox.is_closed() {
            self.shared.streams.end(self.stream);
        }
        // Who has found it before may offer one still.
        self.mailbox.close();
        while self.mailbox.try_next().is_some() {}
    }
}

fn on_lanes(shared: &Shared) -> Gauge {
    Gauge::new(&shared.metrics, |m| &m.streams_on_lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_channel_that_continues_a_stream_counts_and_none_that_stood_beside_another()
    {
        const BESIDE: u32 = 100;
        for (next, queue, used) in [
            (None, &[1][..], Some(1)),
            (None, &[1, 2], Some(2)),
            (None, &[1, BESIDE], Some(1)),
            (Some(1), &[BESIDE], Some(1)),
            (Some(BESIDE), &[BESIDE, 1, BESIDE], Some(1)),
            (Some(BESIDE), &[], None),
            (None, &[BESIDE], None),
        ] {
            let mailbox = Mailbox::new(4);
            for it in queue {
                mailbox.offer(*it).unwrap();
            }
            mailbox.close();
            let found = newest(next, &mailbox, |it| *it == BESIDE).await;
            assert_eq!(found, used, "{next:?} {queue:?}");
        }
    }
}
