//! A transfer whose relay or client dies in the middle of it never looks complete.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
};

use rustix::process::Signal;

use crate::harness::{
    players::{accept, carry, connect, listen},
    ports,
    process::Process,
    programs::local_address,
    site::{Service, Site},
};

#[test]
fn a_killed_relay_resets_players_and_game_servers() {
    cut_off(|relay, _| relay.kill());
}

#[test]
fn a_killed_client_resets_players_and_game_servers() {
    cut_off(|_, client| client.kill());
}

#[test]
fn a_relay_that_is_told_twice_to_end_resets_players_and_game_servers() {
    cut_off(|relay, _| end_at_once(relay));
}

#[test]
fn a_client_that_is_told_twice_to_end_resets_players_and_game_servers() {
    cut_off(|_, client| end_at_once(client));
}

#[test]
fn streams_that_are_silent_or_half_closed_are_reset_as_well() {
    thread::scope(|scope| {
        for optimize in ["latency", "throughput"] {
            let ends: [fn(&mut Process, &mut Process); 2] =
                [|relay, _| relay.kill(), |_, client| client.kill()];
            for end in ends {
                scope.spawn(move || cut_off_silent(optimize, end));
            }
        }
    });
}

fn end_at_once(program: &Process) {
    program.signal(Signal::TERM);
    program.wait_for_line("that it stops", |line| line.contains("a second signal"));
    program.signal(Signal::TERM);
}

/// Both ends of a transfer that runs when one of relay and client comes to its end are told that it has failed.
fn cut_off(end: fn(&mut Process, &mut Process)) {
    // Side by side: who has lost only the tunnel waits for another one first.
    thread::scope(|scope| {
        for optimize in ["latency", "throughput"] {
            for is_download in [true, false] {
                scope.spawn(move || cut_off_one(optimize, is_download, end));
            }
        }
    });
}

fn cut_off_one(optimize: &'static str, is_download: bool, end: fn(&mut Process, &mut Process)) {
    let mut site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let mut client = site.expose(&[Service::tcp(port, target).optimized_for(optimize)]);
    let server = listen(target);
    let player = connect(site.public(port));
    let game = accept(&server);
    let (mut from, mut to) = match is_download {
        true => (game, player),
        false => (player, game),
    };
    let sending = thread::spawn(move || end_of(|| from.write(&[7; 64 * 1024])));
    to.read_exact(&mut vec![0; 4 << 20]).unwrap();
    end(&mut site.relay, &mut client);
    let reading = end_of(|| to.read(&mut [0; 64 * 1024]));
    assert_eq!(reading, ErrorKind::ConnectionReset);
    assert_eq!(sending.join().unwrap(), ErrorKind::ConnectionReset);
}

fn cut_off_silent(optimize: &'static str, end: fn(&mut Process, &mut Process)) {
    let mut site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let mut client = site.expose(&[Service::tcp(port, target).optimized_for(optimize)]);
    let server = listen(target);
    let meet = || {
        let mut both = (connect(site.public(port)), accept(&server));
        carry(&mut both.0, &mut both.1, b"from the player");
        carry(&mut both.1, &mut both.0, b"from the server");
        both
    };
    let half_close = |one: &TcpStream, other: &mut TcpStream| {
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    };
    let idle = meet();
    let (asked, mut asking) = meet();
    half_close(&asked, &mut asking);
    let (mut told, telling) = meet();
    half_close(&telling, &mut told);
    end(&mut site.relay, &mut client);
    // Whoever could still be told something is told that it has failed.
    for mut reading in [idle.0, idle.1, asked, telling] {
        let error = end_of(|| reading.read(&mut [0]));
        assert_eq!(error, ErrorKind::ConnectionReset);
    }
    // Who has heard the other's end already sees it when he goes on.
    for writing in [&mut asking, &mut told] {
        let error = end_of(|| writing.write(&[7; 64 * 1024]));
        assert!(matches!(
            error,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ));
    }
}

/// Which error a connection ends with. It panics at a clean end.
fn end_of(mut step: impl FnMut() -> std::io::Result<usize>) -> ErrorKind {
    loop {
        match step() {
            Ok(0) => panic!("a clean end"),
            Ok(_) => {}
            Err(error) => return error.kind(),
        }
    }
}
