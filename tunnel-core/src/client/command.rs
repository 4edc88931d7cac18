//! What a client's handle tells its main task.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::{
    client::{receipts::Receipt, status::ClientStatus},
    instance::{Instance, InstanceId},
};

/// What the client is told. Each has an answer; a sender that is dropped says that the client has ended.
#[derive(Debug)]
pub(crate) enum Command {
    /// Makes the instances these.
    Set(Vec<Instance>, oneshot::Sender<()>),
    /// Adds an instance, or changes the one of its id.
    Insert(Instance, oneshot::Sender<Receipt>),
    /// Removes an instance; the answer says whether it was there.
    Remove(InstanceId, oneshot::Sender<bool>),
    Status(oneshot::Sender<ClientStatus>),
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// 64 commands: an orchestrator that starts a node's game servers at once.
pub(crate) const COMMANDS: usize = 64;
