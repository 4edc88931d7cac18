//! The handle by which an embedder starts a relay, asks it and ends it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    event::{Event, Events},
    instance::{InstanceId, PortSet},
    key::{KeyError, PublicKey, SecretKey},
    metrics::Snapshot,
    proto::message::Code,
    relay::{
        accept::{self, ListenError},
        address,
        authority::Authority,
        command::{Command, Operation},
        declare_error::DeclareError,
        entrance::{Ban, Gate},
        ingress::players::PlayerId,
        limits::RelayLimits,
        operator::OperatorState,
        reservations::{Reservation, ReservationRequest},
        shared::{Config, Shared},
        status::{PlayerStatus, RelayStatus},
        supervisor::Supervisor,
        trusted::TrustedProxy,
    },
    socket,
    transport::mem,
};

/// A relay that runs. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in peace.
///
/// ```
/// use std::sync::Arc;
/// use tunnel_core::{key::{Psk, SecretKey}, relay::{Relay, StaticAuthority}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = SecretKey::generate()?.public_key();
/// let authority = StaticAuthority::new().client("node-1", node, Psk::generate()?, "7777".parse()?);
/// let relay = Relay::builder(SecretKey::generate()?, Arc::new(authority))
///     .listen("127.0.0.1:0".parse()?)
///     .start()
///     .await?;
/// println!("listening on {:?}", relay.local_addr());
/// relay.shutdown(std::time::Duration::ZERO).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Relay {
    pub(super) shared: Arc<Shared>,
    local_addr: Option<SocketAddr>,
    public_key: PublicKey,
}

/// How a relay is set up; from [`Relay::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct RelayBuilder {
    secret_key: SecretKey,
    authority: Arc<dyn Authority>,
    listen: Option<SocketAddr>,
    mem: Option<mem::Network>,
    operator: OperatorState,
    pub(super) config: Config,
}

impl Relay {
    /// A relay with this identity, whose clients and their rights `authority` knows.
    pub fn builder(secret_key: SecretKey, authority: Arc<dyn Authority>) -> RelayBuilder {
        RelayBuilder {
            secret_key,
            authority,
            listen: None,
            mem: None,
            operator: OperatorState::default(),
            config: Config::default(),
        }
    }

