//! A program that a test starts: what it says, and how it ends. The tests of both programs take it in by its path.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// What was said on stderr, of a program that ended with `status` and said nothing on stdout.
    pub(crate) fn fails(self, status: i32) -> String {
        assert_eq!(
            (self.status, self.stdout.as_str()),
            (status, ""),
            "{self:?}"
        );
        self.stderr
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A port of this machine that is free on UDP and TCP, at the moment.
pub(crate) fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until nobody listens on a public port any more.
pub(crate) fn closes(address: &str, port: u16) {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect((address, port)).is_ok() {
        assert!(Instant::now() < end, "{address}:{port} is open");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A program that runs; dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// What was read of stderr so far, to be shown when a test fails.
    said: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdout: lines(child.stdout.take().unwrap()),
            stderr: lines(child.stderr.take().unwrap()),
            child,
            said: String::new(),
        }
    }

    /// Waits for the line "ready".
    pub(crate) fn ready(mut self) -> Self {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => assert_eq!(line, "ready"),
            Err(error) => panic!("{error}: {}", self.rest()),
        }
        self
    }

    /// Waits for a line on stderr that contains `part`.
    pub(crate) fn says(&mut self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.stderr.recv_timeout(left) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(error) => panic!("{error}, no {part:?} in: {}", self.said),
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end: status and what was left on stdout and stderr.
    pub(crate) fn ends(mut self) -> Ran {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status.code().unwrap(),
                None if Instant::now() > end => panic!("runs on: {}", self.rest()),
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        let stdout: Vec<_> = self.stdout.iter().collect();
        Ran {
            status,
            stdout: stdout.join("\n"),
            stderr: self.rest(),
        }
    }

    fn rest(&mut self) -> String {
        while let Ok(line) = self.stderr.recv_timeout(Duration::from_millis(200)) {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        self.said.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = sync_channel(10_000);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
