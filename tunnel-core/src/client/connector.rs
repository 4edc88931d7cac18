//! Keeps a tunnel to the relay: does what the [`DialPolicy`] decides, and holds the tunnels that come of it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    client::{
        dial::{Credential, DialError, Dialer},
        policy::{
            attempt::Strategy,
            dial::{ATTEMPTS_MAX, Action, DialPolicy},
            hearing::Hearing,
        },
        race::Race,
        serve,
        shared::Shared,
        tunnel::ClientTunnel,
    },
    event::Event,
    proto::{
        message::{Code, Message, MessageError, Text},
        session::Liveness,
    },
    tunnel::{control::Control, futures::sleep_until},
};

/// The tunnel in use, the one that it has taken over from, and the attempts at another.
pub(crate) struct Connector {
    shared: Arc<Shared>,
    dialer: Dialer,
    credential: Credential,
    policy: DialPolicy,
    attempts: Race<'static, (), Result<Dialled, DialError>>,
    active: Option<Active>,
    /// Works on until its last stream has ended, while a better path has taken over.
    retiring: Option<Active>,
    /// The client's name, once a relay has let it in.
    name: Option<Arc<str>>,
}

struct Active {
    tunnel: Arc<ClientTunnel>,
    control: Control,
    /// The relay has let us in.
    is_welcome: bool,
}

/// A tunnel that stands, and its control stream.
pub(crate) type Dialled = (Arc<ClientTunnel>, Control);

/// What happens to the tunnels of a client.
pub(crate) enum News {
    /// The relay's next message; `None` when the control stream has ended.
    Message(Option<Result<Message, MessageError>>),
    /// The transport of the tunnel in use has ended.
    Broken,
    /// This machine's address has changed.
    PathChanged,
    /// What leaves on the path may not arrive.
    Hearing(Hearing),
    /// An attempt has ended.
    Dialled(Result<Dialled, DialError>),
    /// An attempt is due.
    DialDue,
}

impl Connector {
    pub(crate) fn new(shared: Arc<Shared>, dialer: Dialer, credential: Credential) -> Self {
        Self {
            shared,
            dialer,
            credential,
            policy: DialPolicy::new(Instant::now()),
            attempts: Race::new(ATTEMPTS_MAX),
            active: None,
            retiring: None,
            name: None,
        }
    }

