//! Logs: on stderr, as text or JSON, chosen by `--log-format` and filtered by `RUST_LOG`.
//!
//! A line is left for a thread of its own to write, so that no reader who hangs, no terminal that is closed and no disk
//! that is full holds anything up. Lines that find no room, or that cannot be written, are lost, counted, and told of
//! once lines can be written again.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::RefCell,
    error::Error,
    ffi::OsString,
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt::MakeWriter};

use crate::{
    aside::{Aside, Waiting},
    environment,
    terminal::wait_for_turn,
};

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the logger of this process; once, before anything logs.
pub fn install(format: Format) {
    let (filter, wrong) = match wanted() {
        Ok(filter) => (filter, None),
        Err(error) => (info(), Some(error)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would write them to stderr itself, and panic where it cannot.
        .log_internal_errors(false)
        .with_writer(Stderr);
    match format {
        Format::Text => {
            let colour = is_coloured(io::stderr().is_terminal(), std::env::var_os("NO_COLOR"));
            builder.with_ansi(colour).with_target(false).init();
        }
        Format::Json => builder.json().flatten_event(true).init(),
    }
    // The standard library's would write to stderr in the thread that panics, which may be the one that serves players.
    panic::set_hook(Box::new(log_panic));
    if let Some(error) = wrong {
        tracing::warn!("RUST_LOG is ignored: {error}");
    }
}

/// Leaves a line for stderr as it is.
pub(crate) fn line(text: &str) {
    leave(format!("{text}\n").as_bytes());
}

/// Log lines that were lost so far.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Waits until what was said is written, if that can be done soon: the last that a program does.
pub(crate) fn finish() {
    LINES.finish(LAST_WORDS);
}

/// How long the end of a program waits for who reads its last lines.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let captured = CAPTURED.try_with(|captured| {
            let mut captured = captured.borrow_mut();
            captured.as_mut().map(|bytes| bytes.extend_from_slice(line))
        });
        if !matches!(captured, Ok(Some(()))) {
            leave(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Takes the lines of this thread instead of the queue, while it is there.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

static LINES: Aside<Lines> = Aside::new("log", Lines::new(), write);
static LOST: AtomicU64 = AtomicU64::new(0);
/// How many of them have been told of.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Whether one had to go: then all do until those before it are written, so that what is lost is lost in a piece.
    is_full: bool,
}

impl Waiting for Lines {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Lines {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            is_full: false,
        }
    }

    /// Whether there was room.
    fn add(&mut self, line: &[u8]) -> bool {
        if self.is_full || line.len() > WAITING - self.bytes.len() {
            self.is_full = !self.bytes.is_empty();
            return false;
        }
        self.bytes.extend_from_slice(line);
        true
    }
}

/// 1 MiB: some 8,000 lines, more than any start or change of a large node says.
const WAITING: usize = 1 << 20;
/// How soon a descriptor that takes nothing now, and says so, is tried again.
const AGAIN: Duration = Duration::from_millis(20);

fn leave(line: &[u8]) {
    let mut found_room = false;
    let left = LINES.leave(|lines| found_room = lines.add(line));
    if !found_room {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    // Without a thread it waits for the next line's.
    drop(left);
}

fn write(lines: Lines) {
    wait_for_turn(io::stderr());
    write_to(&mut io::stderr().lock(), &lines.bytes, &LOST, &TOLD);
}

/// Writes lines, counts those that could not be written, and says once they can be how many were lost.
fn write_to(to: &mut impl Write, lines: &[u8], lost: &AtomicU64, told: &AtomicU64) {
    if let Err(rest) = write_whole(to, lines) {
        let missing = rest.iter().filter(|byte| **byte == b'\n').count();
        lost.fetch_add(missing as u64, Ordering::Relaxed);
        return;
    }
    let total = lost.load(Ordering::Relaxed);
    let untold = total - told.load(Ordering::Relaxed);
    if untold > 0 && write_whole(to, &remark(untold)).is_ok() {
        told.store(total, Ordering::Relaxed);
    }
}

/// Writes all, however long it takes; on an error that stays, answers what was not written.
fn write_whole<'b>(to: &mut impl Write, mut bytes: &'b [u8]) -> Result<(), &'b [u8]> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(bytes),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody else who has this pipe or terminal has made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(_) => return Err(bytes),
        }
    }
    Ok(())
}

/// The remark about lost lines, in the form that the log has.
fn remark(lost: u64) -> Vec<u8> {
    CAPTURED.set(Some(Vec::new()));
    tracing::warn!("{lost} log lines were lost: they could not be written");
    CAPTURED.take().unwrap_or_default()
}

