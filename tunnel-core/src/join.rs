//! The join string: what an operator hands to a new client.
//!
//! `adit://HOST:PORT/RELAY_PUBLIC_KEY#TOKEN`: where the relay is, who it is, and a token that proves the right
//! to enrol. The token is its id (16 bytes, named in the handshake) and its secret (32 bytes, proven as the
//! pre-shared key and never sent), together 48 bytes in unpadded base64url: 64 characters.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::{
    instance::{HostPort, HostPortError},
    key::{self, KEY_LEN, KeyError, Psk, PublicKey},
    text::bare,
};

/// Which token a client claims: public, travels inside the encrypted payload of message 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The id as 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for TokenId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({})", URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// The right to enrol: an id and a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the client names.
    pub id: TokenId,
    /// What the client proves, as the handshake's pre-shared key.
    pub secret: Psk,
}

impl Token {
    /// A new token from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self {
            id: TokenId(key::random()?),
            secret: Psk::generate()?,
        })
    }
}

/// A parsed join string. Printing it with `{}` gives the string back, secret included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    /// Where the relay listens.
    pub relay: HostPort,
    /// Who the relay is.
    pub relay_public_key: PublicKey,
    /// The right to enrol.
    pub token: Token,
}

impl fmt::Display for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut token = Zeroizing::new([0; TOKEN_LEN]);
        token[..16].copy_from_slice(&self.token.id.0);
        token[16..].copy_from_slice(self.token.secret.as_bytes());
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(token.as_slice()));
        let (relay, key) = (&self.relay, self.relay_public_key);
        write!(f, "{SCHEME}{relay}/{key}#{}", *token)
    }
}

impl FromStr for JoinString {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let text = bare(text);
        if text.len() > MAX_LEN {
            return Err(JoinError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(JoinError::NoScheme)?;
        if rest.contains(char::is_whitespace) {
            return Err(JoinError::WhiteSpace);
        }
        let (relay, rest) = rest.split_once('/').ok_or(JoinError::NoKey)?;
        let (public_key, token) = rest.split_once('#').ok_or(JoinError::NoToken)?;
        let bytes = URL_SAFE_NO_PAD.decode(token).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| JoinError::BadToken)?;
        let (id, secret) = bytes.split_first_chunk().ok_or(JoinError::BadToken)?;
        let secret: [u8; KEY_LEN] = secret.try_into().map_err(|_| JoinError::BadToken)?;
        Ok(Self {
            relay: relay.parse().map_err(JoinError::BadAddress)?,
            relay_public_key: public_key.parse().map_err(JoinError::BadKey)?,
            token: Token {
                id: TokenId(*id),
                secret: Psk::from(secret),
            },
        })
    }
}

/// Why a join string could not be read. No message repeats the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Longer than any join string.
    #[error("a join string has at most {MAX_LEN} characters")]
    TooLong,
    /// It does not start with `adit://`.
    #[error(
        "a join string starts with adit:// (copy the whole line that `relay-server invite` printed)"
    )]
    NoScheme,
    /// A mail program has broken it into lines, or something follows it.
    #[error("a join string has no white space in it: put it on one line, with nothing behind it")]
    WhiteSpace,
    /// The relay's public key is missing.
    #[error("the join string ends before the relay's public key (was it cut off?)")]
    NoKey,
    /// The token is missing; a shell may have taken `#…` for a comment.
    #[error(
        "the join string ends before its token: put it in quotes, '#' starts a comment in some shells"
    )]
    NoToken,
    /// The token is not 48 bytes of base64url.
    #[error("the token in the join string is damaged (was it cut off?)")]
    BadToken,
    /// The address is not `HOST:PORT`.
    #[error("the relay's address in the join string is wrong: {0}")]
    BadAddress(#[source] HostPortError),
    /// The relay's public key is damaged.
    #[error("the relay's public key in the join string is wrong: {0}")]
    BadKey(#[source] KeyError),
}

const SCHEME: &str = "adit://";
const TOKEN_LEN: usize = 16 + KEY_LEN;
/// Scheme 7, host name 253, brackets and port 8, key 43, token 64, separators: 400 is the next round number.
const MAX_LEN: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JoinString {
        JoinString {
            relay: "relay.example.net:4433".parse().unwrap(),
            relay_public_key: PublicKey::from([1; 32]),
            token: Token {
                id: TokenId([2; 16]),
                secret: Psk::from([3; 32]),
            },
        }
    }

    #[test]
    fn text_form_comes_back() {
        let text = sample().to_string();
        assert_eq!(text.parse::<JoinString>().unwrap(), sample());
        let v6 = JoinString {
            relay: "[2001:db8::1]:4433".parse().unwrap(),
            ..sample()
        };
        assert_eq!(v6.to_string().parse::<JoinString>().unwrap(), v6);
    }

    #[test]
    fn text_form_of_version_1_stays() {
        assert_eq!(
            sample().to_string(),
            "adit://relay.example.net:4433/AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE#\
             AgICAgICAgICAgICAgICAgMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD"
        );
    }

    #[test]
    fn text_that_tools_have_written_is_read() {
        let text = sample().to_string();
        for written in [
            format!("\u{feff}{text}\r\n"),
            format!("\"{text}\"\r"),
            format!("'{text}'"),
            format!("“{text}”"),
        ] {
            assert_eq!(written.parse(), Ok(sample()), "{written:?}");
        }
        let (start, end) = text.split_at(80);
        for broken in [format!("{start}\r\n{end}"), format!("{text} {text}")] {
            assert_eq!(broken.parse::<JoinString>(), Err(JoinError::WhiteSpace));
        }
    }

    #[test]
    fn every_truncation_is_refused_without_the_secret() {
        let text = sample().to_string();
        for end in 0..text.len() {
            let error = text[..end].parse::<JoinString>().unwrap_err().to_string();
            assert!(!error.contains("AgICAg"), "{error}");
        }
        assert_eq!(
            "x".repeat(10_000).parse::<JoinString>(),
            Err(JoinError::TooLong)
        );
    }
}
