//! Who may connect: the clients of the configuration file and those of the state file, kept in memory for handshakes.

mod authority;
mod enrolment;
mod snapshot;
mod store;
pub(crate) mod time;
pub(crate) mod watch;

pub(crate) use authority::StateAuthority;
pub(crate) use enrolment::{Invitation, Revoked};
pub(crate) use store::{InviteError, Store, StoreError};
