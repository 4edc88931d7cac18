//! A ban, as the state file keeps it.

use tunnel_core::{
    addresses::IpNet,
    instance::{InstanceId, ServiceName},
    relay::Ban,
};

use super::time::UnixTime;

/// Who may not play, where, until when, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BanRow {
    pub(crate) addresses: IpNet,
    /// `None`: at all instances.
    pub(crate) instance: Option<InstanceId>,
    /// `None`: at all services.
    pub(crate) service: Option<ServiceName>,
    /// `None`: for ever.
    pub(crate) until: Option<UnixTime>,
    pub(crate) reason: Option<String>,
    /// Whose token has made it.
    pub(crate) who: String,
    pub(crate) created: UnixTime,
}

impl BanRow {
    /// Whether it has ended.
    pub(crate) fn is_over(&self, now: UnixTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// As the relay knows it.
    pub(crate) fn ban(&self) -> Ban {
        let mut ban = Ban::everywhere(self.addresses);
        if let Some(instance) = &self.instance {
            ban = ban.at_instance(instance.clone());
        }
        if let Some(service) = &self.service {
            ban = ban.at_service(service.clone());
        }
        ban
    }
}
