//! Outputs that nobody takes: a full disk, a reader who has left, a terminal that was closed, a pipe that is full. They are
//! never a player's business.

use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::harness::{
    eventually,
    players::{
        accept, carry, connect, converse, listen, reaches, try_converse, udp_player, udp_server,
    },
    ports,
    process::{Process, spawn},
    programs::local_address,
    requires,
    site::{Service, Site, instance},
};

#[test]
fn a_disk_that_is_full_costs_no_player_anything() {
    serves_on(&[], full_disk, || {});
}

#[test]
fn a_reader_who_has_left_costs_no_player_anything() {
    let (reader, writer) = io::pipe().unwrap();
    serves_on(
        &[],
        || (Stdio::null(), again(&writer).into()),
        || drop(reader),
    );
}

#[test]
fn a_pipe_that_nobody_reads_costs_no_player_anything() {
    let (_reader, writer) = full_pipe();
    serves_on(&[], || (Stdio::null(), again(&writer).into()), || {});
}

#[test]
fn a_terminal_that_is_closed_costs_no_player_anything() {
    requires!("setsid");
    let masters = RefCell::new(Vec::new());
    let terminal = || {
        let (master, terminal) = terminal();
        masters.borrow_mut().push(master);
        (terminal.try_clone().unwrap().into(), terminal.into())
    };
    let prefix = ["setsid", "--ctty"].map(str::to_owned);
    serves_on(&prefix, terminal, || masters.borrow_mut().clear());
}

#[test]
fn a_terminal_that_stops_who_writes_in_its_background_stops_no_program() {
    requires!("setsid", "stty");
    let mut site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let node = site.node("node-1");
    node.configure(&instance("game-1", &[Service::udp(port, target)]));
    // A shell with job control runs the client in the background. Its ready goes to a pipe, its log to the terminal.
    let script = "stty tostop; set -m; setpriv --pdeathsig KILL -- \"$0\" \"$@\" & \
                  trap 'kill $!' TERM; wait $!; wait $!";
    let prefix = ["setsid", "--ctty", "sh", "-c", script].map(str::to_owned);
    let (_master, terminal) = terminal();
    let mut command = node.command(&prefix);
    command
        .env("RUST_LOG", "debug")
        .stdin(terminal.try_clone().unwrap());
    let client = Process::start_unheard("node-1", command.stderr(terminal));
    client.wait_until_ready();
    let (public, game) = (site.public(port), udp_server(target));
    for _ in 0..2 {
        for _ in 0..25 {
            converse(&udp_player(public), &game, 100);
        }
        site.restart_relay();
        eventually("the service", || {
            try_converse(&udp_player(public), &game, 100)
        });
    }
    client.terminate().success();
}

#[test]
fn a_log_file_that_may_not_grow_costs_no_player_anything() {
    requires!("prlimit");
    // A hundred lines; the state file is smaller.
    let small = ["prlimit", "--fsize=65536", "--"].map(str::to_owned);
    let dir = tempfile::tempdir().unwrap();
    let log = || {
        let log = File::options()
            .append(true)
            .create(true)
            .open(dir.path().join("log"));
        (Stdio::null(), log.unwrap().into())
    };
    fs::write(dir.path().join("log"), [b'\n'; 65_000]).unwrap();
    serves_on(&small, log, || {});
    assert_eq!(fs::metadata(dir.path().join("log")).unwrap().len(), 65_536);
}

#[test]
fn log_lines_that_were_lost_are_told_once_lines_can_be_written_again() {
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let node = site.node("node-1");
    node.configure(&instance("game-1", &[Service::udp(port, target)]));
    let (reader, writer) = full_pipe();
    let mut command = node.command(&[]);
    command.env("RUST_LOG", "debug,quinn_proto=trace");
    command.stdin(Stdio::null()).stderr(writer);
    let client = Process::start_unheard("node-1", &mut command);
    drop(command);
    client.wait_until_ready();
    // Each packet is some lines: several times what waits for a reader.
    let (player, server) = (udp_player(site.public(port)), udp_server(target));
    for _ in 0..3_000 {
        converse(&player, &server, 100);
    }
    let lines = thread::spawn(move || {
        let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
        lines
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .collect::<Vec<_>>()
    });
    converse(&player, &server, 100);
    thread::sleep(Duration::from_millis(500));
    client.terminate().success();
    let lines = lines.join().unwrap();
    let told: Vec<_> = (lines.iter())
        .filter(|line| line.contains("log lines were lost"))
        .collect();
    assert_eq!(told.len(), 1, "of {} lines: {told:?}", lines.len());
    // What was said first is there, what was said last too.
    assert!(lines.iter().any(|line| line.contains("the client runs")));
    assert!(
        lines.last().unwrap().contains("stopping")
            || lines.iter().any(|line| line.contains("stopping"))
    );
}

