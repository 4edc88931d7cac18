use super::PONG_MAX;
use crate::{
    Answer, Game, Incoming, Query, ReadError, Responder,
    answer::TEXT_MAX,
    testing::{Random, ask, mangled, unhex},
};

const PING: &str = "01 0000000000000007 00ffff00fefefefefdfdfdfd12345678 0000000000000007";
const MAGIC: &str = "00ffff00fefefefefdfdfdfd12345678";

fn query() -> Query {
    Query::new(Game::Bedrock, "localhost", 19132, 7)
}

fn pong(text: &str) -> Vec<u8> {
    let head = unhex(&format!("1c 0000000000000007 0000000000000001 {MAGIC}"));
    [
        &head[..],
        &(text.len() as u16).to_be_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

#[test]
fn a_ping_is_33_bytes_and_its_pong_is_read() {
    let mut query = query();
    let ping = query.poll_transmit().unwrap();
    assert_eq!(ping, unhex(PING));
    assert_eq!(ping.len(), 33);
    assert_eq!(query.poll_transmit(), None);
    query.handle_silence();
    assert_eq!(query.poll_transmit(), Some(ping));
    let answer = query.handle_input(&pong(
        "MCPE;§aMy §lServer;776;1.21.60;3;10;42;world;Survival;1;19132;19133;",
    ));
    assert_eq!(
        answer,
        Ok(Some(Answer {
            name: "My Server".into(),
            players: Some(3),
            max: Some(10),
            version: "1.21.60".into(),
            map: "world".into(),
            protocol: Some(776),
        }))
    );
}

#[test]
fn pongs_of_others_are_passed_over_and_bad_ones_are_errors() {
    let mut other = pong("MCPE;a;1;1;0;1;1;b;c;");
    other[8] = 9;
    assert_eq!(query().handle_input(&other), Ok(None));
    assert_eq!(
        query().handle_input(&pong("GAME;a")),
        Err(ReadError::Unexpected("pong of Minecraft"))
    );
    assert_eq!(
        query().handle_input(&unhex("1c 00")),
        Err(ReadError::Truncated("pong"))
    );
    assert_eq!(
        query().handle_input(&unhex(PING)),
        Err(ReadError::Unexpected("pong"))
    );
    let mut long = pong("MCPE;a");
    long[33] = 0xff;
    assert_eq!(
        query().handle_input(&long),
        Err(ReadError::Truncated("pong"))
    );
    let short = query()
        .handle_input(&pong("MCPE;only a name"))
        .unwrap()
        .unwrap();
    assert_eq!((short.name.as_str(), short.players), ("only a name", None));
    mangled(&pong("MCPE;a;1;1;0;1;1;b;c;"), |datagram| {
        if let Ok(Some(answer)) = query().handle_input(datagram) {
            assert!(answer.name.len() <= TEXT_MAX);
        }
    });
}

#[test]
fn pings_and_log_ins_are_told_apart() {
    for (hex, incoming) in [
        (PING, Incoming::Status),
        (&PING.replacen("01", "02", 1), Incoming::Status),
        (
            &format!("05 {MAGIC} 0b {}", "00".repeat(1400)),
            Incoming::Login,
        ),
        (&format!("07 {MAGIC} 00"), Incoming::Login),
        ("05", Incoming::Other),
        ("01 0000000000000007", Incoming::Other),
        ("84 000000", Incoming::Other),
        ("", Incoming::Other),
    ] {
        assert_eq!(Game::Bedrock.classify(&unhex(hex)), incoming, "{hex}");
    }
}

#[test]
fn what_a_responder_says_is_read_as_it_was_meant() {
    let responder = Responder::new(Game::Bedrock, &[7; 32]);
    let player = "192.0.2.1:50000".parse().unwrap();
    let mut random = Random::new(3);
    for _ in 0..500 {
        let answer = Answer {
            name: random.text(8),
            players: Some(random.below(100) as u32),
            max: Some(random.below(100) as u32),
            version: "1.21.60".into(),
            map: random.text(4),
            protocol: Some(random.below(2000) as i32),
        };
        let read = ask(query(), |datagram| {
            responder.respond(player, 1, datagram, &answer)
        });
        assert_eq!(read, Ok(Some(answer)));
    }
}

#[test]
fn a_pong_is_at_most_five_times_its_ping() {
    let responder = Responder::new(Game::Bedrock, &[7; 32]);
    let player = "192.0.2.1:50000".parse().unwrap();
    let long = Answer {
        name: "ä;".repeat(100),
        players: Some(u32::MAX),
        max: Some(u32::MAX),
        version: "v".repeat(256),
        map: "m".repeat(256),
        protocol: Some(i32::MIN),
    };
    let sent = responder.respond(player, 1, &unhex(PING), &long).unwrap();
    assert!(
        sent.len() <= PONG_MAX && PONG_MAX == 5 * 33,
        "{}",
        sent.len()
    );
    let read = query().handle_input(&sent).unwrap().unwrap();
    assert!(read.name.starts_with("ä,ä,"), "{}", read.name);
    assert_eq!(read.players, Some(u32::MAX));
    for end in 0..33 {
        assert_eq!(
            responder.respond(player, 1, &unhex(PING)[..end], &long),
            None
        );
    }
}
