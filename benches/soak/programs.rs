//! The programs: found or built, set up with their own commands, started, and ended with this process.

use std::{
    env,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Where both programs are.
#[derive(Debug)]
pub(crate) struct Programs(PathBuf);

/// Finds them in a directory, or builds them if cargo has started this program, or takes those beside it.
pub(crate) fn find(dir: Option<PathBuf>) -> Result<Programs> {
    let own = env::current_exe()?;
    let beside = own.parent().context("this program is nowhere")?.to_owned();
    if let (None, Some(cargo)) = (&dir, env::var_os("CARGO")) {
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "--quiet"]);
        build.args(["--package", "relay-server", "--package", "relay-client"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "the programs cannot be built");
    }
    let dir = dir.unwrap_or(beside);
    for name in ["relay-server", "relay-client"] {
        let path = dir.join(name);
        ensure!(path.is_file(), "{} is not there", path.display());
    }
    Ok(Programs(dir.canonicalize()?))
}

impl Programs {
    /// Runs one of them to its end; what it printed.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.0.join(name))
            .args(arguments)
            .output()
            .with_context(|| format!("cannot start {name}"))?;
        ensure!(
            output.status.success(),
            "{name} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts one of them; its log is added to this file.
    pub(crate) fn start(&self, name: &str, config: &Path, log: &Path) -> Result<Running> {
        let log = File::options().create(true).append(true).open(log)?;
        // Ends with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(self.0.join(name));
        command.arg("run").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().context("cannot run setpriv")?;
        Ok(Running(child))
    }

    /// Sets a relay up that listens on this address; its configuration file.
    pub(crate) fn init_relay(&self, dir: &Path, listen: SocketAddr) -> Result<PathBuf> {
        let (text, dir_text) = (listen.to_string(), path_text(dir)?);
        let arguments = [
            "init",
            "--dir",
            dir_text,
            "--listen",
            &text,
            "--advertise",
            &text,
            "--public-bind",
            "127.0.0.1",
        ];
        self.run("relay-server", &arguments)?;
        Ok(dir.join("relay.toml"))
    }

    /// Enrols a client at the relay that runs, and makes it look for the relay at this address.
    pub(crate) fn join(
        &self,
        relay: &Path,
        name: &str,
        dir: &Path,
        via: SocketAddr,
    ) -> Result<PathBuf> {
        let invite = ["invite", name, "--config", path_text(relay)?];
        let join_string = self.run("relay-server", &invite)?;
        let join = ["join", join_string.trim(), "--dir", path_text(dir)?];
        self.run("relay-client", &join)?;
        let config = dir.join("client.toml");
        let text = fs::read_to_string(&config)?;
        let lines = text.lines().map(|line| match line.starts_with("relay =") {
            true => format!("relay = \"{via}\"\n"),
            false => format!("{line}\n"),
        });
        fs::write(&config, lines.collect::<String>())?;
        Ok(config)
    }
}

/// A program that runs; dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Asks it to end, and waits for it.
    pub(crate) fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "it did not end within {patience:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}
