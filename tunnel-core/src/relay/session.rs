//! Drives one client's control conversation: messages in and out, heartbeats, and word to the supervisor.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use crate::{
    event::Event,
    proto::{
        message::{Code, Message},
        session::{
            Liveness, SessionMisbehaved,
            relay::{RelayEvent, RelaySession},
        },
    },
    relay::{Shared, supervisor::Command, tunnel::RelayTunnel},
    tunnel::{control::Control, sleep_until, supervise::caught},
};

/// Runs until the tunnel ends, and tells the supervisor.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    tunnel: Arc<RelayTunnel>,
    mut control: Control,
    mut session: RelaySession,
    mut messages: mpsc::Receiver<Message>,
) {
    let conversation = converse(&shared, &tunnel, &mut control, &mut session, &mut messages);
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
    // Streams on lanes may go on; a stream that runs keeps what it runs on. New ones come on the next tunnel.
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

/// Returns why the conversation ended.
async fn converse(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    control: &mut Control,
    session: &mut RelaySession,
    messages: &mut mpsc::Receiver<Message>,
) -> String {
    let mut address = tunnel.quic.as_ref().map(|quic| quic.remote_address().ip());
    loop {
        // Heartbeats bring one round of this in two seconds at least.
        let now = tunnel.quic.as_ref().map(|quic| quic.remote_address().ip());
        if now != address {
            tracing::info!(client = %tunnel.name, address = ?now, "the client's address has changed");
            address = now;
            tunnel.path.send_modify(|changes| *changes += 1);
        }
        while let Some(message) = session.poll_message() {
            let sent = tokio::select! {
                sent = control.tx.send(message) => sent,
                () = tunnel.closed.cancelled() => return "closed".into(),
            };
            if sent.is_err() {
                return "the control stream ended".into();
            }
        }
        while let Some(event) = session.poll_event() {
            if let Some(reason) = handle(shared, tunnel, event).await {
                return reason;
            }
        }
        tokio::select! {
            incoming = control.rx.recv() => {
                let message = match incoming {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => return format!("the client broke the protocol: {error}"),
                    None => return "the control stream ended".into(),
                };
                if let Err(error) = session.handle_message(Instant::now(), message) {
                    goodbye(control, &error).await;
                    return error.to_string();
                }
            }
            Some(message) = messages.recv() => session.send(message),
            () = sleep_until(Some(session.poll_timeout())) => session.handle_timeout(Instant::now()),
            () = tunnel.closed.cancelled() => return "closed".into(),
            () = tunnel.retired.cancelled() => return "another path has taken over".into(),
            () = shared.stopped.cancelled() => return "the relay has stopped".into(),
        }
    }
}

/// Hands on what the client said. Returns a reason to end.
async fn handle(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    event: RelayEvent,
) -> Option<String> {
    match event {
        RelayEvent::Liveness(Liveness::Dead) => {
            tunnel.closed.cancel();
            return Some("no heartbeat for 30 s".into());
        }
        RelayEvent::Liveness(liveness) => shared.emit(Event::Suspect {
            client: tunnel.name.clone(),
            suspect: liveness == Liveness::Suspect,
        }),
        event => {
            let said = Command::Said {
                tunnel: tunnel.clone(),
                event,
            };
            if shared.commands.send(said).await.is_err() {
                return Some("the relay has stopped".into());
            }
        }
    }
    None
}

async fn goodbye(control: &Control, error: &SessionMisbehaved) {
    let text = crate::proto::message::Text::new(&error.to_string());
    let goodbye = Message::Goodbye {
        code: Code::ProtocolError,
        text,
    };
    // A client that reads nothing is not waited for; one that does gets the time to.
    if control.tx.try_send(goodbye).is_ok() {
        tokio::time::sleep(GOODBYE_TIME).await;
    }
}

/// How long a goodbye may take to leave before the tunnel is closed.
const GOODBYE_TIME: std::time::Duration = std::time::Duration::from_millis(500);
