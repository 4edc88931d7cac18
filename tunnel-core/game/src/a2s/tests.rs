use std::net::SocketAddr;

use super::*;
use crate::{
    Answer, Game, Query, ReadError, Responder,
    answer::TEXT_MAX,
    testing::{Random, ask, mangled, unhex},
};

const INFO_QUERY: &str = "ffffffff 54 536f7572636520456e67696e6520517565727900";

/// As a Valheim server answers: every field behind the flags but the spectators'.
const VALHEIM: &str = "ffffffff 49 11 4d7900 776f726c6400 76616c6865696d00 00 0000 03 0a 00 64 6c 01 00 \
    312e302e302e3000 b1 9909 0100000000400190 673d302e32323000 aa9f0d0000000000";

fn player() -> SocketAddr {
    "192.0.2.1:50000".parse().unwrap()
}

fn query() -> Query {
    Query::new(Game::A2s, "localhost", 27015, 1)
}

fn full() -> Info {
    Info {
        protocol: 17,
        name: "n".repeat(TEXT_MAX),
        map: "m".repeat(TEXT_MAX),
        folder: "f".repeat(TEXT_MAX),
        game: "g".repeat(TEXT_MAX),
        app_id: 2400,
        players: 255,
        max: 255,
        bots: 1,
        kind: b'p',
        os: b'w',
        has_password: true,
        is_secured: true,
        the_ship: Some([1, 2, 3]),
        version: "v".repeat(TEXT_MAX),
        port: Some(27015),
        steam_id: Some(u64::MAX),
        spectators: Some((27020, "s".repeat(64))),
        keywords: Some("k".repeat(10)),
        game_id: Some(1 << 40),
    }
}

#[test]
fn a_query_is_asked_again_with_the_challenge() {
    let mut query = query();
    let asked = query.poll_transmit().unwrap();
    assert_eq!(asked, unhex(INFO_QUERY));
    assert_eq!(asked.len(), 25);
    assert_eq!(query.poll_transmit(), None);
    assert_eq!(query.handle_input(&unhex("ffffffff 41 04030201")), Ok(None));
    let again = query.poll_transmit().unwrap();
    assert_eq!(again, unhex(&format!("{INFO_QUERY} 04030201")));
    query.handle_silence();
    assert_eq!(
        query.poll_transmit().unwrap(),
        again,
        "asked again as it was"
    );
    let answer = query.handle_input(&unhex(VALHEIM)).unwrap().unwrap();
    assert_eq!(
        answer,
        Answer {
            name: "My".into(),
            players: Some(3),
            max: Some(10),
            version: "1.0.0.0".into(),
            map: "world".into(),
            protocol: Some(17),
        }
    );
}

#[test]
fn info_comes_back_as_it_was() {
    let valheim = Info::decode(&unhex(VALHEIM)).unwrap();
    assert_eq!(valheim.port, Some(0x0999));
    assert_eq!(valheim.steam_id, Some(0x9001_4000_0000_0001));
    assert_eq!(valheim.keywords.as_deref(), Some("g=0.220"));
    assert_eq!(valheim.game_id, Some(892_842));
    assert_eq!(valheim.encode(), unhex(VALHEIM));
    let longest = full().encode();
    assert_eq!(longest.len(), INFO_MAX);
    assert_eq!(Info::decode(&longest), Ok(full()));
}

#[test]
fn what_is_too_long_for_a_packet_is_cut() {
    let long = "ä".repeat(1000);
    let info = Info {
        name: long.clone(),
        map: long.clone(),
        folder: long.clone(),
        game: long.clone(),
        version: long.clone(),
        spectators: Some((1, long.clone())),
        keywords: Some(long),
        ..full()
    };
    let datagram = info.encode();
    assert!(datagram.len() <= INFO_MAX, "{}", datagram.len());
    let read = Info::decode(&datagram).unwrap();
    assert_eq!(read.name, "ä".repeat(TEXT_MAX / 2));
    assert_eq!(read.game_id, info.game_id);
    let split = Info {
        name: "a\0b".into(),
        ..Info::default()
    };
    assert_eq!(Info::decode(&split.encode()).unwrap().name, "a");
}

