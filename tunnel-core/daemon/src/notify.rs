//! Tells systemd how the service is doing (sd_notify(3)); without `NOTIFY_SOCKET` in the environment, nothing.
//!
//! A thread of its own does it: a systemd that hangs holds nothing up. Of several statuses that wait, the last is told.

use std::{ffi::OsStr, fmt, io, thread, time::Duration};

use crate::{
    aside::{Aside, Waiting},
    log::LAST_WORDS,
};

/// The service runs; `status` says what it does.
pub fn ready(status: impl fmt::Display) {
    let status = one_line(status);
    leave(|news| {
        news.ready = true;
        news.status = Some(status);
    });
}

/// What `systemctl status` shows.
pub fn status(status: impl fmt::Display) {
    let status = one_line(status);
    leave(|news| news.status = Some(status));
}

/// The service is ending.
pub fn stopping() {
    leave(|news| news.stopping = true);
}

/// Waits until what was said is told, if that can be done soon.
pub(crate) fn finish() {
    NEWS.finish(LAST_WORDS);
}

static NEWS: Aside<News> = Aside::new("notify", News::new(), tell);

/// What systemd has not been told yet.
#[derive(Debug, Default)]
struct News {
    ready: bool,
    status: Option<String>,
    stopping: bool,
}

impl Waiting for News {
    fn is_empty(&self) -> bool {
        !self.ready && !self.stopping && self.status.is_none()
    }
}

impl News {
    const fn new() -> Self {
        Self {
            ready: false,
            status: None,
            stopping: false,
        }
    }

    /// As datagrams, in their order.
    fn datagrams(self) -> impl Iterator<Item = String> {
        let ready = self.ready.then(|| "READY=1".to_owned());
        let status = self.status.map(|status| format!("STATUS={status}"));
        let first: Vec<_> = ready.into_iter().chain(status).collect();
        let first = (!first.is_empty()).then(|| first.join("\n"));
        first
            .into_iter()
            .chain(self.stopping.then(|| "STOPPING=1".to_owned()))
    }
}

fn leave(change: impl FnOnce(&mut News)) {
    if std::env::var_os(SOCKET).is_none() {
        return;
    }
    if let Err(error) = NEWS.leave(change) {
        tracing::warn!(%error, "systemd could not be told how it goes");
    }
}

fn tell(news: News) {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    for datagram in news.datagrams() {
        let mut told = send(&socket, &datagram);
        if let Err(error) = &told {
            tracing::warn!(%error, "systemd could not be told {datagram:?}");
        }
        // A status is told anew with the next change. That it is ready is waited for.
        while told.is_err() && datagram.starts_with("READY=1") {
            thread::sleep(AGAIN);
            told = send(&socket, &datagram);
        }
    }
}

fn one_line(text: impl fmt::Display) -> String {
    text.to_string().replace(['\n', '\r'], " ")
}

const SOCKET: &str = "NOTIFY_SOCKET";
/// How soon a service that is ready says so again.
const AGAIN: Duration = Duration::from_secs(1);

#[cfg(target_os = "linux")]
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    };
    // A leading '@' stands for the NUL of an abstract name.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(not(target_os = "linux"))]
fn send(_socket: &OsStr, _state: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_socket_in_the_file_system_hears() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn an_abstract_socket_hears() {
        let name = format!("adit-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_ref(), "STOPPING=1").unwrap();
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
    }

    #[test]
    fn what_waits_is_told_in_order_and_the_end_by_itself() {
        let datagrams = |ready, status: Option<&str>, stopping| {
            let news = News {
                ready,
                status: status.map(str::to_owned),
                stopping,
            };
            news.datagrams().collect::<Vec<_>>()
        };
        assert!(datagrams(false, None, false).is_empty() && News::new().is_empty());
        assert_eq!(datagrams(true, Some("a"), false), ["READY=1\nSTATUS=a"]);
        assert_eq!(datagrams(false, Some("b"), false), ["STATUS=b"]);
        assert_eq!(
            datagrams(false, Some("b"), true),
            ["STATUS=b", "STOPPING=1"]
        );
        assert_eq!(
            datagrams(true, Some("c"), true),
            ["READY=1\nSTATUS=c", "STOPPING=1"]
        );
    }
}
