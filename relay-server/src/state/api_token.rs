//! Tokens of the admin API: what is kept of each.

use std::{fmt, str::FromStr};

use adit_control::access::{Role, TokenDigest, TokenRecord};
use tunnel_core::instance::{InstanceId, NameError};

use super::time::UnixTime;

/// A token as the state file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiToken {
    pub(crate) name: TokenName,
    pub(crate) role: Role,
    pub(crate) digest: TokenDigest,
    pub(crate) created: UnixTime,
}

impl From<&ApiToken> for TokenRecord {
    fn from(token: &ApiToken) -> Self {
        Self {
            name: token.name.as_str().into(),
            role: token.role,
            digest: token.digest,
        }
    }
}

/// What a token is called; the same characters as an instance's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenName(Box<str>);

impl TokenName {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse::<InstanceId>()
            .map(|id| Self(id.as_str().into()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What adding a token met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is valid from now on.
    Done,
    /// Another token has the name.
    Taken,
    /// There are as many as there may be.
    Full,
}

/// 1,000 tokens: each request is held against all of them.
pub(crate) const MOST_TOKENS: i64 = 1000;
