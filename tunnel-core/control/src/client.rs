//! The other side of an API: a client whose answers are types, whose errors are [`Problem`](crate::problem::Problem)s, and which waits and reads no more
//! than it says.

mod error;
mod events;
mod exchange;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
pub use hyper::Method;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_MATCH},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, time};

use self::exchange::{Open, exchange, read, refused};
pub use self::{
    error::ClientError,
    events::{EventStream, Told},
};
use crate::{access::Secret, listen::Address};

/// A client of an API, over TCP or a Unix socket. Cloned, it is the same.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    authorization: Option<Arc<HeaderValue>>,
    timeout: Duration,
}

/// An answer, and the version of what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer<T> {
    /// What was answered.
    pub value: T,
    /// For [`If-Match`](Client::change), where the answer has one.
    pub version: Option<String>,
}

impl Client {
    /// For the API at this address, without TLS.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            authorization: None,
            timeout: TIMEOUT,
        }
    }

    /// Brings this token.
    #[must_use]
    pub fn token(mut self, token: &Secret) -> Self {
        let mut text = zeroize::Zeroizing::new(String::with_capacity(64));
        text.push_str("Bearer ");
        text.push_str(&token.to_text());
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            self.authorization = Some(Arc::new(value));
        }
        self
    }

    /// Waits so long for an answer, 30 s unless said otherwise.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reads what stands at a path, as [`path`] makes it.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, ClientError> {
        self.json(self.request(Method::GET, path, None, None)?)
            .await
    }

    /// Adds something.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        self.change(Method::POST, path, body, None).await
    }

    /// Changes something by any method, with `If-Match` where a version is given.
    pub async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        version: Option<&str>,
    ) -> Result<Answer<T>, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Unwritable)?;
        self.json(self.request(method, path, Some(body), version)?)
            .await
    }

    /// Removes something.
    pub async fn delete(&self, path: &str, version: Option<&str>) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, path, None, version)?;
        self.whole(request).await.map(drop)
    }

    /// Events from now on, or from after `last` on, the id of one that was told before.
    pub async fn events(&self, path: &str, last: Option<&str>) -> Result<EventStream, ClientError> {
        let mut request = self.request(Method::GET, path, None, None)?;
        if let Some(last) = last {
            let value = HeaderValue::from_str(last).map_err(|_| ClientError::Path)?;
            request
                .headers_mut()
                .insert(crate::events::LAST_EVENT_ID, value);
        }
        let media = HeaderValue::from_static(crate::events::MEDIA_TYPE);
        request.headers_mut().insert(ACCEPT, media);
        let opened = time::timeout(self.timeout, self.send(request)).await;
        let (response, connection) = opened.map_err(|_| ClientError::Timeout(self.timeout))??;
        if response.status() != StatusCode::OK {
            let read = time::timeout(self.timeout, read(response)).await;
            let (status, _, body) = read.map_err(|_| ClientError::Timeout(self.timeout))??;
            return Err(refused(status, &body));
        }
        Ok(EventStream::new(response.into_body(), connection))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        version: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let host = match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, HeaderValue::clone(authorization));
        }
        if let Some(version) = version {
            request = request.header(IF_MATCH, version);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        request.body(body).map_err(|_| ClientError::Path)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer<T>, ClientError> {
        let (headers, body) = self.whole(request).await?;
        // An answer without content is JSON's nothing.
        let text = if body.is_empty() {
            b"null".as_slice()
        } else {
            &body
        };
        let version = headers.get(ETAG).and_then(|value| value.to_str().ok());
        Ok(Answer {
            value: serde_json::from_slice(text).map_err(ClientError::Unreadable)?,
            version: version.map(str::to_owned),
        })
    }

    /// Sends, and reads the whole answer; errors of the other side are problems.
    async fn whole(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(HeaderMap, Bytes), ClientError> {
        let exchange = async {
            let (response, _connection) = self.send(request).await?;
            read(response).await
        };
        let exchanged = time::timeout(self.timeout, exchange).await;
        let (status, headers, body) =
            exchanged.map_err(|_| ClientError::Timeout(self.timeout))??;
        if status.is_success() {
            return Ok((headers, body));
        }
        Err(refused(status, &body))
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Open), ClientError> {
        let failed = |source| ClientError::Connect {
            address: self.address.clone(),
            source,
        };
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                exchange(stream, request).await
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path)
                    .await
                    .map_err(failed)?;
                exchange(stream, request).await
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(failed(std::io::ErrorKind::Unsupported.into())),
        }
    }
}

/// A path of these segments, each encoded: what stands in one leads nowhere else.
pub fn path<'s>(segments: impl IntoIterator<Item = &'s str>) -> String {
    let mut text = String::new();
    for segment in segments {
        text.push('/');
        for byte in segment.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                    text.push(byte.into())
                }
                // A dot alone, or two, would be a place of its own.
                b'.' if !segment.trim_matches('.').is_empty() => text.push('.'),
                // Writing into a string does not fail.
                _ => drop(write!(text, "%{byte:02X}")),
            }
        }
    }
    text
}

/// As long as the other side gives its handlers.
const TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_leads_nowhere_else() {
        assert_eq!(path(["api", "clients", "node-1"]), "/api/clients/node-1");
        assert_eq!(
            path(["a", "../b?c#d%", ".."]),
            "/a/..%2Fb%3Fc%23d%25/%2E%2E"
        );
        assert_eq!(path(["ä", "1.2"]), "/%C3%A4/1.2");
    }
}
