//! What the relay's admin API speaks of, as types of its two sides.

mod audit;
mod clients;
mod page;
mod ports;

pub use audit::{AuditEntry, AuditQuery};
pub use clients::{
    BoundInstance, BoundService, ClientState, ClientView, Connection, InviteRequest, Invited,
};
pub use page::{Page, PageQuery};
pub use ports::{PortUse, PortsView};
