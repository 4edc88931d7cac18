//! What a tunnel can run on.

use std::fmt;

/// What a tunnel runs on. `{}` prints it as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// `quic`: a QUIC connection over UDP, with lanes beside it.
    Quic,
    /// `lane`: TCP lanes alone.
    Lane,
    /// `mem`: lanes over pipes in memory, within one process ([`mem::Network`](crate::mem::Network)).
    Mem,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Lane => "lane",
            Self::Mem => "mem",
        })
    }
}
