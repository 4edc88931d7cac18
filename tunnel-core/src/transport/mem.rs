//! A network in memory: relay and client in one process, without a socket between them. For tests.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tokio::{io::DuplexStream, sync::mpsc};

use crate::sync::lock;

/// Connects a relay and its clients within one process. Cheap to clone; all clones are the same network.
///
/// The tunnel runs on lanes over it, with the real handshakes and the real protocol; only the sockets between relay
/// and client are missing. Public ports and targets stay real.
#[derive(Debug, Clone)]
pub struct Network {
    /// The way to the relay, as long as there is one.
    relay: Arc<Mutex<Option<mpsc::Sender<DuplexStream>>>>,
}

impl Network {
    /// A network on which nobody is yet.
    pub fn new() -> Self {
        Self {
            relay: Arc::default(),
        }
    }

    /// Takes the relay's end; a network has one relay at a time.
    pub(crate) fn listen(&self) -> io::Result<mpsc::Receiver<DuplexStream>> {
        let mut relay = lock(&self.relay);
        if relay.as_ref().is_some_and(|relay| !relay.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (connect, accept) = mpsc::channel(BACKLOG);
        *relay = Some(connect);
        Ok(accept)
    }

    /// Connects to the relay.
    pub(crate) async fn connect(&self) -> io::Result<DuplexStream> {
        let (own, relays) = tokio::io::duplex(PIPE);
        let relay = lock(&self.relay).clone();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let sent = relay.ok_or_else(refused)?.send(relays).await;
        sent.map_err(|_| refused())?;
        Ok(own)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// Connections that wait to be accepted.
const BACKLOG: usize = 64;
/// What a pipe holds in each direction: as much as the write of a lane.
const PIPE: usize = 256 * 1024;
