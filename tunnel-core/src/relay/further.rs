//! Finds the tunnel that a further lane belongs to.
//!
//! The first connection of a tunnel proves the client's key. Each lane after it proves instead that it knows a secret which that
//! first handshake has exported.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use crate::{
    proto::handshake::{Secret, Suite},
    relay::tunnel::RelayTunnel,
    sync::lock,
    transport::lane::{LaneRegistry, LaneSecretHandle, TunnelId},
};

/// The tunnels that further lanes may join, by the id that a lane names.
#[derive(Debug, Default)]
pub(crate) struct FurtherLanes(Mutex<HashMap<TunnelId, Member>>);

#[derive(Debug)]
struct Member {
    secret: LaneSecretHandle,
    tunnel: Weak<RelayTunnel>,
}

/// Keeps a tunnel in the table until it is dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    lanes: Arc<FurtherLanes>,
    id: TunnelId,
}

impl FurtherLanes {
    /// From now on, lanes may be added to a tunnel whose handshake exported this secret.
    pub(crate) fn join(
        self: &Arc<Self>,
        tunnel: &Arc<RelayTunnel>,
        suite: Suite,
        exporter: Secret,
    ) -> Membership {
        let id = TunnelId::of(&exporter);
        let member = Member {
            secret: LaneSecretHandle::new(suite, exporter),
            tunnel: Arc::downgrade(tunnel),
        };
        lock(&self.0).insert(id, member);
        Membership {
            lanes: self.clone(),
            id,
        }
    }

    /// The tunnel with this id, if there still is one.
    pub(crate) fn tunnel(&self, id: &TunnelId) -> Option<Arc<RelayTunnel>> {
        lock(&self.0).get(id)?.tunnel.upgrade()
    }
}

impl LaneRegistry for FurtherLanes {
    fn secret(&self, id: &TunnelId) -> Option<LaneSecretHandle> {
        lock(&self.0).get(id).map(|member| member.secret.clone())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        lock(&self.lanes.0).remove(&self.id);
    }
}
