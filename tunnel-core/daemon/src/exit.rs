//! How a program ends: 0 only on success, 1 on failure, 2 for bad usage or configuration, 3 where another has taken its
//! place.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::ExitCode,
};

use crate::{
    config::{Invalid, Loaded},
    log, notify, print,
};

/// Why a command ended without success.
#[derive(Debug)]
pub enum Stop {
    /// Wrong usage or configuration: the person who started it must change something. Exit status 2.
    Misuse(anyhow::Error),
    /// Another process has taken this one's place: starting it again would take it back. Exit status 3.
    Superseded(anyhow::Error),
    /// It did not work out. Exit status 1.
    Failure(anyhow::Error),
}

impl Stop {
    /// Wrong usage or configuration, with what to do about it.
    pub fn misuse(message: impl Into<String>) -> Self {
        Self::Misuse(anyhow::Error::msg(message.into()))
    }

    /// A configuration that does not hold.
    pub fn invalid(invalid: Invalid) -> Self {
        Self::Misuse(invalid.into())
    }

    /// A failure, with what to do about it.
    pub fn failure(message: impl Into<String>) -> Self {
        Self::Failure(anyhow::Error::msg(message.into()))
    }
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

/// A configuration that is looked at by a person: its warnings are written to stderr, and if it is invalid, it ends the
/// command.
pub fn checked<T>(loaded: Result<Loaded<T>, Invalid>) -> Result<T, Stop> {
    let warnings = match &loaded {
        Ok(loaded) => &loaded.warnings,
        Err(invalid) => &invalid.warnings,
    };
    for warning in warnings {
        print::note(format_args!("warning: {warning}"));
    }
    loaded.map(|loaded| loaded.value).map_err(Stop::invalid)
}

/// Runs a command: its exit status, after its error has been written to stderr.
pub fn run(command: impl FnOnce() -> Result<(), Stop>) -> ExitCode {
    let status = catch_unwind(AssertUnwindSafe(|| match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Misuse(error)) => told(error, 2),
        Err(Stop::Superseded(error)) => told(error, 3),
        Err(Stop::Failure(error)) => told(error, 1),
    }));
    notify::finish();
    log::finish();
    // A panic is among what has been logged.
    status.unwrap_or_else(|panic| resume_unwind(panic))
}

fn told(error: anyhow::Error, status: u8) -> ExitCode {
    // Whoever closed our stdout knows; `relay-server clients list | head -1` needs no remark.
    if error.is::<Invalid>() {
        // One problem a line, each with its place, as editors read it.
        print::note(error);
    } else if !is_broken_pipe(&error) {
        print::note(format_args!("error: {error:#}"));
    }
    ExitCode::from(status)
}

/// The command line as `T`, or the exit status after help, version or usage error have been written.
pub fn arguments<T: clap::Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        // A reader that is gone changes nothing about the status.
        drop(error.print());
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// Writes the completions of `T` for a shell to stdout.
pub fn completions<T: clap::CommandFactory>(shell: clap_complete::Shell) -> io::Result<()> {
    let mut command = T::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print::bytes(&script)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