fn log_panic(panicked: &PanicHookInfo<'_>) {
    let payload = panicked.payload();
    let text = match payload.downcast_ref::<&str>() {
        Some(text) => text,
        None => payload.downcast_ref::<String>().map_or("", String::as_str),
    };
    let place = panicked.location().map(ToString::to_string);
    let place = place.unwrap_or_else(|| "an unknown place".into());
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => tracing::error!("panic at {place}: {text}\n{backtrace}"),
        _ => tracing::error!("panic at {place}: {text}"),
    }
}

/// Colours are for people who have not asked for none.
fn is_coloured(is_terminal: bool, no_color: Option<OsString>) -> bool {
    is_terminal && no_color.is_none()
}

fn wanted() -> Result<EnvFilter, Box<dyn Error>> {
    match environment::text("RUST_LOG")? {
        Some(text) => Ok(EnvFilter::try_new(text)?),
        None => Ok(info()),
    }
}

fn info() -> EnvFilter {
    EnvFilter::default().add_directive(LevelFilter::INFO.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes in each write as many bytes as the next step says; an error, or the last step, ends it.
    struct Narrow {
        written: Vec<u8>,
        steps: Vec<io::Result<usize>>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = if self.steps.is_empty() {
                usize::MAX
            } else {
                self.steps.remove(0)?
            };
            let length = bytes.len().min(most);
            self.written.extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn narrow(steps: Vec<io::Result<usize>>) -> Narrow {
        Narrow {
            written: Vec::new(),
            steps,
        }
    }

    fn error(kind: io::ErrorKind) -> io::Result<usize> {
        Err(kind.into())
    }

    /// Captured lines go to the thread's own subscriber, which these tests bring.
    fn logged<T>(body: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Stderr)
            .with_ansi(false);
        tracing::subscriber::with_default(subscriber.finish(), body)
    }

    #[test]
    fn no_color_makes_a_terminal_plain() {
        assert!(is_coloured(true, None));
        assert!(!is_coloured(true, Some("1".into())));
        assert!(!is_coloured(false, None));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_of_once_they_can() {
        let (lost, told) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = || (lost.load(Ordering::Relaxed), told.load(Ordering::Relaxed));
        logged(|| {
            // The second line breaks off, the third is not begun.
            let mut full = narrow(vec![Ok(6), error(io::ErrorKind::StorageFull)]);
            write_to(&mut full, b"one\ntwo\nthree\n", &lost, &told);
            assert_eq!(count(), (2, 0));
            let mut gone = narrow(vec![Ok(0)]);
            write_to(&mut gone, b"four\n", &lost, &told);
            assert_eq!(count(), (3, 0));
            // The remark itself is lost: it is tried again.
            let mut full = narrow(vec![Ok(99), error(io::ErrorKind::StorageFull)]);
            write_to(&mut full, b"five\n", &lost, &told);
            assert_eq!(count(), (3, 0));
            let mut open = narrow(Vec::new());
            for _ in 0..2 {
                write_to(&mut open, b"six\n", &lost, &told);
            }
            assert_eq!(count(), (3, 3));
            let written = String::from_utf8(open.written).unwrap();
            let lines: Vec<_> = written.lines().collect();
            assert_eq!((lines.len(), lines[0], lines[2]), (3, "six", "six"));
            assert!(lines[1].contains("WARN"), "{written}");
            assert!(lines[1].contains(": 3 log lines were lost"), "{written}");
        });
    }

    #[test]
    fn a_write_that_is_interrupted_or_would_block_goes_on() {
        let steps = vec![
            Ok(1),
            error(io::ErrorKind::WouldBlock),
            error(io::ErrorKind::Interrupted),
            Ok(1),
        ];
        let mut slow = narrow(steps);
        assert_eq!(write_whole(&mut slow, b"abc\n"), Ok(()));
        assert_eq!(slow.written, b"abc\n");
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_lost_is_lost_in_a_piece() {
        let mut lines = Lines::new();
        assert!(!lines.add(&vec![b'x'; WAITING + 1]), "never");
        assert!(
            lines.add(b"first\n"),
            "one that is too long is in nobody's way"
        );
        assert!(lines.add(&vec![b'x'; WAITING - 10]));
        assert!(!lines.add(b"fifth\n"));
        assert!(!lines.add(b"x\n"), "there would be room");
        assert_eq!(lines.bytes.len(), WAITING - 4);
        let mut lines = Lines::new();
        assert!(lines.add(&vec![b'x'; WAITING]));
    }
}
