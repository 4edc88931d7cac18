//! What terminals do to programs that write to them.

#[cfg(unix)]
use std::{os::fd::AsFd, thread, time::Duration};

/// Waits for as long as writing to this output would stop the whole program: while it runs in the background of a terminal
/// that wants nothing of such programs (`stty tostop`).
#[cfg(unix)]
pub(crate) fn wait_for_turn(output: impl AsFd) {
    use rustix::{
        process::getpgrp,
        termios::{LocalModes, tcgetattr, tcgetpgrp},
    };
    // Where there is no terminal, it is an error at once.
    let stops = || {
        tcgetattr(&output).is_ok_and(|modes| modes.local_modes.contains(LocalModes::TOSTOP))
            && tcgetpgrp(&output).is_ok_and(|foreground| foreground != getpgrp())
    };
    while stops() {
        thread::sleep(LOOK);
    }
}

/// Terminals stop nobody.
#[cfg(not(unix))]
pub(crate) fn wait_for_turn<T>(_output: T) {}

/// How soon it is looked whether a program is in the foreground.
#[cfg(unix)]
const LOOK: Duration = Duration::from_millis(200);
