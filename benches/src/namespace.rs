//! Named network namespaces, made and removed with `ip`.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// A namespace that goes with its value. What still runs in it keeps its network, without the link.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Named by `side`, after this process.
    pub(crate) fn new(side: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{side}", std::process::id());
        ip(&["netns", "add", &name])?;
        let path = Path::new(DIRECTORY).join(&name);
        match File::open(&path) {
            Ok(handle) => Ok(Self { name, handle }),
            Err(error) => {
                remove(&name);
                Err(error).context(format!("cannot open {}", path.display()))
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs there, as the process that is started: `ip` becomes it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = command("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Moves the calling thread there for good; what it has opened stays where it was.
    pub(crate) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", self.name))
    }

    /// Calls `body` on a thread of its own there.
    pub(crate) fn visit<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let visited = thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                self.enter()?;
                body()
            });
            visitor.join()
        });
        visited.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Lines for `ip -batch`.
    pub(crate) fn configure(&self, lines: &str) -> Result<()> {
        let mut ip = command("ip");
        ip.args(["-netns", &self.name, "-batch", "-"]);
        let mut child = ip
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip")?;
        let mut stdin = child.stdin.take().context("it has an input")?;
        stdin.write_all(lines.as_bytes())?;
        drop(stdin);
        succeeded(lines, &child.wait_with_output()?)
    }

    /// Sets what /proc/sys/net has for a namespace.
    pub(crate) fn set_system(&self, key: &str, value: &str) -> Result<()> {
        self.visit(|| {
            // The path leads to the namespace of the thread that opens it.
            fs::write(Path::new("/proc/sys/net").join(key), value)
                .with_context(|| format!("cannot set net/{key} to {value}"))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what processes have left behind that are no more.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str()
            && let Some(owner) = owner(name)
            && !Path::new("/proc").join(owner.to_string()).exists()
        {
            end_processes(name);
            remove(name);
        }
    }
}

/// Kills what a dead lab's programs have started there, and nobody waits for.
fn end_processes(name: &str) {
    let Ok(output) = command("ip").args(["netns", "pids", name]).output() else {
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(pid) = line.trim().parse().ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _killed = kill_process(pid, Signal::KILL);
        }
    }
}

/// Why this process can make no namespaces; `None` where it can.
pub(crate) fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and TUN devices take root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("this kernel has no /dev/net/tun".to_owned());
    }
    if let Err(error) = ip(&["netns", "list"]) {
        return Some(format!("{error:#}"));
    }
    None
}

/// Lets namespaces have this congestion control by default until the value goes: the kernel refuses them what the machine
/// does not allow to everybody. Sockets and defaults that have it keep it.
pub(crate) fn allow_congestion_control(name: &str) -> Result<Option<Allowed>> {
    let before = fs::read_to_string(ALLOWED).context("cannot read what the machine allows")?;
    if before.split_whitespace().any(|allowed| allowed == name) {
        return Ok(None);
    }
    fs::write(ALLOWED, format!("{} {name}", before.trim()))
        .with_context(|| format!("this kernel has no congestion control {name}"))?;
    Ok(Some(Allowed { before }))
}

/// Puts back what the machine allowed.
pub(crate) struct Allowed {
    before: String,
}

impl Drop for Allowed {
    fn drop(&mut self) {
        // It was writable a moment ago.
        drop(fs::write(ALLOWED, &self.before));
    }
}

/// The process whose namespace has this name.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

fn remove(name: &str) {
    // It may be gone already.
    drop(ip(&["netns", "delete", name]));
}

/// Runs `ip`, which says why it cannot.
pub(crate) fn ip(args: &[&str]) -> Result<()> {
    let output = command("ip").args(args).output();
    succeeded(
        &args.join(" "),
        &output.context("cannot run ip (of iproute2)")?,
    )
}

fn succeeded(what: &str, output: &std::process::Output) -> Result<()> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {what}: {}", said.trim());
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is a bench: it starts what it measures"
)]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "adit-lab-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_the_name() {
        assert_eq!(owner("adit-lab-17-0-home"), Some(17));
        for foreign in ["home", "adit-lab-", "adit-lab-x-0-home", "adit-lab-17"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