    /// Waits for what happens next. What the relay has said comes before the end of its connection: it may have said why.
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> News {
        let due = self.policy.poll_timeout(Instant::now());
        let (control, tunnel) = match &mut self.active {
            Some(active) => (Some(&mut active.control), Some(active.tunnel.clone())),
            None => (None, None),
        };
        tokio::select! {
            biased;
            message = async {
                match control {
                    Some(control) => control.rx.recv().await,
                    None => std::future::pending().await,
                }
            } => News::Message(message),
            news = async {
                let Some(tunnel) = tunnel else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    () = tunnel.broken.cancelled() => News::Broken,
                    () = tunnel.path_changed.notified() => News::PathChanged,
                    Some(hearing) = tunnel.hearing.next() => News::Hearing(hearing),
                }
            } => news,
            ((), dialled) = self.attempts.next() => News::Dialled(dialled),
            () = sleep_until(due) => News::DialDue,
        }
    }

    /// An attempt is due.
    pub(crate) fn handle_due(&mut self) {
        self.policy
            .handle_timeout(Instant::now(), self.shared.random());
        self.act();
    }

    /// A new tunnel stands: it becomes the one in use. The one before it is left as soon as the relay has let the client in.
    pub(crate) fn adopt(&mut self, (tunnel, control): Dialled) {
        self.retiring = self.active.take().or_else(|| self.retiring.take());
        let is_same_relay = self.shared.flows.is_led_to(tunnel.relay);
        if !is_same_relay {
            // Nothing of one process is sent to another: its ids begin anew.
            self.shared.sender.store(None);
            if let Some(old) = self.retiring.take() {
                old.close();
            }
            self.shared.flows.lead_to(tunnel.relay, Instant::now());
            self.shared.streams.clear();
        }
        self.policy
            .handle_connected(tunnel.transport, is_same_relay);
        self.active = Some(Active {
            tunnel,
            control,
            is_welcome: false,
        });
        self.act();
    }

    pub(crate) fn handle_dial_error(&mut self, error: &DialError) {
        let pause = self
            .policy
            .handle_failed(Instant::now(), self.shared.random());
        if let Some(retry_in) = pause {
            self.shared.emit(Event::Reconnecting {
                reason: error.to_string(),
                retry_in,
            });
        }
        self.act();
    }

    /// The relay has let the client in under this name.
    pub(crate) fn handle_welcome(&mut self, name: &str) {
        let client: Arc<str> = name.into();
        self.name = Some(client.clone());
        let change = self
            .policy
            .handle_welcome(Instant::now(), self.shared.random());
        if let Some(active) = &mut self.active {
            active.is_welcome = true;
            // Answers leave by the tunnel that the relay has just acknowledged.
            let sender = active.tunnel.sender.clone();
            self.shared.sender.store(Some(sender));
            self.shared.emit(Event::TunnelUp {
                client: client.clone(),
                peer: active.tunnel.peer,
                transport: active.tunnel.transport,
            });
            if let Some(active) = change {
                self.shared.emit(Event::Fallback { client, active });
            }
        }
        // The relay has moved everything over: the old path ends with its last stream.
        self.retiring = None;
        self.act();
    }

    /// The relay answers, or does not any more.
    pub(crate) fn handle_liveness(&mut self, liveness: Liveness) {
        if let Some(client) = self.name.clone() {
            let suspect = liveness != Liveness::Alive;
            self.shared.emit(Event::Suspect { client, suspect });
        }
        self.policy
            .handle_liveness(Instant::now(), liveness, self.shared.random());
        self.act();
    }

    /// The relay shuts down.
    pub(crate) fn handle_drain(&mut self) {
        self.policy.handle_drain(Instant::now());
    }

    /// Ends everything on the tunnel in use; it is [lost](Self::lose) next.
    pub(crate) fn close_active(&self) {
        if let Some(active) = &self.active {
            active.tunnel.closed.cancel();
        }
    }

    /// The tunnel in use is gone. Streams on it wait for another. Does nothing if there is none.
    pub(crate) fn lose(&mut self, reason: &str, code: Code) {
        let Some(active) = self.active.take() else {
            return;
        };
        active.tunnel.broken.cancel();
        active.tunnel.close_quic(code.into());
        // A tunnel that was to be left may still carry answers.
        let before = self.retiring.as_ref();
        let sender = before.map(|before| before.tunnel.sender.clone());
        self.shared.sender.store(sender);
        if let Some(client) = self.name.clone() {
            self.shared.emit(Event::TunnelDown {
                client,
                reason: reason.into(),
            });
        }
        let pause = self
            .policy
            .handle_lost(Instant::now(), self.shared.random());
        if let Some(retry_in) = pause {
            self.shared.emit(Event::Reconnecting {
                reason: reason.into(),
                retry_in,
            });
        }
        self.act();
    }

    /// Ends all tunnels.
    pub(crate) fn close(&mut self) {
        for active in self.active.take().into_iter().chain(self.retiring.take()) {
            active.close();
        }
        self.shared.sender.store(None);
    }

    /// Takes leave of the relay, which closes when it has read that.
    pub(crate) async fn goodbye(&mut self) {
        let Some(active) = self.active.take() else {
            return;
        };
        let goodbye = Message::Goodbye {
            code: Code::Shutdown,
            text: Text::new("the client shuts down"),
        };
        let sent = tokio::time::timeout(GOODBYE_PATIENCE, active.control.tx.send(goodbye)).await;
        if sent.is_ok_and(|sent| sent.is_ok()) {
            drop(tokio::time::timeout(GOODBYE_PATIENCE, active.tunnel.broken.cancelled()).await);
        }
        active.close();
    }

    /// Where messages of the tunnel in use leave.
    pub(crate) fn control(&self) -> Option<&mpsc::Sender<Message>> {
        Some(&self.active.as_ref()?.control.tx)
    }

    /// The tunnel in use, whether or not the relay has let the client in on it.
    pub(crate) fn tunnel(&self) -> Option<&Arc<ClientTunnel>> {
        Some(&self.active.as_ref()?.tunnel)
    }

    /// The same, once the relay has.
    pub(crate) fn welcome(&self) -> Option<&Arc<ClientTunnel>> {
        let active = self.active.as_ref()?;
        active.is_welcome.then_some(&active.tunnel)
    }

    /// The client's name, once a relay has let it in.
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// The congestion control of lanes, as the kernel names it.
    pub(crate) fn lane_congestion(&self) -> Option<String> {
        self.dialer.lane_congestion()
    }

    /// These ports belong to targets from now on: the sockets of tunnels leave from others.
    pub(crate) fn make_way(&self, of_targets: &HashSet<u16>) {
        for active in self.active.iter().chain(&self.retiring) {
            (active.tunnel).make_way(&self.shared.means.ports, of_targets);
        }
    }

    /// Does what the policy has decided.
    fn act(&mut self) {
        while let Some(action) = self.policy.poll_action() {
            match action {
                Action::Dial(strategy) => self.dial(strategy),
                Action::GiveUp => self.attempts.clear(),
                Action::LeaveLanes => {
                    if let Some(active) = &self.active {
                        active.tunnel.path.send_modify(|changes| *changes += 1);
                    }
                }
            }
        }
    }

    fn dial(&mut self, strategy: Strategy) {
        let (dialer, credential) = (self.dialer.clone(), self.credential.clone());
        let shared = self.shared.clone();
        self.attempts.add((), async move {
            let established = dialer.dial(&credential, strategy).await?;
            Ok(serve::start(&shared, dialer, established).await?)
        });
    }
}

impl Active {
    fn close(&self) {
        self.tunnel.closed.cancel();
        self.tunnel.close_quic(0);
    }
}

/// How long a goodbye may take to be answered with the close.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
