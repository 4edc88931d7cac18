//! What is tunnelled: instances and their services.
//!
//! Text becomes a type once, where a [`Service`] or an [`Instance`] is made; running code only ever sees valid values.

mod claims;
mod host;
mod name;
mod options;
mod parse;
mod players;
mod port;
mod service;

pub use claims::PortClaims;
pub use host::{Host, HostPort, HostPortError, Target};
pub use name::{InstanceId, NameError, ServiceName};
pub use options::{FlowLimits, Optimize, OptionError, Protocol, Redundancy};
pub use players::{ProxyDatagrams, ProxyProtocol, Source};
pub use port::{PortRange, PortSet, PortsError};
pub use service::{Instance, MAX_RANGE, MAX_SERVICES, Service, ServiceError};

#[cfg(test)]
mod tests;
