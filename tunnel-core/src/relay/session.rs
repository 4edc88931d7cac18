//! The control conversation with one client, over the control stream of its tunnel.
//!
//! One task reads and writes messages and keeps the heartbeat. What the client wants goes to the supervisor one event at a time:
//! while the supervisor is busy with it no further message is read, so a client that asks for much delays only itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    event::Event,
    proto::{
        message::{Code, Message},
        session::{
            Liveness,
            relay::{RelayEvent, RelaySession},
        },
    },
    relay::{
        client_address::{AddressChange, ClientAddress, QuicPath},
        command::{Command, Newcomer},
        shared::Shared,
        tunnel::RelayTunnel,
    },
    tunnel::{control::Control, futures::sleep_until, supervise::caught},
};

/// Runs the conversation until the tunnel ends, and tells the supervisor of the tunnel's beginning and its end.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    tunnel: Arc<RelayTunnel>,
    mut control: Control,
    mut session: RelaySession,
    newcomer: Newcomer,
    mut messages: mpsc::Receiver<Message>,
) {
    let entry = Entry::new(newcomer);
    let conversation = converse(
        &shared,
        &tunnel,
        &mut control,
        &mut session,
        entry,
        &mut messages,
    );
    let reason = caught(conversation).await.unwrap_or_else(|_| {
        let reporter = shared.reporter();
        reporter.panicked(format!("the conversation with {}", tunnel.name));
        "its task panicked".into()
    });
    // Queued messages still leave: the carrier of the control stream drains them when the sender is dropped.
    drop(control);
    drop(
        shared
            .commands
            .send(Command::Down {
                tunnel: tunnel.clone(),
                reason,
            })
            .await,
    );
    // Streams on lanes can go on without the control stream. New streams are opened on the next tunnel.
    tunnel.retired.cancel();
    tunnel.streams.close();
    tokio::select! {
        () = tunnel.streams.wait() => {}
        () = tunnel.closed.cancelled() => {}
        () = shared.stopped.cancelled() => {}
    }
    tunnel.closed.cancel();
    if let Some(quic) = &tunnel.quic {
        quic.close(quinn::VarInt::from_u32(0), b"");
    }
}

/// Runs the conversation. Returns why it ended.
async fn converse(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    control: &mut Control,
    session: &mut RelaySession,
    mut entry: Entry,
    messages: &mut mpsc::Receiver<Message>,
) -> String {
    // Completes when the supervisor has dealt with the client's last event.
    let mut asked: Option<oneshot::Receiver<()>> = None;
    let mut address = tunnel.quic.as_ref().map(address_of);
    loop {
        // Heartbeats bring one round of this a second at least.
        if let (Some(quic), Some(address)) = (&tunnel.quic, &mut address) {
            follow(tunnel, quic, address, session);
        }
        while let Some(message) = session.poll_message() {
            if let Err(reason) = send(shared, tunnel, control, message).await {
                return reason.into();
            }
        }
        if let Err(reason) = handle_events(shared, tunnel, session, &mut entry, &mut asked).await {
            return reason;
        }
        tokio::select! {
            () = answered(&mut asked), if asked.is_some() => asked = None,
            decided = entry.decided(), if session.is_asking() => match decided {
                Ok(Some(true)) => session.let_in(),
                Ok(Some(false)) => session.ask(Instant::now()),
                // The supervisor has sent the reason.
                Ok(None) => {}
                Err(TooLate) => {
                    tunnel.closed.cancel();
                    return "the client is not there".into();
                }
            },
            incoming = control.rx.recv(), if session.is_idle() => match incoming {
                Some(Ok(message)) => {
                    if let Err(error) = session.handle_message(Instant::now(), message) {
                        goodbye(control, error.to_string()).await;
                        return error.to_string();
                    }
                }
                Some(Err(error)) => {
                    goodbye(control, error.to_string()).await;
                    return format!("the client broke the protocol: {error}");
                }
                None => return STREAM_ENDED.into(),
            },
            Some(message) = messages.recv(), if !entry.is_requested() => session.send(message),
            () = sleep_until(Some(session.poll_timeout())) => session.handle_timeout(Instant::now()),
            () = tunnel.closed.cancelled() => return "closed".into(),
            () = tunnel.retired.cancelled() => return "another path has taken over".into(),
            () = shared.stopped.cancelled() => return "the relay has stopped".into(),
        }
    }
}

/// Deals with what the session has found out, as far as the supervisor is not `asked` something yet.
async fn handle_events(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    session: &mut RelaySession,
    entry: &mut Entry,
    asked: &mut Option<oneshot::Receiver<()>>,
) -> Result<(), String> {
    loop {
        let event = match asked {
            None => session.poll_event(),
            Some(_) => session.poll_own_event(),
        };
        match event {
            None => return Ok(()),
            Some(RelayEvent::Lived { at }) => entry.request(shared, tunnel, at).await,
            Some(event) => {
                let answer = handle(shared, tunnel, event).await?;
                *asked = asked.take().or(answer);
            }
        }
    }
}

/// Sends a message, or says why that is in vain.
async fn send(
    shared: &Shared,
    tunnel: &RelayTunnel,
    control: &Control,
    message: Message,
) -> Result<(), &'static str> {
    tokio::select! {
        sent = control.tx.send(message) => sent.map_err(|_| STREAM_ENDED),
        () = tunnel.closed.cancelled() => Err("closed"),
        () = tokio::time::sleep(shared.config.send_patience) => {
            tunnel.closed.cancel();
            Err("the client reads nothing")
        }
    }
}

