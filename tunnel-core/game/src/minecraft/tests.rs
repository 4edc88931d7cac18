use super::Conversation;
use crate::{
    Answer, Game, Incoming, Query, ReadError,
    answer::TEXT_MAX,
    testing::{Random, unhex},
};

/// Protocol 47, `localhost`, port 25565.
const HANDSHAKE: &str = "0f 00 2f 09 6c6f63616c686f7374 63dd";

fn answer() -> Answer {
    Answer {
        name: "asleep: join to start".into(),
        players: Some(0),
        max: Some(20),
        version: "1.21.4".into(),
        map: String::new(),
        protocol: Some(769),
    }
}

/// What a relay says to these bytes, given in pieces of `size`, and whether it is over.
fn said(input: &[u8], size: usize) -> Result<(Vec<u8>, bool, Option<String>), ReadError> {
    let mut conversation = Conversation::new(answer(), "The server sleeps.");
    let mut out = Vec::new();
    for piece in input.chunks(size) {
        conversation.handle_input(piece)?;
        out.extend(conversation.poll_transmit().unwrap_or_default());
    }
    Ok((
        out,
        conversation.is_over(),
        conversation.login().map(str::to_owned),
    ))
}

/// A status as a server sends it.
fn status(json: &str) -> Vec<u8> {
    let mut body = Vec::new();
    super::frame::put_string(&mut body, json);
    super::frame::packet(0, &body)
}

fn read(json: &str) -> Result<Answer, ReadError> {
    let mut query = query();
    query.poll_transmit();
    query.handle_input(&status(json)).map(Option::unwrap)
}

fn query() -> Query {
    Query::new(Game::Minecraft, "localhost", 25565, 0)
}

#[test]
fn a_query_is_a_handshake_and_a_question() {
    let mut query = query();
    assert_eq!(
        query.poll_transmit().unwrap(),
        unhex("13 00 ffffffff0f 09 6c6f63616c686f7374 63dd 01 01 00")
    );
    assert_eq!(query.poll_transmit(), None);
}

#[test]
fn a_status_is_read_however_it_is_cut() {
    let json = r#"{"version":{"name":"Paper 1.21.4","protocol":769},"players":{"max":20,"online":2,"sample":[{"name":"a","id":"b"}]},
        "description":{"text":"§aA ","extra":[{"text":"quiet","bold":true}," server\n",{"extra":["in"],"text":""}]},"favicon":"data:image/png;base64,AAAA","enforcesSecureChat":true}"#;
    let bytes = status(json);
    for size in 1..bytes.len() + 1 {
        let mut query = query();
        let mut answers = bytes
            .chunks(size)
            .map(|piece| query.handle_input(piece).unwrap());
        assert_eq!(
            answers.find_map(|answer| answer),
            Some(Answer {
                name: "A quiet server in".into(),
                players: Some(2),
                max: Some(20),
                version: "Paper 1.21.4".into(),
                map: String::new(),
                protocol: Some(769),
            }),
            "{size}"
        );
    }
}

