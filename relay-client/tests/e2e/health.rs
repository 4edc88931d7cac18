//! Game servers, stood in for by what speaks their real bytes, are asked by the client, and the relay acts on what it is told.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use adit_game::{Answer, Game, Responder, minecraft::Conversation};

use crate::harness::{
    eventually,
    players::{connect, listen, udp_player},
    ports,
    process::Process,
    programs::local_address,
    site::{Service, Site, instance},
};

/// A game server that answers queries as long as it is told to, and echoes what players send all the while.
struct StandIn {
    address: SocketAddr,
    answers: Arc<AtomicBool>,
    /// What players have sent over UDP.
    heard: mpsc::Receiver<Vec<u8>>,
}

impl StandIn {
    fn start(game: Game) -> Self {
        let address = local_address();
        let answers = Arc::new(AtomicBool::new(true));
        let (hears, heard) = mpsc::sync_channel(1000);
        let udp = UdpSocket::bind(address).unwrap();
        let tcp = listen(address);
        let does_answer = answers.clone();
        thread::spawn(move || {
            let responder = Responder::new(game, &[9; 32]);
            let mut buffer = [0; 2048];
            // It lives as long as the test's process.
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let datagram = &buffer[..length];
                let reply = match responder.respond(from, 1, datagram, &answer()) {
                    Some(_) if !does_answer.load(Ordering::Relaxed) => continue,
                    Some(reply) => reply,
                    None => {
                        hears.try_send(datagram.to_vec()).unwrap();
                        datagram.to_vec()
                    }
                };
                drop(udp.send_to(&reply, from));
            }
        });
        thread::spawn(move || {
            while let Ok((socket, _)) = tcp.accept() {
                thread::spawn(move || serve(socket, game));
            }
        });
        Self {
            address,
            answers,
            heard,
        }
    }

    fn answers(&self, does: bool) {
        self.answers.store(does, Ordering::Relaxed);
    }

    fn service(&self, port: u16, check: &str) -> Service {
        Service::both(port, self.address).with(&format!(
            "[instance.service.health]\ncheck = \"{check}\"\ninterval = 1\ntimeout = 1\ndown = 2\n\
             on_unhealthy = \"refuse\""
        ))
    }
}

fn answer() -> Answer {
    Answer {
        name: "Our Server".into(),
        players: Some(2),
        max: Some(16),
        version: "1.0".into(),
        ..Answer::default()
    }
}

