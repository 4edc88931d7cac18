//! Who may ask for what: bearer tokens with roles, sessions of a browser, and how often anybody may ask.

mod caller;
mod check;
mod session;
mod throttle;
mod token;

pub(crate) use caller::no_token;
pub use caller::{Admin, Caller, Operator, Peer, Viewer};
pub use check::{Access, Allowance};
pub(crate) use check::{is_safe, may_read_metrics};
pub use token::{Role, RoleError, Secret, SecretError, TokenDigest, TokenRecord, Tokens};