#[test]
fn rust_tells_its_counts_among_the_keywords() {
    let info = Info {
        folder: "rust".into(),
        players: 255,
        max: 255,
        keywords: Some("mp400,cp312,ptrak,qp0,v2500".into()),
        ..Info::default()
    };
    let answer = Answer::from(&Info::decode(&info.encode()).unwrap());
    assert_eq!((answer.players, answer.max), (Some(312), Some(400)));
    let other = Info {
        folder: "other".into(),
        ..info
    };
    assert_eq!(Answer::from(&other).players, Some(255));
}

#[test]
fn goldsrc_answers_are_read() {
    // Address, name, map, folder, game; players, max, protocol; dedicated, Linux, no password, no mod, secured, bots.
    let datagram = unhex(
        "ffffffff 6d 3132372e302e302e313a323730313500 4f6c6400 6372617368 00 63737472696b6500 4353 00 05 10 2f 64 6c 00 00 01 00",
    );
    let answer = query().handle_input(&datagram).unwrap().unwrap();
    assert_eq!(answer.name, "Old");
    assert_eq!(answer.map, "crash");
    assert_eq!((answer.players, answer.max), (Some(5), Some(16)));
    assert_eq!(answer.protocol, Some(0x2f));
}

/// Cuts an answer into pieces with the head of one of the three forms.
fn pieces(answer: &[u8], size: usize, head: impl Fn(u8, u8) -> Vec<u8>) -> Vec<Vec<u8>> {
    let total = answer.len().div_ceil(size) as u8;
    let cut = answer.chunks(size).zip(0..);
    cut.map(|(piece, number)| {
        [&unhex("feffffff 07000000")[..], &head(total, number), piece].concat()
    })
    .collect()
}

#[test]
fn answers_in_pieces_are_put_together_in_any_order() {
    let answer = full().encode();
    type Head = fn(u8, u8) -> Vec<u8>;
    let heads: [Head; 3] = [
        |total, number| vec![total, number, 0xe0, 0x04],
        |total, number| vec![total, number],
        |total, number| vec![number << 4 | total],
    ];
    let mut random = Random::new(5);
    for head in heads {
        for _ in 0..20 {
            let mut left = pieces(&answer, 150, head);
            let mut query = query();
            while left.len() > 1 {
                let piece = left.swap_remove(random.below(left.len()));
                assert_eq!(query.handle_input(&piece), Ok(None));
                assert_eq!(query.handle_input(&piece), Ok(None), "twice is once");
            }
            let read = query.handle_input(&left[0]).unwrap().unwrap();
            assert_eq!(read, Answer::from(&full()));
        }
    }
}

#[test]
fn pieces_are_bounded_and_compressed_ones_refused() {
    let mut asking = query();
    let piece = |number: u8, length| {
        [unhex("feffffff 07000000 ff"), vec![number], vec![0; length]].concat()
    };
    let failed = (1..=255).map(|number| asking.handle_input(&piece(number, 10)));
    assert_eq!(failed.filter(Result::is_ok).count(), 64);
    let mut asking = query();
    assert_eq!(asking.handle_input(&piece(1, 60_000)), Ok(None));
    assert!(matches!(
        asking.handle_input(&piece(2, 60_000)),
        Err(ReadError::TooLong { .. })
    ));
    let compressed = unhex("feffffff 07000080 02 00 e004");
    assert_eq!(asking.handle_input(&compressed), Err(ReadError::Compressed));
}

#[test]
fn a_server_that_only_challenges_is_given_up() {
    let mut query = query();
    for _ in 0..3 {
        query.poll_transmit().unwrap();
        assert_eq!(query.handle_input(&unhex("ffffffff 41 04030201")), Ok(None));
    }
    assert_eq!(
        query.handle_input(&unhex("ffffffff 41 04030201")),
        Err(ReadError::Challenges(4))
    );
}

#[test]
fn hostile_answers_are_errors_and_nothing_else() {
    let mut good = 0;
    mangled(&unhex(VALHEIM), |datagram| {
        if let Ok(Some(answer)) = query().handle_input(datagram) {
            assert!(answer.name.len() <= TEXT_MAX);
            good += 1;
        }
    });
    assert!(good > 0);
    assert_eq!(
        query().handle_input(b"HTTP/1.1 400 Bad Request"),
        Err(ReadError::Unexpected("A2S answer"))
    );
    assert_eq!(
        query().handle_input(&unhex("ffffffff 49 11 61")),
        Err(ReadError::Truncated("A2S answer"))
    );
    assert_eq!(
        query().handle_input(&unhex("ffffffff 44 00")),
        Ok(None),
        "the answer to another question"
    );
    let mut random = Random::new(7);
    for _ in 0..20_000 {
        let head = ["ffffffff49", "feffffff", "ffffffff6d", "ffffffff41"][random.below(4)];
        drop(query().handle_input(&[unhex(head), random.bytes(80)].concat()));
    }
}

