//! The probes that the engine brings.

use std::ops::RangeInclusive;

use crate::health::{
    check::CheckError,
    probe::{Asked, Exchange, Over, Probe},
    state::Report,
};

/// Whether a TCP connection can be made. Nothing is said on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpProbe;

impl Probe for TcpProbe {
    fn name(&self) -> &str {
        "tcp"
    }

    fn over(&self) -> Over {
        Over::Tcp
    }

    fn ask(&self, _: Asked<'_>) -> Box<dyn Exchange> {
        Box::new(Connect)
    }
}

struct Connect;

impl Exchange for Connect {
    fn is_answered_by_connection(&self) -> bool {
        true
    }

    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn handle_input(&mut self, _: &[u8]) -> Result<Option<Report>, String> {
        Ok(Some(Report::default()))
    }
}

/// Whether an HTTP server answers to a GET with an expected status. The answer's head is read up to its first line, its body not
/// at all.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    name: String,
    path: Box<str>,
    status: RangeInclusive<u16>,
}

impl HttpProbe {
    /// Asks for a path, such as `/health`, and expects a status within this range.
    pub fn new(path: &str, status: RangeInclusive<u16>) -> Result<Self, CheckError> {
        let is_path = path.starts_with('/') && path.len() <= PATH_MAX;
        if !is_path || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CheckError::Path(path.chars().take(80).collect()));
        }
        if !(100..=599).contains(status.start()) || !(100..=599).contains(status.end()) {
            return Err(CheckError::Status(*status.start()));
        }
        Ok(Self {
            name: format!("http {path} {}-{}", status.start(), status.end()),
            path: path.into(),
            status,
        })
    }
}

impl Probe for HttpProbe {
    fn name(&self) -> &str {
        &self.name
    }

    fn over(&self) -> Over {
        Over::Tcp
    }

    fn ask(&self, asked: Asked<'_>) -> Box<dyn Exchange> {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: adit\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.path, asked.target
        );
        Box::new(Get {
            request: Some(request.into_bytes()),
            status: self.status.clone(),
            line: Vec::new(),
        })
    }
}

struct Get {
    request: Option<Vec<u8>>,
    status: RangeInclusive<u16>,
    line: Vec<u8>,
}

impl Exchange for Get {
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.request.take()
    }

    fn handle_input(&mut self, input: &[u8]) -> Result<Option<Report>, String> {
        let room = LINE_MAX.saturating_sub(self.line.len());
        self.line
            .extend_from_slice(input.get(..room).unwrap_or(input));
        let end = self.line.iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return if input.is_empty() || self.line.len() >= LINE_MAX {
                Err("the answer is not HTTP".into())
            } else {
                Ok(None)
            };
        };
        let line = String::from_utf8_lossy(&self.line[..end]);
        let mut words = line.split_ascii_whitespace();
        let version = words.next().unwrap_or_default();
        let status = words.next().and_then(|word| word.parse::<u16>().ok());
        match status.filter(|_| version.starts_with("HTTP/1.")) {
            Some(status) if self.status.contains(&status) => Ok(Some(Report::default())),
            Some(status) => Err(format!("the answer's status is {status}")),
            None => Err("the answer is not HTTP".into()),
        }
    }
}

/// Whether a datagram is answered by one that begins as expected.
#[derive(Clone, Debug)]
pub struct UdpProbe {
    name: String,
    send: Box<[u8]>,
    expect: Box<[u8]>,
}

impl UdpProbe {
    /// Sends these bytes, 1 to 1,200, and expects an answer that begins with those, which may be none.
    pub fn new(send: &[u8], expect: &[u8]) -> Result<Self, CheckError> {
        if send.is_empty() || send.len() > DATAGRAM_MAX || expect.len() > DATAGRAM_MAX {
            return Err(CheckError::Datagram);
        }
        Ok(Self {
            name: format!("udp {} {}", hex(send), hex(expect)),
            send: send.into(),
            expect: expect.into(),
        })
    }
}

impl Probe for UdpProbe {
    fn name(&self) -> &str {
        &self.name
    }

    fn over(&self) -> Over {
        Over::Udp
    }

    fn ask(&self, _: Asked<'_>) -> Box<dyn Exchange> {
        Box::new(Datagram {
            send: self.send.clone(),
            expect: self.expect.clone(),
            is_sent: false,
        })
    }
}

struct Datagram {
    send: Box<[u8]>,
    expect: Box<[u8]>,
    is_sent: bool,
}

impl Exchange for Datagram {
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!std::mem::replace(&mut self.is_sent, true)).then(|| self.send.to_vec())
    }

    fn handle_input(&mut self, input: &[u8]) -> Result<Option<Report>, String> {
        if input.starts_with(&self.expect) {
            Ok(Some(Report::default()))
        } else {
            Err("the answer does not begin as expected".into())
        }
    }

    fn handle_silence(&mut self) {
        self.is_sent = false;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Longest path, in bytes.
const PATH_MAX: usize = 1024;
/// Longest first line of an answer, in bytes.
const LINE_MAX: usize = 1024;
/// Longest datagram, in bytes: it fits every path.
const DATAGRAM_MAX: usize = 1200;
