//! Why there is no answer.

use std::{io, time::Duration};

use crate::{listen::Address, problem::Problem};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or what came is no HTTP.
    #[error("the connection has failed: {0}")]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The other side says why not.
    #[error("{0}")]
    Problem(Problem),
    /// The answer is larger than answers may be.
    #[error("the answer is larger than {} MiB", ANSWER >> 20)]
    TooLarge,
    /// The answer is no JSON of the type that was asked for.
    #[error("the answer cannot be read: {0}")]
    Unreadable(serde_json::Error),
    /// The body cannot be written as JSON.
    #[error("the request cannot be written: {0}")]
    Unwritable(serde_json::Error),
    /// The path, or a header, has what none may have.
    #[error("the path or a header of the request is not valid")]
    Path,
}

/// 16 MiB: a list of 10,000 instances has less.
pub(super) const ANSWER: usize = 16 << 20;