    /// Where it listens for clients, on UDP and TCP alike; `None` if it runs in memory only.
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Its identity, which its clients need to know.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Events from now on. The first subscriber also gets those since the start.
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// The counters at this moment.
    pub fn metrics(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Who is connected, and what is bound. An error once the relay has ended.
    pub async fn status(&self) -> Result<RelayStatus, RelayEnded> {
        self.ask(Command::Status).await
    }

    /// Asks the authority again about every client: the revoked are ended, changed permissions take effect.
    pub async fn recheck(&self) {
        let (done, checked) = oneshot::channel();
        self.send(Command::Recheck(done)).await;
        // The relay has ended: nobody is connected any more.
        drop(checked.await);
    }

    /// Changes which ports the relay gives out. What is bound outside of them is unbound.
    pub async fn set_ports(&self, ports: PortSet) {
        self.send(Command::SetPorts(ports)).await;
    }

    /// Changes which front ends' PROXY headers are read, for connections from now on. What is open goes on.
    pub fn set_trusted_proxies(&self, networks: Vec<TrustedProxy>) {
        self.shared.trusted_proxies.store(Arc::new(networks));
    }

    /// Reserves an instance with its ports for a client, all or nothing, in the place of what was reserved for it before. Ports that the
    /// request leaves open are chosen.
    ///
    /// The client need not be there. What it has bound of the instance and is not as reserved is unbound, and the client is told.
    pub async fn reserve(&self, request: ReservationRequest) -> Result<Reservation, OperateError> {
        let reserved = self
            .operate(|reply| Operation::Reserve(request, reply))
            .await?;
        Ok(reserved?)
    }

    /// What [`reserve`](Self::reserve) would reserve now, or why it would not.
    pub async fn plan(&self, request: ReservationRequest) -> Result<Reservation, OperateError> {
        let planned = self
            .operate(|reply| Operation::Plan(request, reply))
            .await?;
        Ok(planned?)
    }

    /// Gives a reservation back and unbinds the instance. Returns whether there was one. A client whose own ports allow it may declare
    /// the instance again.
    pub async fn release(&self, instance: InstanceId) -> Result<bool, RelayEnded> {
        self.operate(|reply| Operation::Release(instance, reply))
            .await
    }

    /// Which players an instance takes from now on, whether it is there yet or not; `None` means all instances together, beside what
    /// holds for each. Closing ends whoever is there.
    pub async fn set_gate(
        &self,
        instance: Option<InstanceId>,
        gate: Gate,
    ) -> Result<(), RelayEnded> {
        self.operate(|done| Operation::SetGate(instance, gate, done))
            .await
    }

    /// Who may not play: these, and nobody else. Streams and flows of banned addresses end at once.
    pub async fn set_bans(&self, bans: Vec<Ban>) -> Result<(), RelayEnded> {
        self.operate(|done| Operation::SetBans(bans, done)).await
    }

    /// Who plays: streams and flows of all services. At most as many as the relay's limits allow.
    pub async fn players(&self) -> Result<Vec<PlayerStatus>, RelayEnded> {
        self.ask(Command::Players).await
    }

    /// Ends a player's stream with a reset, or forgets a flow. Returns whether there was one. The player may come back.
    pub async fn end_player(&self, player: PlayerId) -> Result<bool, RelayEnded> {
        self.operate(|reply| Operation::EndPlayer(player, reply))
            .await
    }

    /// Ends the tunnel of a client, by its name. Returns whether there was one. The client may come back at once, and its players'
    /// streams go on then.
    pub async fn disconnect(&self, client: impl Into<String>) -> Result<bool, RelayEnded> {
        let client = client.into();
        self.operate(|reply| Operation::Disconnect(client, reply))
            .await
    }

    async fn operate<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<T>) -> Operation,
    ) -> Result<T, RelayEnded> {
        self.ask(|reply| Command::Operate(operation(reply))).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, RelayEnded> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await;
        answer.await.map_err(|_| RelayEnded)
    }

    /// Takes no new players, tells the clients so, waits at most `grace` for those who are there, says goodbye and ends.
    ///
    /// A player is there as long as the connection is open, or a datagram has passed in the last seconds. New
    /// connections are refused, new flows dropped.
    pub async fn shutdown(&self, grace: Duration) {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown { grace, done }).await;
        drop(ended.await);
        self.shared.stopped.cancel();
        // The goodbyes and the closes behind them leave while somebody still runs the sockets.
        tokio::time::sleep(LINGER).await;
    }

    async fn send(&self, command: Command) {
        // The supervisor has ended: so has the relay.
        drop(self.shared.commands.send(command).await);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

impl RelayBuilder {
    /// Listens for clients here: QUIC on UDP and lanes on TCP, the same number.
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Listens for clients on a network in memory; for tests.
    pub fn mem(mut self, network: &mem::Network) -> Self {
        self.mem = Some(network.clone());
        self
    }

    /// The address on which public ports are opened; every IPv4 address by default, `::` for both families.
    pub const fn public_bind(mut self, address: IpAddr) -> Self {
        self.config.public_bind = address;
        self
    }

    /// The ports that clients may be given at all; every port by default.
    pub fn ports(mut self, ports: PortSet) -> Self {
        self.config.ports = ports;
        self
    }

    /// Front ends, such as a DDoS protection, each of whose TCP connections begins with a PROXY header (version 1 or 2) that
    /// names the player. None by default: a header from elsewhere is a player's own bytes.
    pub fn trusted_proxies(mut self, networks: Vec<TrustedProxy>) -> Self {
        self.config.trusted_proxies = networks;
        self
    }

    /// What the operator has said before, which holds from the first connection on. A reservation that clashes with one before it,
    /// or that the relay's ports do not allow any more, is left out with a warning.
    pub fn operator(mut self, said: OperatorState) -> Self {
        self.operator = said;
        self
    }

    /// Replaces the default limits.
    pub const fn limits(mut self, limits: RelayLimits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Opens the sockets and runs. Needs a tokio runtime with I/O and time, and [`listen`](Self::listen) to have been called.
    ///
    /// Where the system has no IPv6, `::` is every IPv4 address, and a warning says so.
    pub async fn start(mut self) -> Result<Relay, RelayStartError> {
        if self.listen.is_none() && self.mem.is_none() {
            return Err(RelayStartError::NowhereToListen);
        }
        let public_key = self.secret_key.public_key();
        let wanted = self.config.public_bind;
        self.config.public_bind =
            address::local(wanted).map_err(|error| RelayStartError::PublicBind {
                address: wanted,
                error,
            })?;
        let mut without_v6 = self.config.public_bind != wanted;
        if let Some(listen) = &mut self.listen
            && let Ok(served) = address::local(listen.ip())
        {
            without_v6 |= served != listen.ip();
            listen.set_ip(served);
        }
        let configured = self.config.limits.streams_per_client;
        self.config.limits = self.config.limits.within(socket::descriptors_for_players());
        let (commands, received) = mpsc::channel(COMMANDS);
        let shared = Shared::new(self.config, self.authority, self.secret_key, commands)?;
        let limits = &shared.config.limits;
        let (streams, per_client) = (limits.streams, limits.streams_per_client);
        if without_v6 {
            let text = "this system has no IPv6: [::] is every IPv4 address";
            shared.emit(Event::Warning(text.into()));
        }
        if per_client < configured {
            let text = format!(
                "the limit of open descriptors allows no more than streams = {streams} and streams_per_client = {per_client}"
            );
            shared.emit(Event::Warning(text));
        }
        let local_addr = match self.listen {
            Some(address) => Some(accept::listen(&shared, address)?),
            None => None,
        };
        if let Some(network) = self.mem {
            let accept = network
                .listen()
                .map_err(|_| RelayStartError::NetworkInUse)?;
            accept::listen_mem(shared.clone(), accept);
        }
        let mut supervisor = Supervisor::new(shared.clone());
        supervisor.restore(self.operator);
        tokio::spawn(supervisor.run(received));
        Ok(Relay {
            shared,
            local_addr,
            public_key,
        })
    }
}

/// The relay has ended: there is nothing more to ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay has ended")]
pub struct RelayEnded;

/// Why something that an operator wants was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperateError {
    /// The relay has refused it.
    #[error("{text}")]
    Refused {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
        /// The public port that it is about, if it is about one.
        port: Option<u16>,
    },
    /// There is no relay any more.
    #[error(transparent)]
    Ended(#[from] RelayEnded),
}

impl From<DeclareError> for OperateError {
    fn from(refused: DeclareError) -> Self {
        let DeclareError { code, text, port } = refused;
        Self::Refused { code, text, port }
    }
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayStartError {
    /// A socket for clients could not be opened.
    #[error("cannot listen on {protocol} {address}: {error}")]
    Listen {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Public ports could not be opened on their address.
    #[error("no public port can be opened on {address}: {error}")]
    PublicBind {
        /// Which.
        address: IpAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Clients could not reach it: neither [`listen`](RelayBuilder::listen) nor [`mem`](RelayBuilder::mem) was called.
    #[error("the relay has no address to listen on")]
    NowhereToListen,
    /// Another relay has that network in memory.
    #[error("another relay has this network in memory")]
    NetworkInUse,
    /// No randomness was to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<ListenError> for RelayStartError {
    fn from(failed: ListenError) -> Self {
        let ListenError {
            protocol,
            address,
            error,
        } = failed;
        Self::Listen {
            protocol,
            address,
            error,
        }
    }
}

impl RelayStartError {
    /// Whether an address is not this machine's, or not yet: it may come up, as at boot.
    pub fn is_not_there_yet(&self) -> bool {
        matches!(
            self,
            Self::Listen { error, .. } | Self::PublicBind { error, .. }
                if error.kind() == io::ErrorKind::AddrNotAvailable
        )
    }
}

/// 256 commands: every instance of a large node declared at once.
const COMMANDS: usize = 256;
/// How long a relay that shuts down keeps its sockets after the goodbyes.
const LINGER: Duration = Duration::from_millis(700);
