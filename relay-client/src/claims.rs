//! Which ids and public ports are taken by which instance of this client.

use std::collections::HashMap;

use tunnel_core::instance::{InstanceId, PortClaims, Service};

/// What has been claimed so far. `W` says by whom, for the message to who comes second.
#[derive(Debug)]
pub(crate) struct Claims<W> {
    ids: HashMap<InstanceId, W>,
    ports: PortClaims<W>,
}

impl<W: Clone + PartialEq> Claims<W> {
    /// Nothing is claimed.
    pub(crate) fn new() -> Self {
        Self {
            ids: HashMap::new(),
            ports: PortClaims::default(),
        }
    }

    /// Claims an id, or says who has it.
    pub(crate) fn id(&mut self, id: &InstanceId, whose: W) -> Result<(), W> {
        match self.ids.get(id) {
            Some(first) => Err(first.clone()),
            None => {
                self.ids.insert(id.clone(), whose);
                Ok(())
            }
        }
    }

    /// Claims a service's public ports, or says who has one of them.
    pub(crate) fn ports(&mut self, service: &Service, whose: W) -> Result<(), W> {
        let (protocol, ports) = (service.protocol(), service.public());
        if let Some(first) = self.ports.holders(protocol, ports).next() {
            return Err(first.clone());
        }
        self.ports.claim(protocol, ports, &whose);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(protocol: &str, ports: &str) -> Service {
        let target = format!("h:{ports}");
        Service::new("x", protocol.parse().unwrap(), &*target).unwrap()
    }

    #[test]
    fn a_port_is_claimed_once_per_protocol() {
        let mut claims = Claims::new();
        assert_eq!(claims.ports(&service("udp", "100-200"), 1), Ok(()));
        assert_eq!(claims.ports(&service("tcp", "150"), 2), Ok(()));
        assert_eq!(claims.ports(&service("both", "300"), 3), Ok(()));
        for (protocol, ports, owner) in [
            ("udp", "100", 1),
            ("udp", "200-201", 1),
            ("udp", "99-1000", 3),
            ("udp", "150", 1),
            ("both", "150", 2),
            ("both", "199", 1),
            ("tcp", "300", 3),
        ] {
            assert_eq!(claims.ports(&service(protocol, ports), 9), Err(owner));
        }
        assert_eq!(claims.ports(&service("both", "201-299"), 4), Ok(()));
        assert_eq!(claims.ports(&service("udp", "99"), 5), Ok(()));
    }

    #[test]
    fn an_id_is_claimed_once() {
        let mut claims = Claims::new();
        let id: InstanceId = "srv_1".parse().unwrap();
        assert_eq!(claims.id(&id, "first"), Ok(()));
        assert_eq!(claims.id(&id, "second"), Err("first"));
    }
}
