//! What the relay's admin API speaks of, as types of its two sides.

mod audit;
mod clients;
mod instances;
mod page;
mod players;
mod ports;
mod tunnels;

pub use audit::{AuditEntry, AuditQuery};
pub use clients::{
    BoundInstance, BoundService, ClientState, ClientView, Connection, InviteRequest, Invited,
};
pub use instances::{
    DryRun, InstanceQuery, InstanceRequest, InstanceState, InstanceView, MaintenanceRequest,
    MaintenanceView, PortSpec, ProtocolName, ServiceRequest, ServiceView, Source, StateRequest,
    TunnelState, Wanted, text_fault,
};
pub use page::{Page, PageQuery};
pub use players::{BanQuery, BanRequest, BanView, PlayerQuery, PlayerView};
pub use ports::{PortUse, PortsView};
pub use tunnels::{HealthView, TunnelView};
