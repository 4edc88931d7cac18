//! Programs that a test starts: their output is kept, every wait is bounded, and none outlives its test.

use std::{
    env, fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::{fs::FileExt, process::CommandExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process, kill_process_group, pidfd_open,
    },
};

use super::{HANG, find};

/// A command for a program, which ends when the thread that starts it does. Nothing of Adit's or systemd's environment
/// reaches it.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let program = program.as_ref();
    let path = program.to_str().and_then(find);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(path.as_deref().map_or(program, |path| path.as_os_str()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ADIT_") || text == "NOTIFY_SOCKET" || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    command
}

/// Starts a program. Until it runs, it has what this process has open, its listeners among them: nobody listens
/// meanwhile, or a port that was just given up would still be taken.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = no_child_starts();
    command.spawn()
}

/// Keeps programs from being started for as long as it is held.
pub(crate) fn no_child_starts() -> MutexGuard<'static, ()> {
    static STARTS: Mutex<()> = Mutex::new(());
    STARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running program and what it has said.
pub(crate) struct Process {
    name: String,
    child: Child,
    reaped: bool,
    output: Arc<Output>,
}

impl Process {
    /// Starts a program. Its standard input is empty unless the command says otherwise.
    pub(crate) fn start(name: impl Into<String>, command: &mut Command) -> Self {
        Self::start_with_input(name, command.stdin(Stdio::null()))
    }

    /// As [`Process::start`], with the standard input that the command has.
    pub(crate) fn start_with_input(name: impl Into<String>, command: &mut Command) -> Self {
        // A group of its own, so that ending it ends what it has started.
        command.process_group(0).stderr(Stdio::piped());
        Self::start_unheard(name, command)
    }

