//! What happens, as server-sent events: a ring in memory, from which each reader reads at its own pace.
//!
//! Who comes back says with `Last-Event-ID` what it had last and gets what came since; what the ring has lost meanwhile is told
//! as an event `gap`. A reader that is slow waits for nobody and nobody waits for it: it loses events, and is told.

use std::{
    collections::VecDeque,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream;
use hyper::{
    HeaderMap,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};
use utoipa::ToSchema;

use crate::{
    access::Caller,
    problem::{Kind, Problem},
};

/// An event as it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Event {
    /// Its number, from 1: each is one more than that before it.
    pub id: u64,
    /// The process that has told it. Another one starts again at 1.
    #[schema(example = "5f3c9a1e0b7d4c21")]
    pub session: String,
    /// When, as RFC 3339 has it.
    #[schema(example = "2026-01-31T12:00:00.123Z")]
    pub time: String,
    /// What kind of event it is, such as `client_connected`.
    #[serde(rename = "type")]
    #[schema(example = "client_connected")]
    pub kind: String,
    /// What more there is to know, by kind.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// The events of this process, the latest of them in memory. Cloned, it is the same ring.
#[derive(Debug, Clone)]
pub struct Ring {
    session: Arc<str>,
    kept: Arc<Mutex<Kept>>,
    /// The id of the latest event; closed with the ring.
    latest: Arc<watch::Sender<Latest>>,
    readers: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<(u64, Bytes)>,
    /// How many bytes they are.
    size: usize,
    last: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Latest {
    id: u64,
    is_closed: bool,
}

impl Ring {
    /// An empty one. `session` names this process: another one has another name.
    pub fn new(session: impl Into<Arc<str>>) -> Self {
        Self {
            session: session.into(),
            kept: Arc::default(),
            latest: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// An empty one, with a name that no other process has.
    pub fn of_this_process() -> Self {
        let mut bytes = [0; 8];
        if aws_lc_rs::rand::fill(&mut bytes).is_err() {
            // It only has to differ from that of the process before.
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            bytes = since
                .unwrap_or_default()
                .as_micros()
                .to_be_bytes()
                .last_chunk()
                .copied()
                .unwrap_or_default();
        }
        Self::new(format!("{:016x}", u64::from_be_bytes(bytes)))
    }

    /// Tells everybody who reads. Never waits. What cannot be written as JSON, or is larger than events may be, is told without
    /// its data.
    pub fn publish(&self, kind: &str, data: &impl Serialize) {
        let data = serde_json::to_value(data).unwrap_or_default();
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut kept = self.kept();
        kept.last += 1;
        let id = kept.last;
        let mut event = Event {
            id,
            session: self.session.to_string(),
            time,
            kind: kind.to_owned(),
            data,
        };
        let mut frame = frame(&event);
        if frame.len() > EVENT_SIZE {
            event.data = serde_json::Value::Null;
            frame = self::frame(&event);
        }
        kept.size += frame.len();
        kept.events.push_back((id, frame));
        while kept.events.len() > EVENTS || kept.size > SIZE {
            let Some((_, lost)) = kept.events.pop_front() else {
                break;
            };
            kept.size -= lost.len();
        }
        drop(kept);
        self.latest
            .send_modify(|latest| latest.id = id.max(latest.id));
    }

    /// Ends the streams of all readers, once they have what is there.
    pub fn close(&self) {
        self.latest.send_modify(|latest| latest.is_closed = true);
    }

    /// The answer that carries events to `caller` as they come, from where its request says that it was; from now on if that says
    /// nothing. It ends when the caller's token does.
    pub fn respond(&self, headers: &HeaderMap, caller: Caller) -> Result<Response, Problem> {
        let position = match headers.get(LAST_EVENT_ID) {
            None => None,
            Some(value) => {
                let text = value.to_str().ok();
                let position = text.and_then(|text| text.parse::<Position>().ok());
                Some(position.ok_or_else(|| {
                    Problem::invalid_parameter(
                        "Last-Event-ID",
                        "expected the id of an event, as in SESSION:12",
                    )
                })?)
            }
        };
        let permit = self.readers.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{READERS} read events already: end one of them.");
            Problem::new(Kind::Unavailable, detail).retry_after(HEARTBEAT)
        })?;
        let reader = self.reader(position.as_ref(), caller, permit);
        let frames = stream::unfold(reader, |mut reader| async {
            let frame = reader.next().await?;
            Some((Ok::<_, std::convert::Infallible>(frame), reader))
        });
        let mut response = Response::new(Body::from_stream(frames));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Proxies that gather answers would hold events back.
        headers.insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        Ok(response)
    }

    fn reader(
        &self,
        position: Option<&Position>,
        caller: Caller,
        permit: OwnedSemaphorePermit,
    ) -> Reader {
        let last = self.kept().last;
        let (at, lost_session) = match position {
            None => (last, false),
            Some(position) if *position.session == *self.session => (position.id.min(last), false),
            // Everything that this process has told came since.
            Some(_) => (0, true),
        };
        Reader {
            ring: self.clone(),
            latest: self.latest.subscribe(),
            at,
            lost_session,
            is_greeted: false,
            caller,
            _permit: permit,
        }
    }

    /// Frames after `at`, a bounded piece of them, and how many were lost before them.
    fn after(&self, at: u64) -> (u64, Bytes, u64) {
        let kept = self.kept();
        let oldest = kept.events.front().map_or(kept.last + 1, |(id, _)| *id);
        let lost = oldest.saturating_sub(at + 1);
        let start = usize::try_from((at + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        let (mut piece, mut reached) = (Vec::new(), at + lost);
        for (id, frame) in kept.events.iter().skip(start) {
            if !piece.is_empty() && piece.len() + frame.len() > PIECE {
                break;
            }
            piece.extend_from_slice(frame);
            reached = *id;
        }
        (lost, piece.into(), reached)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // At worst the latest event is missing.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who reads, and how far it is.
struct Reader {
    ring: Ring,
    latest: watch::Receiver<Latest>,
    /// The id of the last event that it has.
    at: u64,
    /// It was here before this process.
    lost_session: bool,
    is_greeted: bool,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.is_greeted, true) {
            // Sent at once, so that the other side knows that it is connected.
            return Some(Bytes::from_static(b"retry: 2000\n\n"));
        }
        loop {
            if !self.caller.is_current() {
                return None;
            }
            let latest = *self.latest.borrow_and_update();
            if std::mem::take(&mut self.lost_session) {
                return Some(self.gap(None));
            }
            if latest.id > self.at {
                let (lost, piece, reached) = self.ring.after(self.at);
                if lost > 0 {
                    self.at += lost;
                    return Some(self.gap(Some(lost)));
                }
                self.at = reached;
                return Some(piece);
            }
            if latest.is_closed {
                return None;
            }
            match time::timeout(HEARTBEAT, self.latest.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(b": heartbeat\n\n")),
            }
        }
    }

    /// Tells how many events were lost; `None`: those of an earlier process, whose number nobody knows.
    fn gap(&self, lost: Option<u64>) -> Bytes {
        let data = serde_json::json!({
            "session": &*self.ring.session,
            "type": "gap",
            "lost": lost,
        });
        Bytes::from(format!(
            "event: gap\nid: {}:{}\ndata: {data}\n\n",
            self.ring.session, self.at
        ))
    }
}

/// Where a reader was: the session and the number of the last event that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    session: Box<str>,
    id: u64,
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (session, id) = text.rsplit_once(':').ok_or(PositionError)?;
        let id = id.parse().map_err(|_| PositionError)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if session.is_empty() || session.len() > SESSION || !session.bytes().all(is_name) {
            return Err(PositionError);
        }
        Ok(Self {
            session: session.into(),
            id,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.id)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no position: expected SESSION:NUMBER")]
pub struct PositionError;

fn frame(event: &Event) -> Bytes {
    // JSON has no line breaks but those that are escaped.
    let data = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!(
        "event: {}\nid: {}:{}\ndata: {data}\n\n",
        event.kind, event.session, event.id
    ))
}

/// The media type of the stream.
pub const MEDIA_TYPE: &str = "text/event-stream";
/// Where a reader says what it had last.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How often a stream says something: proxies and routers forget connections that are silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// 4,096 events: an hour of a busy relay.
const EVENTS: usize = 4096;
/// In 4 MiB.
const SIZE: usize = 4 << 20;
/// An event may have 16 KiB.
const EVENT_SIZE: usize = 16 << 10;
/// What one reader has on its way at a time.
const PIECE: usize = 64 << 10;
/// 64 read at a time: dashboards and programs.
const READERS: usize = 64;
/// The longest name of a session.
const SESSION: usize = 64;

#[cfg(test)]
mod tests;
