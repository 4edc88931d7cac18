//! Reads datagrams from QUIC in batches and hands them to whoever delivers them.

use bytes::Bytes;

use crate::tunnel::futures::now_or_never;

/// What takes datagrams out of a tunnel.
pub(crate) trait DatagramHandler: Send {
    /// One datagram came. Never waits.
    fn handle(&mut self, datagram: Bytes);
    /// No more are ready at the moment: what was gathered may go.
    fn flush(&mut self);
}

/// Hands on what QUIC's datagrams bring, until the connection ends.
pub(crate) async fn read_quic_datagrams(
    connection: quinn::Connection,
    handler: &mut dyn DatagramHandler,
) -> quinn::ConnectionError {
    loop {
        match connection.read_datagram().await {
            Ok(datagram) => handler.handle(datagram),
            Err(error) => return error,
        }
        for _ in 1..BATCH {
            match now_or_never(connection.read_datagram()).await {
                Some(Ok(datagram)) => handler.handle(datagram),
                // The next round returns the error.
                Some(Err(_)) | None => break,
            }
        }
        handler.flush();
        // A flood must not keep the thread from everybody else.
        tokio::task::consume_budget().await;
    }
}

/// 64 datagrams between two flushes: what one batch of system calls takes.
pub(crate) const BATCH: usize = 64;
