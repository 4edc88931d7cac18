//! Server-sent events as they come.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{error::ClientError, exchange::Open};
use crate::events::Event;

/// Events of an API. It ends when the other side ends it: then who still wants to read asks again, from
/// [`last`](Self::last) on.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    buffer: BytesMut,
    last: Option<String>,
    _connection: Open,
}

/// What a stream tells.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Told {
    /// Something has happened.
    Event(Event),
    /// Events were lost, so many as are known: what is there now is to be read again.
    Gap(Option<u64>),
}

impl EventStream {
    pub(super) fn new(body: Incoming, connection: Open) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            last: None,
            _connection: connection,
        }
    }

    /// The id of what was told last, to go on from there.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// What is told next; `None` once the other side has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Told, ClientError>> {
        loop {
            while let Some(frame) = take_frame(&mut self.buffer) {
                match read(&frame) {
                    Ok(None) => {}
                    Ok(Some((id, told))) => {
                        self.last = id.or(self.last.take());
                        return Some(Ok(told));
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            if self.buffer.len() > FRAME {
                return Some(Err(ClientError::TooLarge));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

/// The next whole frame: it ends in an empty line.
fn take_frame(buffer: &mut BytesMut) -> Option<BytesMut> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    Some(buffer.split_to(end + 2))
}

fn read(frame: &[u8]) -> Result<Option<(Option<String>, Told)>, ClientError> {
    let text = String::from_utf8_lossy(frame);
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let Some(data) = field("data") else {
        return Ok(None);
    };
    let told = match field("event") {
        Some("gap") => {
            let gap: serde_json::Value =
                serde_json::from_str(data).map_err(ClientError::Unreadable)?;
            Told::Gap(gap.get("lost").and_then(serde_json::Value::as_u64))
        }
        _ => Told::Event(serde_json::from_str(data).map_err(ClientError::Unreadable)?),
    };
    Ok(Some((field("id").map(str::to_owned), told)))
}

/// 64 KiB: an event has 16.
const FRAME: usize = 64 << 10;
