//! What a client's handle tells its main task.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::{
    client::status::ClientStatus,
    instance::{Instance, InstanceId},
};

/// What the client is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Instances change; the reply says that the session has them.
    Change(Change, oneshot::Sender<()>),
    Status(oneshot::Sender<ClientStatus>),
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// What becomes of instances.
#[derive(Debug)]
pub(crate) enum Change {
    Set(Vec<Instance>),
    Insert(Instance),
    Remove(InstanceId),
}

/// 64 commands: an orchestrator that starts a node's game servers at once.
pub(crate) const COMMANDS: usize = 64;
