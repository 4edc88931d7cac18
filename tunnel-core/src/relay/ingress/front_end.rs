//! Connections that trusted front ends hand on: each begins with a PROXY header, which says who the player is.

use std::{io, net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::{
    event::Event,
    proto::proxy::{self, Decoded, Ends, MAX_V2, ProxyError},
    relay::shared::Shared,
};

/// What a front end says of a connection.
#[derive(Debug)]
pub(super) struct Introduced {
    /// Who it comes from, and what the player connected to; `None` if it is the front end's own.
    pub(super) ends: Option<Ends>,
    /// What came behind the header already.
    pub(super) early: Option<Bytes>,
}

/// Why a front end's connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotIntroduced {
    #[error("it sends no PROXY header within {} s", HEADER_TIME.as_secs())]
    Silent,
    #[error(transparent)]
    Header(#[from] ProxyError),
    /// It has ended or was reset: a probe, as of a port scan.
    #[error("the connection ended before its PROXY header")]
    Ended,
}

/// Reads the header. It need not come at once, but soon.
pub(super) async fn introduce(socket: &TcpStream) -> Result<Introduced, NotIntroduced> {
    match tokio::time::timeout(HEADER_TIME, read(socket)).await {
        Ok(introduced) => introduced,
        Err(_) => Err(NotIntroduced::Silent),
    }
}

async fn read(socket: &TcpStream) -> Result<Introduced, NotIntroduced> {
    let mut buffer = BytesMut::zeroed(MAX_V2);
    let mut filled = 0;
    loop {
        socket.readable().await.map_err(|_| NotIntroduced::Ended)?;
        match socket.try_read(&mut buffer[filled..]) {
            Ok(0) => return Err(NotIntroduced::Ended),
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(NotIntroduced::Ended),
        }
        // A header that is not whole when the buffer is full is too long: that is an error, so there is always room to read into.
        if let Decoded::Header { length, ends } = proxy::decode(&buffer[..filled])? {
            let behind = &buffer[length..filled];
            let early = (!behind.is_empty()).then(|| Bytes::copy_from_slice(behind));
            return Ok(Introduced { ends, early });
        }
    }
}

/// Counts and reports, once a minute for each front end, a connection that was not introduced.
pub(super) fn refuse(shared: &Shared, front_end: IpAddr, why: &NotIntroduced) {
    shared.metrics.stream_proxy_header.one();
    let front_end = front_end.to_canonical();
    let is_news = !matches!(why, NotIntroduced::Ended);
    if is_news
        && shared
            .front_ends
            .is_due(std::time::Instant::now(), front_end)
    {
        shared.emit(Event::Warning(format!(
            "a connection of {front_end}, one of trusted_proxies, is refused: {why}; \
             have it send PROXY protocol, or take it out of trusted_proxies"
        )));
    }
}

/// 5 s: a header is the first packet of its connection, and may be lost more than once.
const HEADER_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (front_end, accepted) = tokio::join!(connect, listener.accept());
        (front_end.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn whoever_says_nothing_or_half_a_header_is_not_waited_for() {
        for begun in [&b""[..], b"PROXY TCP4 198.51.100.7 "] {
            let (mut front_end, accepted) = pair().await;
            front_end.write_all(begun).await.unwrap();
            // From now on the clock runs ahead whenever nothing else is to be done.
            tokio::time::pause();
            let start = tokio::time::Instant::now();
            let refused = introduce(&accepted).await.unwrap_err();
            assert!(matches!(refused, NotIntroduced::Silent), "{refused}");
            assert!(start.elapsed() >= HEADER_TIME);
            tokio::time::resume();
        }
    }

    #[tokio::test]
    async fn a_header_that_never_ends_and_a_connection_that_ends_in_it_are_left() {
        let (mut front_end, accepted) = pair().await;
        front_end.write_all(&[b'1'; 8_000]).await.unwrap();
        let refused = introduce(&accepted).await.unwrap_err();
        assert!(matches!(
            refused,
            NotIntroduced::Header(ProxyError::Missing)
        ));
        let (mut front_end, accepted) = pair().await;
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'1'; 8_000]].concat();
        front_end.write_all(&endless).await.unwrap();
        let refused = introduce(&accepted).await.unwrap_err();
        assert!(matches!(
            refused,
            NotIntroduced::Header(ProxyError::TooLong)
        ));
        let (mut front_end, accepted) = pair().await;
        front_end.write_all(b"PROXY").await.unwrap();
        drop(front_end);
        let refused = introduce(&accepted).await.unwrap_err();
        assert!(matches!(refused, NotIntroduced::Ended));
    }
}
