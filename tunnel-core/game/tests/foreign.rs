//! Clients by others read what is answered here, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use adit_game::{Answer, Game, Query, Responder, minecraft::Conversation};

fn answer() -> Answer {
    Answer {
        name: "Größe (asleep: join to start)".into(),
        players: Some(0),
        max: Some(16),
        version: "1.0.15.3".into(),
        map: "Highrise".into(),
        protocol: Some(17),
    }
}

/// Answers `count` datagrams, then ends.
fn respond(responder: Responder, count: usize) -> (std::net::SocketAddr, thread::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 2048];
        for _ in 0..count {
            let (length, player) = socket.recv_from(&mut buffer).unwrap();
            let reply = responder.respond(player, 1, &buffer[..length], &answer());
            socket.send_to(&reply.unwrap(), player).unwrap();
        }
    });
    (address, thread)
}

#[test]
fn the_a2s_client_reads_info_players_and_rules_behind_the_challenge() {
    // A challenge and an answer for each of three questions.
    let (server, thread) = respond(Responder::new(Game::A2s, &[3; 32]), 6);
    let mut client = a2s::A2SClient::new().unwrap();
    client.set_timeout(Duration::from_secs(20)).unwrap();
    let info = client.info(server).unwrap();
    assert_eq!(info.name, answer().name);
    assert_eq!(info.map, "Highrise");
    assert_eq!((info.players, info.max_players), (0, 16));
    assert_eq!(info.version, "1.0.15.3");
    assert_eq!(client.players(server).unwrap().len(), 0);
    assert_eq!(client.rules(server).unwrap().len(), 0);
    thread.join().unwrap();
}

/// Answers one connection to its end.
fn converse(listener: &TcpListener, text: &str) {
    let (mut socket, _) = listener.accept().unwrap();
    let mut conversation = Conversation::new(answer(), text);
    let mut buffer = [0; 2048];
    while !conversation.is_over() {
        let length = socket.read(&mut buffer).unwrap();
        if length == 0 {
            return;
        }
        conversation.handle_input(&buffer[..length]).unwrap();
        if let Some(bytes) = conversation.poll_transmit() {
            socket.write_all(&bytes).unwrap();
        }
    }
}

#[test]
fn the_craftping_client_reads_the_status() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let thread = thread::spawn(move || converse(&listener, ""));
    let mut socket = TcpStream::connect(server).unwrap();
    let status = craftping::sync::ping(&mut socket, "localhost", server.port(), 47).unwrap();
    assert_eq!(status.version, "1.0.15.3");
    assert_eq!(status.protocol, 17);
    assert_eq!((status.online_players, status.max_players), (0, 16));
    let description = String::from_utf8_lossy(status.raw()).into_owned();
    assert!(
        description.contains("Größe (asleep: join to start)"),
        "{description}"
    );
    drop(socket);
    thread.join().unwrap();
}

/// Our own query over a real socket, for the protocols that no small client of others speaks.
#[test]
fn our_own_query_reads_bedrock_and_satisfactory() {
    for game in [Game::Bedrock, Game::Satisfactory] {
        let (server, thread) = respond(Responder::new(game, &[3; 32]), 1);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        let mut query = Query::new(game, "localhost", server.port(), 0x0123_4567_89ab_cdef);
        socket.send(&query.poll_transmit().unwrap()).unwrap();
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).unwrap();
        let read = query.handle_input(&buffer[..length]).unwrap().unwrap();
        assert!(read.name.starts_with("Größe"), "{game}: {}", read.name);
        thread.join().unwrap();
    }
}
