//! Signals as a program understands them.

use std::io;

/// What the outside asks of a running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: end cleanly; a second one ends at once.
    Stop,
}

/// The signals of this process, from the moment it was made: none before it is lost to the default action.
#[cfg(unix)]
#[derive(Debug)]
pub struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes the signals over; needs a runtime.
    pub fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // Taken over for good and not listened to: a log file that may not grow is an error of its write, and no end.
        #[cfg(target_os = "linux")]
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
        }
    }
}

/// The signal for who writes beyond its limit of a file's size (setrlimit(2)).
#[cfg(target_os = "linux")]
const SIGXFSZ: i32 = 25;

impl Signals {
    /// Waits until the program is asked to end; what else is asked is passed over. Cancel safe.
    pub async fn stop(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}

/// The signals of this process: Ctrl-C, and no reload.
#[cfg(not(unix))]
#[derive(Debug)]
pub struct Signals(());

#[cfg(not(unix))]
impl Signals {
    /// Takes the signals over; needs a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self(()))
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Stop
    }
}
