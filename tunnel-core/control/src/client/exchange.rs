//! One request and its answer over a connection of their own.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

use super::error::{ANSWER, ClientError};
use crate::problem::Problem;

/// A connection's task; dropped, it ends.
#[derive(Debug)]
pub(super) struct Open(AbortHandle);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Open), ClientError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an API has ended");
        }
    });
    let open = Open(task.abort_handle());
    Ok((sender.send_request(request).await?, open))
}

pub(super) async fn read(
    response: Response<Incoming>,
) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                return ClientError::TooLarge;
            }
            match error.downcast::<hyper::Error>() {
                Ok(error) => ClientError::Http(*error),
                Err(_) => ClientError::TooLarge,
            }
        })?;
    Ok((parts.status, parts.headers, body.to_bytes()))
}

/// The problem of an answer, or one made of its status.
pub(super) fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let problem = serde_json::from_slice(body);
    ClientError::Problem(problem.unwrap_or_else(|_| Problem::of_status(status)))
}

/// What is read of an answer at a time.
const BUFFER: usize = 64 << 10;
