//! Who may connect: the clients of the configuration file and those of the state file, kept in memory for handshakes.

mod api_token;
mod audit;
mod authority;
mod ban;
mod enrolment;
mod snapshot;
mod store;
pub(crate) mod time;
pub(crate) mod watch;

pub(crate) use api_token::{Added, ApiToken, MOST_TOKENS, TokenName};
pub(crate) use audit::AuditRow;
pub(crate) use authority::StateAuthority;
pub(crate) use ban::BanRow;
pub(crate) use enrolment::{Invitation, Revoked};
pub(crate) use store::{InviteError, Store, StoreError};
