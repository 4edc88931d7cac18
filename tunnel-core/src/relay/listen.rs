//! Accepts connections, whatever errors the system reports meanwhile.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};

use crate::{event::Event, relay::shared::Shared, socket};

impl Shared {
    /// The next connection. After an error it tries again, ten times a second at most; errors are counted and reported once a minute.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if socket::is_exhausted(&error) => {
                    self.metrics.no_descriptors.one();
                    self.spare.refuse(listener).await;
                }
                // The other side has given up before it was accepted; the next connection may wait behind it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.metrics.accepts_failed.one();
                    self.tell_deaf(listener, &error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn tell_deaf(&self, listener: &TcpListener, error: &io::Error) {
        let Ok(address) = listener.local_addr() else {
            return;
        };
        if self.deaf.is_due(Instant::now(), address) {
            let text = format!("connections to {address} cannot be accepted: {error}");
            self.emit(Event::Warning(text));
        }
    }
}

/// Between two tries after an error: too short for a player to notice, and long enough to cost nothing where the error lasts.
const PAUSE: Duration = Duration::from_millis(100);
