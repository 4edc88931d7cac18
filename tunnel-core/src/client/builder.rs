//! How a client is set up and started.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    client::{
        addresses::Addresses,
        command::{COMMANDS, Command},
        connector::Connector,
        dial::{Credential, Dialer, DialerIdentity, RelayEndpoint},
        driver::Driver,
        handle::Client,
        limits::ClientLimits,
        ports::LocalPorts,
        receipts::Receipts,
        shared::Shared,
        status::{Binding, ClientEnd},
    },
    instance::{HostPort, Instance},
    key::{self, KeyError, Psk, PublicKey, SecretKey},
    proto::handshake::ProcessId,
    transport::mem,
    tunnel::supervise::{caught, supervise},
};

/// Who a client is, and which relay it belongs to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// Where the relay listens.
    pub relay: HostPort,
    /// Who the relay is.
    pub relay_public_key: PublicKey,
    /// Who the client is.
    pub secret_key: SecretKey,
    /// The key that client and relay share.
    pub psk: Psk,
}

impl ClientIdentity {
    /// The client of this key, at the relay of this address and key.
    pub const fn new(
        relay: HostPort,
        relay_public_key: PublicKey,
        secret_key: SecretKey,
        psk: Psk,
    ) -> Self {
        Self {
            relay,
            relay_public_key,
            secret_key,
            psk,
        }
    }
}

/// How a client is set up; from [`Client::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct ClientBuilder {
    identity: ClientIdentity,
    instances: Vec<Instance>,
    mem: Option<mem::Network>,
    limits: ClientLimits,
    udp: bool,
}

impl Client {
    /// A client with this identity.
    pub fn builder(identity: ClientIdentity) -> ClientBuilder {
        ClientBuilder {
            identity,
            instances: Vec::new(),
            mem: None,
            limits: ClientLimits::default(),
            udp: true,
        }
    }
}

impl ClientBuilder {
    /// The instances from the start.
    pub fn instances(mut self, instances: impl IntoIterator<Item = Instance>) -> Self {
        self.instances = instances.into_iter().collect();
        self
    }

    /// Other bounds than the default ones.
    pub const fn limits(mut self, limits: ClientLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Uses lanes alone, as if UDP were blocked; for measurements.
    #[doc(hidden)]
    pub const fn without_udp(mut self) -> Self {
        self.udp = false;
        self
    }

    /// Connects over a network in memory instead of the relay's address; for tests.
    pub fn mem(mut self, network: &mem::Network) -> Self {
        self.mem = Some(network.clone());
        self
    }

    /// Runs. Needs a tokio runtime with I/O and time. It tries to reach the relay for ever, so a relay or a network
    /// that is not there yet is no error.
    pub fn start(self) -> Result<Client, ClientStartError> {
        let ClientIdentity {
            relay,
            relay_public_key,
            secret_key,
            psk,
        } = self.identity;
        let endpoint = match self.mem {
            Some(network) => RelayEndpoint::Mem(network),
            None => RelayEndpoint::Net(Addresses::new(relay)),
        };
        let identity = DialerIdentity {
            relay_public_key,
            secret_key,
            process: ProcessId::from(key::random::<16>()?),
        };
        let ports = Arc::new(LocalPorts::of_system());
        let shared = Arc::new(Shared::new(self.limits, &ports)?);
        let dialer = Dialer::new(
            endpoint,
            identity,
            Some(shared.events.clone()),
            self.udp,
            ports,
        );
        let credential = Credential { psk, token: None };
        let connector = Connector::new(shared.clone(), dialer, credential);
        let (commands, received) = mpsc::channel(COMMANDS);
        let (finish, finished) = watch::channel(None);
        let (binding, bound) = watch::channel(Binding::Pending);
        let receipts = Receipts::new(finished.clone());
        let driver = Driver::new(shared.clone(), connector, self.instances, receipts, binding);
        spawn(shared.clone(), driver, received, finish);
        Ok(Client::new(shared, commands, finished, bound))
    }
}

/// Starts a client's tasks. `finish` is told how its main task has ended.
fn spawn(
    shared: Arc<Shared>,
    driver: Driver,
    commands: mpsc::Receiver<Command>,
    finish: watch::Sender<Option<ClientEnd>>,
) {
    let expiring = shared.clone();
    supervise(
        shared.reporter(),
        shared.stopped.clone(),
        "flow expiry".into(),
        move || {
            let shared = expiring.clone();
            async move {
                let tell_silent = |target: &_| shared.tell_silent(target);
                shared.flows.expire(tell_silent).await;
            }
        },
    );
    tokio::spawn(async move {
        let end = caught(driver.run(commands)).await.unwrap_or_else(|_| {
            shared.reporter().panicked("the client's main task");
            shared.stopped.cancel();
            ClientEnd::Panicked
        });
        finish.send_replace(Some(end));
    });
}

/// Why a client did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientStartError {
    /// No randomness was to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}
