use super::STATE_MAX;
use crate::{
    Answer, Game, Incoming, Query, ReadError, Responder,
    testing::{Random, ask, mangled, unhex},
};

const POLL: &str = "d5f6 00 01 0700000000000000 01";

/// Playing, changelist 366202, four sub-states and a name of 19 bytes: 60 bytes.
const STATE: &str = "d5f6 01 01 0700000000000000 03 7a960500 0000000000000000 04 00 0100 01 0200 02 0300 03 0400 \
    1300 536174697366616374 6f7279205365727665 72 01";

fn query() -> Query {
    Query::new(Game::Satisfactory, "localhost", 7777, 7)
}

#[test]
fn a_poll_is_13_bytes_and_the_state_is_read() {
    let mut query = query();
    let poll = query.poll_transmit().unwrap();
    assert_eq!(poll, unhex(POLL));
    assert_eq!(poll.len(), 13);
    assert_eq!(query.poll_transmit(), None);
    query.handle_silence();
    assert_eq!(query.poll_transmit(), Some(poll));
    assert_eq!(unhex(STATE).len(), 60);
    assert_eq!(
        query.handle_input(&unhex(STATE)),
        Ok(Some(Answer {
            name: "Satisfactory Server".into(),
            version: "366202".into(),
            ..Answer::default()
        }))
    );
}

#[test]
fn states_of_other_polls_are_passed_over_and_bad_ones_are_errors() {
    let other = STATE.replacen("07", "08", 1);
    assert_eq!(query().handle_input(&unhex(&other)), Ok(None));
    for bad in [
        POLL,
        // Of a server before 1.0.
        &STATE.replacen("01 01", "01 00", 1),
        "ffffffff",
    ] {
        assert_eq!(
            query().handle_input(&unhex(bad)),
            Err(ReadError::Unexpected("state")),
            "{bad}"
        );
    }
    let whole = unhex(STATE);
    for end in 0..whole.len() {
        assert_eq!(
            query().handle_input(&whole[..end]),
            Err(ReadError::Truncated("state"))
        );
    }
    let mut unfinished = whole.clone();
    unfinished[59] = 0;
    assert_eq!(
        query().handle_input(&unfinished),
        Err(ReadError::Unexpected("state"))
    );
    mangled(&whole, |datagram| drop(query().handle_input(datagram)));
}

#[test]
fn polls_are_told_apart() {
    for (hex, incoming) in [
        (POLL, Incoming::Status),
        ("d5f6 00 01 0700000000000000", Incoming::Other),
        (&format!("{POLL} 00"), Incoming::Other),
        (STATE, Incoming::Other),
        ("00", Incoming::Other),
        ("", Incoming::Other),
    ] {
        assert_eq!(Game::Satisfactory.classify(&unhex(hex)), incoming, "{hex}");
    }
}

#[test]
fn what_a_responder_says_is_read_as_it_was_meant() {
    let responder = Responder::new(Game::Satisfactory, &[7; 32]);
    let player = "192.0.2.1:50000".parse().unwrap();
    let mut random = Random::new(3);
    for _ in 0..500 {
        let answer = Answer {
            name: random.text(7),
            version: (random.next() as u32).to_string(),
            ..Answer::default()
        };
        let read = ask(query(), |datagram| {
            responder.respond(player, 1, datagram, &answer)
        });
        assert_eq!(read, Ok(Some(answer)));
    }
}

#[test]
fn a_state_is_at_most_60_bytes_and_says_that_the_server_loads() {
    let responder = Responder::new(Game::Satisfactory, &[7; 32]);
    let player = "192.0.2.1:50000".parse().unwrap();
    let long = Answer {
        name: "語".repeat(80),
        version: "no number".into(),
        ..Answer::default()
    };
    let sent = responder.respond(player, 1, &unhex(POLL), &long).unwrap();
    assert!(sent.len() <= STATE_MAX && STATE_MAX == 60, "{}", sent.len());
    assert_eq!(sent[12], 2);
    let read = query().handle_input(&sent).unwrap().unwrap();
    assert_eq!(read.name, "語".repeat(10));
}
