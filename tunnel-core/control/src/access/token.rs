//! Tokens: 256 random bits, of which only the SHA-256 is kept, and the roles that they give.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// The secret of a token: `adit_` and 43 characters. It is shown once, when it is made.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A new one, of the operating system's randomness.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| SecretError::Randomness)?;
        Ok(Self(bytes))
    }

    /// As its holder sends it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT));
        text.push_str(PREFIX);
        BASE64_URL_SAFE_NO_PAD.encode_string(self.0.as_slice(), &mut text);
        text
    }

    /// What is kept of it.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(self.0.as_slice())
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(SecretError::Form)?;
        // Checked before it is decoded: what is longer is no token, however long.
        if encoded.len() != TEXT - PREFIX.len() {
            return Err(SecretError::Form);
        }
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new);
        let decoded = decoded.map_err(|_| SecretError::Form)?;
        let bytes: [u8; 32] = decoded
            .as_slice()
            .try_into()
            .map_err(|_| SecretError::Form)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why there is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// It does not look like one.
    #[error("no token: expected adit_ and 43 characters")]
    Form,
    /// The operating system has none.
    #[error("the operating system has no randomness")]
    Randomness,
}

/// The SHA-256 of a secret. Of 256 random bits it is as hard to find as they are: no salt, no slow hash is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut value = [0; 32];
        value.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(value)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for TokenDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// What a caller may do. Each role may do what those before it may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Reads counters (`/metrics`) and nothing else.
    Metrics,
    /// Reads everything that is no secret.
    Viewer,
    /// Changes what runs.
    Operator,
    /// Changes who may do what.
    Admin,
}

impl Role {
    /// All, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Metrics, Self::Viewer, Self::Operator, Self::Admin];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or(RoleError)
    }
}

/// A word that is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no role: expected admin, operator, viewer or metrics")]
pub struct RoleError;

/// A token that is valid.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    /// What it is called.
    pub name: Arc<str>,
    /// What its holder may do.
    pub role: Role,
    /// What is kept of its secret.
    pub digest: TokenDigest,
}

/// Where a program keeps its tokens. Asked at every request, so the answer is in memory.
pub trait Tokens: Send + Sync + 'static {
    /// Every token that is valid now.
    fn tokens(&self) -> Arc<[TokenRecord]>;
}

impl Tokens for Arc<[TokenRecord]> {
    fn tokens(&self) -> Arc<[TokenRecord]> {
        self.clone()
    }
}

/// The token that has this digest. It takes the same time whichever it is, and whether there is one.
pub(super) fn find(tokens: &[TokenRecord], digest: &TokenDigest) -> Option<usize> {
    let mut found = u64::MAX;
    for (index, token) in (0..).zip(tokens) {
        let equal = token.digest.0.ct_eq(&digest.0);
        found = u64::conditional_select(&found, &index, equal);
    }
    usize::try_from(found)
        .ok()
        .filter(|index| *index < tokens.len())
}

/// What the text of a token begins with, so that scanners of leaked secrets know it.
const PREFIX: &str = "adit_";
/// Its length.
const TEXT: usize = PREFIX.len() + 43;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_shows_itself_to_nobody_else() {
        let secret = Secret::generate().unwrap();
        let text = secret.to_text();
        assert_eq!((text.len(), &text[..5]), (48, "adit_"));
        let read: Secret = format!("{}\n", *text).parse().unwrap();
        assert_eq!(read.digest(), secret.digest());
        assert_ne!(Secret::generate().unwrap().digest(), secret.digest());
        assert_eq!(format!("{secret:?}"), "Secret");
        // SHA-256 of 32 zero bytes.
        let zero = Secret(Zeroizing::new([0; 32])).digest();
        assert_eq!(zero.as_bytes()[..4], [0x66, 0x68, 0x7a, 0xad]);
    }

    #[test]
    fn what_is_no_token_is_refused_at_any_length() {
        let good = Secret::generate().unwrap().to_text();
        let long = "a".repeat(1 << 20);
        for bad in [
            "",
            "adit_",
            &good[..47],
            &good[5..],
            &format!("{}A", *good),
            &long,
            &good.replace("adit_", "edit_"),
        ] {
            assert_eq!(bad.parse::<Secret>().unwrap_err(), SecretError::Form);
        }
    }

    #[test]
    fn a_token_is_found_by_its_digest_alone() {
        let secrets: Vec<_> = (0..3).map(|_| Secret::generate().unwrap()).collect();
        let tokens: Vec<_> = secrets
            .iter()
            .map(|secret| TokenRecord {
                name: "same".into(),
                role: Role::Viewer,
                digest: secret.digest(),
            })
            .collect();
        for (index, secret) in secrets.iter().enumerate() {
            assert_eq!(find(&tokens, &secret.digest()), Some(index));
        }
        assert_eq!(find(&tokens, &Secret::generate().unwrap().digest()), None);
        assert_eq!(find(&[], &secrets[0].digest()), None);
    }

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(RoleError));
    }
}
