//! The handle of a client that runs.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    client::{
        command::{Change, Command},
        shared::Shared,
        status::{ClientEnd, ClientStatus},
    },
    event::Events,
    instance::{Instance, InstanceId},
    metrics::Snapshot,
};

/// A client that runs. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in peace.
///
/// ```no_run
/// use tunnel_core::{client::{Client, ClientIdentity}, instance::{Instance, RawInstance, RawService}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = ClientIdentity {
///     relay: "relay.example.net:4433".parse()?,
///     relay_public_key: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE".parse()?,
///     secret_key: std::fs::read_to_string("client.key")?.parse()?,
///     psk: std::fs::read_to_string("client.psk")?.parse()?,
/// };
/// let game = RawService {
///     name: "game".into(),
///     protocol: "both".into(),
///     target: "127.0.0.1:7777".into(),
///     ..RawService::default()
/// };
/// let instance = Instance::try_from(&RawInstance { id: "srv_123".into(), services: vec![game] })?;
/// let client = Client::builder(identity).instances([instance]).start()?;
/// client.bound().await;
/// println!("players may come");
/// println!("{}", client.finished().await);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    finished: watch::Receiver<Option<ClientEnd>>,
    bound: watch::Receiver<bool>,
}

impl Client {
    pub(super) const fn new(
        shared: Arc<Shared>,
        commands: mpsc::Sender<Command>,
        finished: watch::Receiver<Option<ClientEnd>>,
        bound: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shared,
            commands,
            finished,
            bound,
        }
    }

    /// Makes the instances these: adds, changes and removes what differs, and touches nothing else. Does not wait for
    /// the relay: [`bound`](Self::bound) does.
    pub async fn set_instances(&self, instances: impl IntoIterator<Item = Instance>) {
        self.change(Change::Set(instances.into_iter().collect()))
            .await;
    }

    /// Adds an instance, or changes the one of that id.
    pub async fn insert(&self, instance: Instance) {
        self.change(Change::Insert(instance)).await;
    }

    /// Removes an instance: its ports are closed and its players ended.
    pub async fn remove(&self, id: InstanceId) {
        self.change(Change::Remove(id)).await;
    }

    /// The tunnel, and what became of each instance.
    pub async fn status(&self) -> ClientStatus {
        let (reply, status) = oneshot::channel();
        self.send(Command::Status(reply)).await;
        status.await.unwrap_or_default()
    }

    /// Waits until every instance is bound.
    pub async fn bound(&self) {
        // An error says that the client has ended: it will never be.
        if self.bound.clone().wait_for(|bound| *bound).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the client has ended, and says why. Losing the relay does not end it.
    pub async fn finished(&self) -> ClientEnd {
        let mut finished = self.finished.clone();
        let ended = finished.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|end| end.clone())
            .unwrap_or(ClientEnd::Stopped)
    }

    /// What happens from now on; the first to ask also hears what has happened since the start.
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// The counters at this moment.
    pub fn metrics(&self) -> Snapshot {
        self.shared.metrics.snapshot()
    }

    /// Takes no new players, tells the relay so, waits at most `grace` for those who are there, says goodbye and ends. The
    /// relay gives the ports back at once.
    ///
    /// A player is there as long as the connection is open, or a datagram has passed in the last seconds.
    pub async fn shutdown(&self, grace: Duration) {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown { grace, done }).await;
        // It has ended already.
        drop(ended.await);
    }

    async fn change(&self, change: Change) {
        let (done, changed) = oneshot::channel();
        self.send(Command::Change(change, done)).await;
        // The client has ended: nothing of it is bound any more.
        drop(changed.await);
    }

    async fn send(&self, command: Command) {
        // The driver has ended: `finished` says why.
        drop(self.commands.send(command).await);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}