#[test]
fn a_ready_that_nobody_takes_stops_nothing() {
    let (_reader, full_pipe) = full_pipe();
    let full_disk = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, left) = io::pipe().unwrap();
    drop(reader);
    for stdout in [OwnedFd::from(full_disk), full_pipe.into(), left.into()] {
        let start = |mut command: Command| {
            command
                .stdin(Stdio::null())
                .stdout(stdout.try_clone().unwrap())
                .stderr(Stdio::null());
            Unheard(spawn(&mut command).unwrap())
        };
        let mut site = Site::start();
        let (port, target) = (ports::one(), local_address());
        let node = site.node("node-1");
        node.configure(&instance("game-1", &[Service::tcp(port, target)]));
        site.relay.kill();
        let serves = || {
            eventually("the service", || {
                reaches(site.public(port), target).then_some(())
            });
        };
        // Each of them is started again beside the other.
        let (relay, client) = (start(site.relay_command(&[])), start(node.command(&[])));
        serves();
        drop(relay);
        let relay = start(site.relay_command(&[]));
        serves();
        drop(client);
        let _client = start(node.command(&[]));
        serves();
        drop(relay);
    }
}

/// A program of which nothing is heard; it ends with its value.
struct Unheard(Child);

impl Drop for Unheard {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a relay and a client with these inputs and errors, which `close` closes while players are there, and sees that
/// players notice nothing: those who are there, those who come, and those who come after the relay has restarted.
fn serves_on(prefix: &[String], outputs: impl Fn() -> (Stdio, Stdio), close: impl FnOnce()) {
    let mut site = Site::start();
    let node = site.node("node-1");
    let (port, target) = (ports::one(), local_address());
    node.configure(&instance("game-1", &[Service::both(port, target)]));
    let start = |name, mut command: Command| {
        let (stdin, stderr) = outputs();
        command.env("RUST_LOG", "debug").stdin(stdin).stderr(stderr);
        let process = Process::start_unheard(name, &mut command);
        process.wait_until_ready();
        process
    };
    site.relay.kill();
    site.relay = start("relay", site.relay_command(prefix));
    let client = start("node-1", node.command(prefix));
    let (game, server) = (udp_server(target), listen(target));
    let udp = udp_player(site.public(port));
    let mut tcp = connect(site.public(port));
    let mut peer = accept(&server);
    let mut play = || {
        for _ in 0..25 {
            converse(&udp, &game, 100);
            carry(&mut tcp, &mut peer, b"from the player");
            carry(&mut peer, &mut tcp, b"from the server");
            thread::sleep(Duration::from_millis(10));
        }
    };
    play();
    close();
    play();
    for program in [&site.relay, &client] {
        program.signal(Signal::HUP);
    }
    play();
    let mut late = connect(site.public(port));
    carry(&mut late, &mut accept(&server), b"a new player");
    converse(&udp_player(site.public(port)), &game, 100);
    // What both have to say of this is much, and none of it can be written.
    site.relay.kill();
    site.start_relay();
    site.relay.wait_until_ready();
    let public = site.public(port);
    eventually("the service", || {
        try_converse(&udp_player(public), &game, 100)
    });
    carry(&mut connect(public), &mut accept(&server), b"hello");
    client.terminate().success();
}

fn full_disk() -> (Stdio, Stdio) {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    (Stdio::null(), full.into())
}

/// A pipe that takes nothing any more until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        let full = loop {
            if let Err(error) = writer.write(&vec![b'\n'; size]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Both ends of a new terminal.
fn terminal() -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    (master, terminal.into())
}

fn again(writer: &PipeWriter) -> PipeWriter {
    writer.try_clone().unwrap()
}
