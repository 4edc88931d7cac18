//! The handle of a client that runs.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    client::{
        command::Command,
        receipts::Receipt,
        shared::Shared,
        status::{Binding, ClientEnd, ClientStatus, NotBound},
    },
    event::Events,
    instance::{Instance, InstanceId},
    metrics::Snapshot,
};

/// A client that runs. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in peace.
///
/// ```no_run
/// use tunnel_core::{client::{Client, ClientIdentity}, instance::{Instance, Protocol, Service}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = ClientIdentity::new(
///     "relay.example.net:4433".parse()?,
///     "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE".parse()?,
///     std::fs::read_to_string("client.key")?.parse()?,
///     std::fs::read_to_string("client.psk")?.parse()?,
/// );
/// let game = Service::new("game", Protocol::Both, "127.0.0.1:7777")?;
/// let instance = Instance::new("srv_123", [game])?;
/// let client = Client::builder(identity).instances([instance]).start()?;
/// client.bound().await?;
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
    bound: watch::Receiver<Binding>,
}

impl Client {
    pub(super) const fn new(
        shared: Arc<Shared>,
        commands: mpsc::Sender<Command>,
        finished: watch::Receiver<Option<ClientEnd>>,
        bound: watch::Receiver<Binding>,
    ) -> Self {
        Self {
            shared,
            commands,
            finished,
            bound,
        }
    }

    /// Makes the instances these: adds, changes and removes what differs, and touches nothing else. Does not wait for
    /// the relay: [`bound`](Self::bound) does. An error says that the client has ended.
    pub async fn set_instances(
        &self,
        instances: impl IntoIterator<Item = Instance>,
    ) -> Result<(), ClientEnd> {
        let instances = instances.into_iter().collect();
        self.ask(|answer| Command::Set(instances, answer)).await
    }

    /// Adds an instance, or changes the one of that id. The receipt tells what the relay says to it:
    /// `client.insert(instance).await?.settled().await`. An error says that the client has ended.
    pub async fn insert(&self, instance: Instance) -> Result<Receipt, ClientEnd> {
        self.ask(|answer| Command::Insert(instance, answer)).await
    }

    /// Removes an instance: its ports are closed and its players ended. Returns whether it was there. An error says that the
    /// client has ended.
    pub async fn remove(&self, id: InstanceId) -> Result<bool, ClientEnd> {
        self.ask(|answer| Command::Remove(id, answer)).await
    }

    /// The tunnel, and what became of each instance. An error says that the client has ended.
    pub async fn status(&self) -> Result<ClientStatus, ClientEnd> {
        self.ask(Command::Status).await
    }

    /// Waits until every instance is bound. A refusal that may pass by itself, as when somebody else has the port, is waited
    /// for, since the client tries again; others are an error, as is the client's end. Cancel safe.
    pub async fn bound(&self) -> Result<(), NotBound> {
        let mut bound = self.bound.clone();
        let bound = bound.wait_for(|bound| *bound != Binding::Pending).await;
        let bound = bound.as_deref().cloned();
        if self.bound.has_changed().is_err() {
            // What was bound when the client ended is so no longer.
            return Err(self.finished().await.into());
        }
        match bound {
            Ok(Binding::Refused(refused)) => Err(refused),
            _ => Ok(()),
        }
    }

    /// Waits until the client has ended, and says why. Losing the relay does not end it. Cancel safe.
    pub async fn finished(&self) -> ClientEnd {
        ClientEnd::of(&self.finished).await
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
        // An error says that it has ended already.
        drop(self.ask(|done| Command::Shutdown { grace, done }).await);
    }

    /// Sends a command and waits for its answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ClientEnd> {
        let (answer, answered) = oneshot::channel();
        // A command that nobody takes is dropped with its sender.
        drop(self.commands.send(command(answer)).await);
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.finished().await),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}
