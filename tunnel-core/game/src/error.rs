//! What is wrong with bytes that came.

/// Why what the other side has sent is no answer, or no query. The other side is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It ends inside a value.
    #[error("the {0} ends too early")]
    Truncated(&'static str),
    /// It is longer than is read.
    #[error("the {what} has {length} bytes where at most {max} are read")]
    TooLong {
        /// Which part of it.
        what: &'static str,
        /// What it has, or promises.
        length: usize,
        /// What is read.
        max: usize,
    },
    /// It is something else.
    #[error("this is no {0}")]
    Unexpected(&'static str),
    /// The status of a Minecraft server is not the JSON that it should be.
    #[error("the status is not valid JSON: {0}")]
    Json(String),
    /// A server that repeats its challenge instead of answering.
    #[error("the server has sent {0} challenges and no answer")]
    Challenges(u8),
    /// An answer in pieces that are compressed with bzip2, as servers of 2006 and before send them.
    #[error("the answer is compressed with bzip2, which is not read")]
    Compressed,
}