fn address_of(quic: &quinn::Connection) -> ClientAddress {
    ClientAddress::new(quic.remote_address().ip())
}

/// Looks where the client's packets come from. Lanes of a path that it has left lead nowhere.
fn follow(
    tunnel: &RelayTunnel,
    quic: &quinn::Connection,
    address: &mut ClientAddress,
    session: &mut RelaySession,
) {
    let now = Instant::now();
    let path = QuicPath {
        ip: quic.remote_address().ip(),
        challenges: quic.stats().frame_tx.path_challenge,
    };
    let Some(change) = address.handle(now, path, session.lived_at()) else {
        return;
    };
    if change == AddressChange::Claimed {
        session.ask(now);
        return;
    }
    tracing::info!(client = %tunnel.name, address = %path.ip, "the client's address has changed");
    tunnel.datagrams.handle_moved(path.ip);
    if change == AddressChange::Near {
        // A temporary address of the same network may rotate, and the old one be good for hours. If it is gone, the
        // client knows.
        tunnel.pool.watch.doubt();
    } else {
        tunnel.path.send_modify(|changes| *changes += 1);
    }
}

/// The way into use of a tunnel whose client has proved its key and may be dead by now. The tunnel that is in use stays so until
/// the supervisor has accepted a proof of life that is newer than it.
struct Entry {
    newcomer: Newcomer,
    /// Whether the supervisor accepts the last proof of life.
    requested: Option<oneshot::Receiver<bool>>,
    until: tokio::time::Instant,
}

/// The client has not shown in time that it is there.
struct TooLate;

impl Entry {
    fn new(newcomer: Newcomer) -> Self {
        Self {
            newcomer,
            requested: None,
            until: tokio::time::Instant::now() + ENTRY_PATIENCE,
        }
    }

    /// Asks the supervisor to let the client in, which was there after `lived_at`.
    async fn request(&mut self, shared: &Shared, tunnel: &Arc<RelayTunnel>, lived_at: Instant) {
        if self.is_requested() {
            return;
        }
        let (is_in, requested) = oneshot::channel();
        let up = Command::Up {
            tunnel: tunnel.clone(),
            newcomer: self.newcomer.clone(),
            lived_at,
            is_in,
        };
        if shared.commands.send(up).await.is_ok() {
            self.requested = Some(requested);
        }
    }

    const fn is_requested(&self) -> bool {
        self.requested.is_some()
    }

    /// Whether the client is let in, once that is known. Cancel safe.
    async fn decided(&mut self) -> Result<Option<bool>, TooLate> {
        let Some(requested) = &mut self.requested else {
            tokio::time::sleep_until(self.until).await;
            return Err(TooLate);
        };
        let is_in = requested.await.ok();
        self.requested = None;
        Ok(is_in)
    }
}

/// Deals with an event of the session. Returns what completes when the supervisor has dealt with it, or a reason to end the
/// conversation.
async fn handle(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    event: RelayEvent,
) -> Result<Option<oneshot::Receiver<()>>, String> {
    match event {
        RelayEvent::Liveness(Liveness::Dead) => {
            tunnel.closed.cancel();
            Err("no heartbeat for 30 s".into())
        }
        RelayEvent::Liveness(liveness) => {
            if liveness == Liveness::Alive && tunnel.quic.is_some() {
                // The path was silent for lanes as well. TCP backs off, so they recover later than QUIC.
                tunnel.path.send_modify(|changes| *changes += 1);
            }
            shared.emit(Event::Suspect {
                client: tunnel.name.clone(),
                suspect: liveness == Liveness::Suspect,
            });
            Ok(None)
        }
        RelayEvent::Lost { streams } => {
            tracing::debug!(client = %tunnel.name, "the client has lost the lanes of {} streams", streams.len());
            // A firewall that has forgotten one connection may have forgotten all.
            tunnel.pool.watch.doubt();
            shared.lane_streams.handle_lost(tunnel.client, &streams);
            Ok(None)
        }
        event => {
            let (done, answer) = oneshot::channel();
            let said = Command::FromClient {
                tunnel: tunnel.clone(),
                event,
                done,
            };
            match shared.commands.send(said).await {
                Ok(()) => Ok(Some(answer)),
                Err(_) => Err("the relay has stopped".into()),
            }
        }
    }
}

/// Waits until the supervisor has dealt with the event.
async fn answered(asked: &mut Option<oneshot::Receiver<()>>) {
    if let Some(asked) = asked {
        // An error means the same: the supervisor has dropped the sender.
        drop(asked.await);
    }
}

async fn goodbye(control: &Control, why: String) {
    let text = crate::proto::message::Text::new(&why);
    let goodbye = Message::Goodbye {
        code: Code::ProtocolError,
        text,
    };
    // A client that reads nothing is not waited for; any other gets the time to read the goodbye.
    if control.tx.try_send(goodbye).is_ok() {
        tokio::time::sleep(GOODBYE_TIME).await;
    }
}

const STREAM_ENDED: &str = "the control stream ended";
/// How long a client may take to give a proof of life. 10 s, as for the handshake before it.
const ENTRY_PATIENCE: Duration = Duration::from_secs(10);
/// How long a goodbye may take to leave before the tunnel is closed.
const GOODBYE_TIME: Duration = Duration::from_millis(500);