#[test]
fn statuses_of_all_kinds_of_servers_are_read() {
    assert_eq!(
        read(r#"{"description":"§4Old\nstyle"}"#).unwrap().name,
        "Old style"
    );
    assert_eq!(
        read(r#"{"description":["a",{"text":"b"}]}"#).unwrap().name,
        "ab"
    );
    assert_eq!(
        read(r#"{"description":{"translate":"multiplayer.x"}}"#)
            .unwrap()
            .name,
        "multiplayer.x"
    );
    assert_eq!(
        read(r#"{"players":{"max":-1,"online":-1}}"#)
            .unwrap()
            .players,
        Some(0)
    );
    assert_eq!(
        read(r#"{"players":{"max":99999999999,"online":1}}"#)
            .unwrap()
            .max,
        None
    );
    assert_eq!(read("{}").unwrap(), Answer::default());
    let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(30_000));
    assert_eq!(read(&long).unwrap().name, "x".repeat(TEXT_MAX));
}

#[test]
fn bad_statuses_are_errors() {
    for json in [
        "",
        "[]",
        "null",
        r#"{"players":7}"#,
        r#"{"version":{"protocol":"a"}}"#,
        "{\"description\":",
    ] {
        assert!(matches!(read(json), Err(ReadError::Json(_))), "{json}");
    }
    let deep = format!(
        r#"{{"description":{}{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert!(
        matches!(read(&deep), Err(ReadError::Json(_))),
        "no recursion without end"
    );
    let quoted = read(&format!("{{\"{}", "y".repeat(20_000))).unwrap_err();
    assert!(quoted.to_string().len() < 200, "{quoted}");
    assert!(matches!(
        query().handle_input(&unhex("ffffff7f 00")),
        Err(ReadError::TooLong { .. })
    ));
    assert_eq!(
        query().handle_input(&unhex("01 05")),
        Err(ReadError::Unexpected("status"))
    );
    assert_eq!(
        query().handle_input(&unhex("ffffffffff01")),
        Err(ReadError::Unexpected("status"))
    );
    assert!(matches!(
        query().handle_input(&unhex("03 00 8080")),
        Err(ReadError::Truncated(_))
    ));
    let mut patient = query();
    for _ in 0..1000 {
        // 98,305 bytes are promised, and nothing is kept that comes after them.
        if patient.handle_input(&unhex("818006").repeat(500)).is_err() {
            return;
        }
    }
    panic!("an endless status is not given up");
}

#[test]
fn what_is_said_to_a_query_is_read_as_it_was_meant() {
    let mut random = Random::new(11);
    for _ in 0..300 {
        let answer = Answer {
            name: random.text(60),
            players: (random.below(2) == 0).then(|| random.below(1000) as u32),
            max: (random.below(2) == 0).then(|| random.below(1000) as u32),
            version: random.text(20),
            map: String::new(),
            protocol: Some(random.next() as i32),
        };
        let mut query = query();
        let mut conversation = Conversation::new(answer.clone(), "");
        conversation
            .handle_input(&query.poll_transmit().unwrap())
            .unwrap();
        let said = conversation.poll_transmit().unwrap();
        assert_eq!(query.handle_input(&said), Ok(Some(answer)));
        assert!(!conversation.is_over(), "it may ping");
    }
}

#[test]
fn a_query_is_answered_and_its_ping_ends_it_however_it_is_cut() {
    let asked = unhex(&format!("{HANDSHAKE} 01 01 00 09 01 0102030405060708"));
    let (whole, over, login) = said(&asked, asked.len()).unwrap();
    assert!(over && login.is_none());
    assert!(whole.ends_with(&unhex("09 01 0102030405060708")));
    for size in 1..asked.len() {
        assert_eq!(said(&asked, size).unwrap().0, whole, "{size}");
    }
    let json = String::from_utf8_lossy(&whole);
    assert!(json.contains(r#""protocol":769"#), "{json}");
    let twice = unhex(&format!("{HANDSHAKE} 01 01 00 01 00"));
    assert_eq!(said(&twice, 99), Err(ReadError::Unexpected("status query")));
}

#[test]
fn a_client_of_any_version_may_ask_where_none_is_known() {
    let mut conversation = Conversation::new(Answer::default(), "");
    conversation
        .handle_input(&unhex(&format!("{HANDSHAKE} 01 01 00")))
        .unwrap();
    let said = conversation.poll_transmit().unwrap();
    assert!(String::from_utf8_lossy(&said).contains(r#""protocol":47"#));
}

#[test]
fn a_log_in_is_refused_with_the_text() {
    let disconnect = {
        let mut body = Vec::new();
        super::frame::put_string(&mut body, r#"{"text":"The server sleeps."}"#);
        super::frame::packet(0, &body)
    };
    // 1.8 sends the name alone, 1.20.2 an id behind it; 3 says that another server has sent the player here.
    for (next, start) in [
        ("02", "06 00 04 53746576"),
        ("02", "16 00 04 53746576 00112233445566778899aabbccddeeff"),
        ("03", "06 00 04 53746576"),
    ] {
        let asked = unhex(&format!("{HANDSHAKE} {next} {start}"));
        for size in 1..=asked.len() {
            assert_eq!(
                said(&asked, size),
                Ok((disconnect.clone(), true, Some("Stev".into())))
            );
        }
    }
    let long = unhex(&format!("{HANDSHAKE} 02 40 00 3f {}", "61".repeat(62)));
    assert!(matches!(said(&long, 99), Err(ReadError::TooLong { .. })));
}

#[test]
fn pings_before_1_7_are_answered() {
    let utf16 = |text: &str| {
        let units: Vec<u16> = text.encode_utf16().collect();
        let mut out = vec![0xff];
        out.extend((units.len() as u16).to_be_bytes());
        out.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
        out
    };
    let beta = utf16("asleep: join to start§0§20");
    let late = utf16("§1\x00769\x001.21.4\0asleep: join to start\x000\x0020");
    assert_eq!(said(&unhex("fe"), 1), Ok((beta, true, None)));
    assert_eq!(said(&unhex("fe 01"), 2), Ok((late.clone(), true, None)));
    let plugin = "fe 01 fa 000b 004d0043007c00500069006e00670048006f00730074 0007 4a 0000 000063dd";
    assert_eq!(said(&unhex(plugin), 99), Ok((late, true, None)));
}

#[test]
fn queries_and_log_ins_are_told_apart() {
    for (hex, incoming) in [
        (&*format!("{HANDSHAKE} 01"), Incoming::Status),
        (&format!("{HANDSHAKE} 02"), Incoming::Login),
        (&format!("{HANDSHAKE} 03"), Incoming::Login),
        (&format!("{HANDSHAKE} 01 01 00"), Incoming::Status),
        (HANDSHAKE, Incoming::Incomplete),
        ("0f", Incoming::Incomplete),
        ("", Incoming::Incomplete),
        (&format!("{HANDSHAKE} 04"), Incoming::Other),
        ("fe", Incoming::Status),
        ("fe 01", Incoming::Status),
        ("fe 01 fa 000b", Incoming::Status),
        ("fe 01 00 2f", Incoming::Incomplete),
        // A browser, TLS, SSH, nothing, a length without end.
        ("474554202f", Incoming::Other),
        ("1603010200", Incoming::Other),
        ("5353482d32", Incoming::Other),
        ("00", Incoming::Other),
        ("ffffffffff", Incoming::Other),
        ("ffffff7f00", Incoming::Other),
    ] {
        assert_eq!(Game::Minecraft.classify(&unhex(hex)), incoming, "{hex}");
    }
}

#[test]
fn hostile_players_are_refused_within_the_bounds() {
    for (hex, size) in [
        ("474554202f20485454502f312e31", 1),
        ("ffffffffffffff", 3),
        ("0f 01", 2),
    ] {
        assert!(said(&unhex(hex), size).is_err(), "{hex}");
    }
    let flood = [
        unhex(&format!("{HANDSHAKE} 02 ff0f 00 04 53746576")),
        vec![0; 100_000],
    ]
    .concat();
    let (out, over, _) = said(&flood, flood.len()).unwrap();
    assert!(over && out.len() < 200);
    let mut random = Random::new(13);
    let good = unhex(&format!("{HANDSHAKE} 01 01 00 09 01 0102030405060708"));
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        let mut conversation = Conversation::new(answer(), "x");
        for piece in bytes.chunks(1 + random.below(30)) {
            if conversation.handle_input(piece).is_err() {
                break;
            }
        }
        assert!(conversation.poll_transmit().unwrap_or_default().len() < 1000);
    }
}
