//! The thread that looks whether another process has changed the state file.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use super::authority::StateAuthority;

/// Starts to look at the state file again and again, in a thread of its own: a disk may be slow, another process may
/// hold a lock.
pub(crate) fn start(authority: Arc<StateAuthority>) -> io::Result<()> {
    let thread = thread::Builder::new().name("state file".into());
    thread.spawn(move || watch(&authority)).map(drop)
}

fn watch(authority: &StateAuthority) -> ! {
    // What went wrong last, so that it is said once and not four times a second.
    let mut failure = None;
    loop {
        thread::sleep(POLL);
        let now = match catch_unwind(AssertUnwindSafe(|| authority.poll())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the look at the state file panicked".into()),
        };
        if failure != now {
            match &now {
                Some(error) => tracing::error!("{error}; who could connect before still can"),
                None => tracing::info!("the state file can be read again"),
            }
            failure = now;
        }
    }
}

/// A change by another process takes effect within a second; a look is one read of 100 bytes.
const POLL: Duration = Duration::from_millis(250);
