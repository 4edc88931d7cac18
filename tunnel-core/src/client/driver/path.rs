//! Which path the tunnel takes: dialling, racing a suspect one, going over to another, and losing it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Active, Driver};
use crate::{
    client::{
        dial::{DialError, Established, Ways},
        link::Link,
    },
    event::Event,
    proto::{handshake::ProcessId, message::Code, session::Liveness},
    transport::Transport,
    tunnel::{control::Control, stream::RESUME_PATIENCE},
};

impl Driver {
    pub(super) fn handle_liveness(&mut self, liveness: Liveness) {
        if let Some(name) = &self.name {
            let suspect = liveness != Liveness::Alive;
            self.shared.emit(Event::Suspect {
                client: name.clone(),
                suspect,
            });
        }
        let is_suspect = liveness == Liveness::Suspect;
        self.suspect_since = is_suspect.then(Instant::now);
        match liveness {
            Liveness::Alive => {
                self.plan_upgrade();
                self.end_race();
            }
            // A new path is raced beside the suspect one, which may yet answer.
            Liveness::Suspect => {
                self.end_upgrade();
                self.dial();
            }
            Liveness::Dead => {
                if let Some(active) = &self.active {
                    active.link.closed.cancel();
                }
                self.lose("no heartbeat for 30 s");
            }
        }
    }

    /// The tunnel answers again. Its lanes were silent as long, and their kernels repeat ever more slowly what they sent: who
    /// is on one goes on elsewhere.
    fn end_race(&mut self) {
        match &self.active {
            // QUIC has repaired itself already.
            Some(active) if active.link.quic.is_some() => {
                self.dialing.clear();
                active.link.path.send_modify(|changes| *changes += 1);
            }
            // The whole tunnel goes on elsewhere.
            _ if !self.dialing.is_empty() => self.try_once(),
            _ => {}
        }
    }

    /// UDP may come back: it is tried again while lanes carry everything.
    pub(super) fn plan_upgrade(&mut self) {
        self.dial_at = None;
        if self.is_on_lane() {
            let next = Instant::now() + self.upgrade.next(self.shared.random());
            self.dial_at = self.damper.until().max(Some(next));
        } else {
            self.upgrade.reset();
        }
    }

    fn is_on_lane(&self) -> bool {
        (self.active.as_ref()).is_some_and(|active| {
            active.welcome_at.is_some() && active.link.transport == Transport::Lane
        })
    }

    /// Whether a new path is looked for beside one that may be gone; a tunnel that is lost meanwhile changes nothing in that.
    pub(super) fn is_suspect(&self) -> bool {
        (self.suspect_since).is_some_and(|since| since.elapsed() < RESUME_PATIENCE)
    }

    /// Starts dialling, if that is not under way. A suspect path is raced by one try after another.
    pub(super) fn dial(&mut self) {
        self.dial_at = None;
        if self.is_suspect() {
            self.try_once();
            self.dial_at = Some(Instant::now() + self.racing.next(self.shared.random()));
        } else if self.dialing.is_empty() {
            self.try_once();
        }
    }

    fn try_once(&mut self) {
        let (dialer, credential, shared) = (
            self.dialer.clone(),
            self.credential.clone(),
            self.shared.clone(),
        );
        // A lane that works needs QUIC only; where a lane worked last, QUIC has no head start.
        let ways = if self.is_on_lane() && !self.is_suspect() && self.dialing.is_empty() {
            Ways::QuicOnly
        } else if self.is_fallback {
            Ways::Both
        } else if self.is_suspect() {
            Ways::Racing
        } else {
            Ways::Any
        };
        self.upgrading = ways == Ways::QuicOnly;
        self.dialing.add(async move {
            let established: Established = dialer.dial(&credential, ways).await?;
            let relay = established.relay;
            let (link, control) = Link::start(&shared, dialer, established).await?;
            Ok((link, control, relay))
        });
    }

    /// A try of QUIC alone, which may stay silent for long, must not keep a client waiting whose lanes have gone.
    fn end_upgrade(&mut self) {
        if std::mem::take(&mut self.upgrading) {
            self.dialing.clear();
        }
    }

    /// A new tunnel stands: it becomes the one in use.
    pub(super) fn adopt(&mut self, link: Arc<Link>, control: Control, relay: ProcessId) {
        // Whoever comes later than the first is too late.
        self.dialing.clear();
        if let Some(old) = self.active.take() {
            self.session.handle_disconnected();
            self.retiring = Some(old);
        }
        if !self.shared.flows.is_led_to(relay) {
            self.damper.handle_other_relay();
            // Nothing of one process is sent to another: its ids begin anew.
            self.shared.sender.store(None);
            if let Some(old) = self.retiring.take() {
                old.link.closed.cancel();
                if let Some(quic) = &old.link.quic {
                    quic.close(quinn::VarInt::from_u32(0), b"");
                }
            }
            self.shared.flows.lead_to(relay, Instant::now());
            self.shared.streams.clear();
        }
        self.active = Some(Active {
            link,
            control,
            welcome_at: None,
        });
        self.dial_at = None;
        self.relay_drains = false;
        self.session.handle_connected(Instant::now());
    }

    pub(super) fn handle_dial_error(&mut self, error: &DialError) {
        if self.is_suspect() || !self.dialing.is_empty() {
            // The next try is due anyhow, or runs.
            return;
        }
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.welcome_at.is_some() && !active.link.broken.is_cancelled())
        {
            return self.plan_upgrade();
        }
        self.retry(&error.to_string());
    }

    /// The relay breaks the protocol: the tunnel in use is given up.
    pub(super) fn leave(&mut self, reason: &str) {
        self.close_active(reason, Code::ProtocolError);
    }

    /// The tunnel in use is gone.
    pub(super) fn lose(&mut self, reason: &str) {
        self.end_upgrade();
        self.close_active(reason, Code::None);
    }

    fn close_active(&mut self, reason: &str, code: Code) {
        let Some(active) = self.active.take() else {
            return;
        };
        active.link.broken.cancel();
        if let Some(quic) = &active.link.quic {
            let code = quinn::VarInt::from_u64(code.into()).unwrap_or_default();
            quic.close(code, b"");
        }
        // A tunnel that was to be left may still carry answers.
        let before = self.retiring.as_ref();
        let sender = before.map(|before| before.link.sender.clone());
        self.shared.sender.store(sender);
        self.session.handle_disconnected();
        if let Some(name) = &self.name {
            self.shared.emit(Event::TunnelDown {
                client: name.clone(),
                reason: reason.into(),
            });
        }
        match active.welcome_at {
            Some(at) if at.elapsed() >= STOOD => {
                // The first try is at once: most losses are a relay that restarts or an address that changed.
                self.backoff.reset();
                self.flapping.reset();
                self.dial_at = Some(Instant::now());
            }
            Some(_) => {
                // Or a relay that ends what it has just let in would keep both busy for ever.
                let wait = self.flapping.next(self.shared.random());
                self.retry_in(wait, reason);
            }
            None => self.retry(reason),
        }
    }

    fn retry(&mut self, reason: &str) {
        let wait = self.backoff.next(self.shared.random());
        self.retry_in(wait, reason);
    }

    fn retry_in(&mut self, wait: Duration, reason: &str) {
        self.dial_at = Some(Instant::now() + wait);
        self.shared.emit(Event::Reconnecting {
            reason: reason.into(),
            retry_in: wait,
        });
    }
}

/// How long a tunnel must have stood for the next one to be dialled at once.
const STOOD: Duration = Duration::from_secs(1);