#[test]
fn queries_and_log_ins_are_told_apart() {
    for (hex, incoming) in [
        (INFO_QUERY, Incoming::Status),
        (&format!("{INFO_QUERY} 01020304"), Incoming::Status),
        ("ffffffff 55 ffffffff", Incoming::Status),
        ("ffffffff 56 01020304", Incoming::Status),
        ("ffffffff 56", Incoming::Status),
        ("ffffffff 55 ffffffff 00", Incoming::Other),
        ("ffffffff 57", Incoming::Status),
        ("ffffffff 69", Incoming::Status),
        ("ffffffff 71 00000000", Incoming::Login),
        ("ffffffff 6b 00000000", Incoming::Login),
        ("ffffffff 54 00", Incoming::Other),
        ("ffffffff", Incoming::Other),
        ("fffffffe 54", Incoming::Other),
        ("", Incoming::Other),
    ] {
        assert_eq!(Game::A2s.classify(&unhex(hex)), incoming, "{hex}");
    }
}

#[test]
fn what_a_responder_says_is_read_as_it_was_meant() {
    let responder = Responder::new(Game::A2s, &[7; 32]);
    let mut random = Random::new(3);
    for _ in 0..500 {
        let answer = Answer {
            name: random.text(60),
            players: Some(random.below(256) as u32),
            max: Some(random.below(256) as u32),
            version: random.text(20),
            map: random.text(20),
            protocol: Some(17),
        };
        let mut asked = 0;
        let read = ask(query(), |datagram| {
            asked += 1;
            responder.respond(player(), 9, datagram, &answer)
        });
        assert_eq!(read, Ok(Some(answer)));
        assert_eq!(asked, 2, "a challenge, then the answer");
    }
}

#[test]
fn a_challenge_holds_for_its_address_and_two_slots_only() {
    let challenges = Challenges::new(&[1; 32]);
    let challenge = challenges.issue(player(), 10);
    assert!(challenges.holds(player(), 10, challenge));
    assert!(challenges.holds(player(), 11, challenge));
    assert!(!challenges.holds(player(), 12, challenge));
    assert!(!challenges.holds(player(), 9, challenge));
    for other in ["192.0.2.2:50000", "192.0.2.1:50001", "[2001:db8::1]:50000"] {
        assert!(!challenges.holds(other.parse().unwrap(), 10, challenge));
    }
    assert!(!Challenges::new(&[2; 32]).holds(player(), 10, challenge));
    assert!(!challenges.holds(player(), 0, [0xff; 4]));
}

#[test]
fn who_has_proved_nothing_gets_no_more_than_it_sent() {
    let challenges = Challenges::new(&[1; 32]);
    let respond = |hex: &str| respond(&challenges, player(), 1, &unhex(hex), || full().encode());
    let told = challenges.issue(player(), 1);
    let challenge = [&unhex("ffffffff 41")[..], &told].concat();
    for hex in [
        INFO_QUERY,
        &format!("{INFO_QUERY} 01020304"),
        &format!("{INFO_QUERY} ffffffff"),
        "ffffffff 55 ffffffff",
        "ffffffff 56 00000000",
    ] {
        assert_eq!(respond(hex), Some(challenge.clone()), "{hex}");
        assert!(challenge.len() <= unhex(hex).len());
    }
    for hex in [
        "",
        "ffffffff",
        "ffffffff 55",
        "ffffffff 55 ffffffff 00",
        "ffffffff 57",
        "ffffffff 69",
        "ffffffff 54 00",
        "ffffffff 41 00000000",
    ] {
        assert_eq!(respond(hex), None, "{hex}");
    }
    let hex: String = told.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        respond(&format!("{INFO_QUERY} {hex}")),
        Some(full().encode())
    );
    assert_eq!(
        respond(&format!("ffffffff 55 {hex}")),
        Some(unhex("ffffffff 44 00"))
    );
    assert_eq!(
        respond(&format!("ffffffff 56 {hex}")),
        Some(unhex("ffffffff 45 0000"))
    );
}