    /// As [`Process::start_with_input`], with the standard error that the command has, which is kept only if it is
    /// piped. The program leads no group, so that it may lead a session.
    pub(crate) fn start_unheard(name: impl Into<String>, command: &mut Command) -> Self {
        let name = name.into();
        command.stdout(Stdio::piped());
        let mut child =
            spawn(command).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Output::default());
        collect(&output, Source::Stdout, child.stdout.take());
        collect(&output, Source::Stderr, child.stderr.take());
        Self {
            name,
            child,
            reaped: false,
            output,
        }
    }

    /// Waits for a line on either output that `holds`; panics if the program ends without it.
    pub(crate) fn wait_for_line(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        self.wait_for(what, |lines| {
            let found = lines.iter().find(|(_, line)| holds(line));
            found.map(|(_, line)| line.clone())
        })
    }

    /// Waits for the line `ready`, which the relay and the client write to stdout.
    pub(crate) fn wait_until_ready(&self) {
        self.wait_for("the line ready on stdout", |lines| {
            let is_ready = |(source, line): &(Source, String)| {
                *source == Source::Stdout && line.as_str() == "ready"
            };
            lines.iter().any(is_ready).then_some(())
        });
    }

    /// Waits until a tunnel is up over `transport`, "quic" or "lane".
    pub(crate) fn wait_until_up_over(&self, transport: &str) {
        let up = format!("is up over {transport}");
        self.wait_for_line(&up, |line| line.contains(&up));
    }

    /// Waits until `count` lines hold.
    pub(crate) fn wait_for_lines(&self, what: &str, count: usize, holds: impl Fn(&str) -> bool) {
        self.wait_for(what, |lines| {
            (lines.iter().filter(|(_, line)| holds(line)).count() >= count).then_some(())
        });
    }

    /// How many lines so far hold.
    pub(crate) fn count_lines(&self, holds: impl Fn(&str) -> bool) -> usize {
        self.log().lines().filter(|line| holds(line)).count()
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.text(Some(Source::Stdout))
    }

    /// What it has written so far, both outputs.
    pub(crate) fn log(&self) -> String {
        self.text(None)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Waits for the program to end by itself.
    pub(crate) fn wait(mut self) -> Finished {
        assert!(self.ends_within(HANG), "{} did not end", self.name);
        let status = self.end();
        self.output
            .wait(HANG, |state| (state.open == 0).then_some(()));
        Finished {
            name: self.name.clone(),
            status: status.expect("nobody else waits for it"),
            stdout: self.text(Some(Source::Stdout)),
            stderr: self.text(Some(Source::Stderr)),
        }
    }

    /// Asks the program to end, as systemd and container engines do, and waits for it.
    pub(crate) fn terminate(self) -> Finished {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn wait_for<T>(&self, what: &str, found: impl Fn(&[(Source, String)]) -> Option<T>) -> T {
        let outcome = self.output.wait(HANG, |state| match found(&state.lines) {
            Some(value) => Some(Some(value)),
            None => (state.open == 0).then_some(None),
        });
        match outcome {
            Some(Some(value)) => value,
            Some(None) => panic!("{} ended before {what}", self.name),
            None => panic!("{}: no {what} within {HANG:?}", self.name),
        }
    }

    /// How many descriptors the program has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// A line of the program's `/proc/PID/status`, without its name: `VmRSS`, `Threads`, …
    pub(crate) fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_matches(':').trim().to_owned()
    }

    /// The program's memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let text = self.status("VmRSS");
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What the program's memory holds that it may write: heap, stacks, data. It is passed to `look` piece by piece.
    pub(crate) fn memory_of(&self, mut look: impl FnMut(&str, &[u8])) {
        let pid = self.child.id();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (range, _) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
            let mut bytes = vec![0; (end - start) as usize];
            // Some of it may be no memory: a device's, or the kernel's own.
            if memory.read_exact_at(&mut bytes, start).is_ok() {
                look(line, &bytes);
            }
        }
    }

    /// Leaves the program `spare` descriptors beside those that it has open.
    pub(crate) fn limit_descriptors(&self, spare: u64) {
        let most = Some(self.descriptors() as u64 + spare);
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        let pid = Pid::from_child(&self.child);
        rustix::process::prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    }

    /// Ends the program and whatever it has started, at once.
    pub(crate) fn kill(&mut self) {
        self.end();
    }

    /// The status, unless it has been asked for already.
    fn end(&mut self) -> Option<ExitStatus> {
        if self.reaped {
            return None;
        }
        // Until it is reaped, its id and its group's belong to nobody else. The group may be empty by now, or another's.
        kill_process_group(self.pid(), Signal::KILL).ok();
        self.child.kill().ok();
        self.reaped = true;
        self.child.wait().ok()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn ends_within(&self, bound: Duration) -> bool {
        let handle = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let timeout = Timespec::try_from(bound).unwrap();
        let mut waited = [PollFd::new(&handle, PollFlags::IN)];
        poll(&mut waited, Some(&timeout)).unwrap() > 0
    }

    fn text(&self, of: Option<Source>) -> String {
        let state = self.output.state();
        let lines = state.lines.iter();
        lines
            .filter(|(source, _)| of.is_none_or(|of| *source == of))
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.name, self.log());
        }
    }
}

/// What a program leaves behind.
pub(crate) struct Finished {
    name: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// What it wrote to stdout, if it succeeded.
    pub(crate) fn success(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// What it wrote to stderr, if it ended with this status.
    pub(crate) fn failure(self, status: i32) -> String {
        assert_eq!(self.status.code(), Some(status), "{self}");
        self.stderr
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ended with {}\n{}{}",
            self.name, self.status, self.stdout, self.stderr
        )
    }
}

/// Runs a command to its end.
pub(crate) fn run(name: &str, command: &mut Command) -> Finished {
    Process::start(name, command).wait()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

#[derive(Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<(Source, String)>,
    /// Outputs that have not ended.
    open: usize,
}

impl Output {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, bound: Duration, found: impl Fn(&State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + bound;
        let mut state = self.state();
        loop {
            if let Some(value) = found(&state) {
                return Some(value);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn collect(output: &Arc<Output>, source: Source, pipe: Option<impl Read + Send + 'static>) {
    let Some(pipe) = pipe else { return };
    let output = Arc::clone(output);
    output.state().open += 1;
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n').to_owned();
            line.clear();
            output.state().lines.push((source, text));
            output.changed.notify_all();
        }
        output.state().open -= 1;
        output.changed.notify_all();
    });
}
