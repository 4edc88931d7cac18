//! A program as a service: it runs until it is asked to end, and reads its configuration again when it is asked to.

use tokio::{sync::Notify, task::spawn_blocking};

use crate::{
    config::{Invalid, Loaded, Remark},
    exit::Stop,
    notify,
    signal::{Signal, Signals},
};

/// Serves until SIGTERM or SIGINT, or until `serving` has ended by itself: then its outcome. SIGHUP notifies `reload`.
///
/// `serving` runs beside the signals: what waits there for a slow disk or a busy tunnel does not keep the program from
/// ending.
pub async fn until_stopped<T>(
    signals: &mut Signals,
    reload: &Notify,
    serving: impl Future<Output = T>,
) -> Option<T> {
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => reload.notify_one(),
                Signal::Stop => return None,
            },
            outcome = &mut serving => return Some(outcome),
        }
    }
}

/// Ends by `shutdown`, or at once, at a second signal.
pub async fn shut_down(
    signals: &mut Signals,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Stop> {
    tracing::info!("stopping; a second signal ends at once");
    notify::stopping();
    tokio::select! {
        () = shutdown => Ok(()),
        () = signals.stop() => Err(Stop::failure("ended at once, at the second signal")),
    }
}

/// The value of a configuration whose warnings have been logged.
pub fn warned<T>(loaded: Loaded<T>) -> T {
    warn(&loaded.warnings);
    loaded.value
}

/// Loads the configuration again, in a thread that may block. `None`, after its problems have been logged, if it is
/// invalid.
pub async fn reload<T: Send + 'static>(
    load: impl FnOnce() -> Result<Loaded<T>, Invalid> + Send + 'static,
) -> Option<T> {
    match spawn_blocking(load).await {
        Ok(Ok(loaded)) => Some(warned(loaded)),
        Ok(Err(invalid)) => {
            warn(&invalid.warnings);
            for problem in &invalid.problems {
                tracing::error!("{problem}");
            }
            tracing::error!("the configuration does not hold: everything stays as it was");
            None
        }
        Err(panic) => {
            tracing::error!("{panic}: everything stays as it was");
            None
        }
    }
}

fn warn(warnings: &[Remark]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
