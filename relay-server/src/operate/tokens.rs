//! Tokens of the admin API: who may ask for what.

use adit_control::access::{Role, Secret, SecretError};

use crate::{
    config::Config,
    state::{Added, ApiToken, MOST_TOKENS, Store, StoreError, TokenName, time::UnixTime},
};

/// Makes a token. Its secret is known to nobody else, and is never to be had again. A running relay takes it within a second.
pub(crate) fn create(
    config: &Config,
    name: TokenName,
    role: Role,
    now: UnixTime,
) -> Result<Secret, CreateError> {
    let secret = Secret::generate()?;
    let token = ApiToken {
        name,
        role,
        digest: secret.digest(),
        created: now,
    };
    match Store::open(&config.state_file)?.add_api_token(&token)? {
        Added::Done => Ok(secret),
        Added::Taken => Err(CreateError::Taken(token.name)),
        Added::Full => Err(CreateError::Full),
    }
}

/// Every token, by name.
pub(crate) fn list(config: &Config) -> Result<Vec<ApiToken>, StoreError> {
    match Store::open_existing(&config.state_file)? {
        Some(store) => store.api_tokens(),
        None => Ok(Vec::new()),
    }
}

/// Ends a token, and what it has opened; whether there was one of that name.
pub(crate) fn revoke(config: &Config, name: &TokenName) -> Result<bool, StoreError> {
    match Store::open_existing(&config.state_file)? {
        Some(mut store) => store.remove_api_token(name),
        None => Ok(false),
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CreateError {
    /// Another one has the name.
    #[error("a token is called {0} already: choose another name, or revoke that one first")]
    Taken(TokenName),
    /// There are as many as there may be.
    #[error("there are {MOST_TOKENS} tokens already: revoke one that nobody uses first")]
    Full,
    /// The operating system has no randomness.
    #[error(transparent)]
    Randomness(#[from] SecretError),
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