/// Minecraft's status over TCP; of any other game an echo.
fn serve(mut socket: TcpStream, game: Game) {
    let mut conversation = Conversation::new(answer(), "");
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = socket.read(&mut buffer) {
        let sent = if game == Game::Minecraft {
            if conversation.handle_input(&buffer[..length]).is_err() {
                return;
            }
            let reply = conversation.poll_transmit().unwrap_or_default();
            socket.write_all(&reply)
        } else {
            socket.write_all(&buffer[..length])
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits until a program has said so often that the service is this.
fn is_said(by: &Process, service: &str, state: &str, times: usize) {
    let said = format!("service {service} is {state}");
    by.wait_for_lines(&said, times, |line| line.contains(&said));
}

/// Whether a player at this address has an echo.
fn plays(player: &UdpSocket, text: &[u8]) {
    let mut buffer = [0; 64];
    player.send(text).unwrap();
    let length = player.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], text);
}

#[test]
fn every_game_is_asked_in_its_own_words() {
    let site = Site::start();
    let kinds = ["a2s", "minecraft", "bedrock", "satisfactory"];
    let games = kinds.map(|kind| StandIn::start(kind.parse().unwrap()));
    let silent = local_address();
    let _silent = UdpSocket::bind(silent).unwrap();
    let mut services: Vec<_> = kinds
        .iter()
        .zip(&games)
        .map(|(kind, game)| game.service(ports::one(), kind).named(kind))
        .collect();
    // One that speaks another protocol, one that says nothing, and none at all.
    let other = StandIn::start(Game::Bedrock);
    services.push(other.service(ports::one(), "satisfactory").named("other"));
    let nowhere = |name: &str, target, check: &str| {
        let lines = format!(
            "[instance.service.health]\ncheck = \"{check}\"\ninterval = 1\ntimeout = 1\ndown = 1"
        );
        Service::both(ports::one(), target).named(name).with(&lines)
    };
    services.push(nowhere("silent", silent, "a2s"));
    services.push(nowhere("nobody", local_address(), "minecraft"));
    let client = site.expose(&services);
    for kind in kinds {
        is_said(&client, kind, "healthy", 1);
        is_said(&site.relay, kind, "healthy", 1);
    }
    for (name, why) in [
        ("other", "this is no state; new players are refused"),
        ("silent", "has not answered within 1 s"),
        ("nobody", "nothing listens at 127."),
    ] {
        let said = format!("service {name} is unhealthy: ");
        let holds = |line: &str| line.contains(&said) && line.contains(why);
        client.wait_for_line(&said, holds);
        site.relay.wait_for_line(&said, holds);
    }
    let all =
        |line: &str| line.contains("is unhealthy") && kinds.iter().any(|it| line.contains(it));
    assert_eq!(site.relay.count_lines(all), 0);
}

#[test]
fn a_game_that_goes_silent_is_closed_to_newcomers_and_open_again_when_it_answers() {
    let site = Site::start();
    let game = StandIn::start(Game::A2s);
    let port = ports::one();
    let client = site.expose(&[game.service(port, "a2s")]);
    is_said(&site.relay, "main", "healthy", 1);
    let (early, mut early_tcp) = (udp_player(site.public(port)), connect(site.public(port)));
    plays(&early, b"early");
    carry_echo(&mut early_tcp);
    // Twice: it flaps, and has to answer for longer the second time.
    for round in 1..=2 {
        game.answers(false);
        is_said(&client, "main", "unhealthy", round);
        is_said(&site.relay, "main", "unhealthy", round);
        assert!(is_turned_away(site.public(port)));
        while game.heard.try_recv().is_ok() {}
        let newcomer = udp_player(site.public(port));
        newcomer.send(b"newcomer").unwrap();
        for _ in 0..5 {
            plays(&early, b"early");
        }
        carry_echo(&mut early_tcp);
        let heard: Vec<_> = game.heard.try_iter().collect();
        assert_eq!(heard, vec![b"early".to_vec(); 5]);
        game.answers(true);
        is_said(&site.relay, "main", "healthy", round + 1);
        eventually("a newcomer over TCP", || {
            (!is_turned_away(site.public(port))).then_some(())
        });
        plays(&udp_player(site.public(port)), b"newcomer");
    }
}

/// Whether a connection is reset before its echo.
fn is_turned_away(public: SocketAddr) -> bool {
    let Ok(mut player) = TcpStream::connect(public) else {
        return true;
    };
    drop(player.write_all(b"x"));
    player.read_exact(&mut [0]).is_err()
}

fn carry_echo(player: &mut TcpStream) {
    player.write_all(b"tcp").unwrap();
    let mut echo = [0; 3];
    player.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"tcp");
}

#[test]
fn check_says_what_is_asked_and_refuses_what_cannot_be() {
    let site = Site::start();
    let node = site.node("node-1");
    let game = local_address();
    let health = |check: &str| {
        let lines = format!("[instance.service.health]\ncheck = \"{check}\"");
        instance("a", &[Service::udp(ports::one(), game).with(&lines)])
    };
    let check = || {
        let mut check =
            crate::harness::process::command(crate::harness::site::program("relay-client"));
        check.arg("check").arg("--config").arg(node.config());
        crate::harness::process::run("check", &mut check)
    };
    node.configure(&health("bedrock"));
    let said = check().success();
    assert!(said.contains("health: bedrock every 30 s"), "{said}");
    node.configure(&health("minecraft"));
    let said = check();
    assert!(said.stderr.contains("does not go over udp"), "{said}");
}
