//! What a game server says to a status query: any datagrams, and any bytes of a connection.

use adit_game::{Answer, Game, Query, TEXT_MAX, Transport};

use crate::input::{Input, cut};

/// An answer is plain and bounded, a query ends, and a connection is read alike however it is cut.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let game = Game::ALL[input.below(Game::ALL.len())];
    match game.transport() {
        Transport::Udp => check_datagrams(game, &mut input),
        Transport::Tcp => {
            let cuts = input.bytes(8);
            let bytes = input.rest();
            let whole = read(game, bytes, &[]);
            assert_eq!(read(game, bytes, cuts), whole);
        }
    }
}

fn check_datagrams(game: Game, input: &mut Input<'_>) {
    let mut query = Query::new(game, "localhost", 7777, input.byte().into());
    let mut sent = 0;
    while !input.is_empty() {
        while let Some(datagram) = query.poll_transmit() {
            sent += 1;
            assert!((13..=33).contains(&datagram.len()));
        }
        match query.handle_input(input.bytes(300)) {
            Ok(None) => {}
            Ok(Some(answer)) => return check_answer(&answer),
            Err(error) => {
                assert!(error.to_string().len() <= 300);
                return;
            }
        }
    }
    assert!(sent <= 4, "{sent} queries");
}

fn read(game: Game, bytes: &[u8], cuts: &[u8]) -> Option<Answer> {
    let mut query = Query::new(game, "localhost", 25565, 0);
    for piece in cut(bytes, cuts) {
        match query.handle_input(piece) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                check_answer(&answer);
                return Some(answer);
            }
            Err(_) => return None,
        }
    }
    None
}

/// One plain line of each text.
pub(crate) fn check_answer(answer: &Answer) {
    for text in [&answer.name, &answer.version, &answer.map] {
        assert!(text.len() <= TEXT_MAX, "{} bytes", text.len());
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}
