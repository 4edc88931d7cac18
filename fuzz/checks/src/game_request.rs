//! What a player sends where a relay answers in the place of a game server.

use adit_game::{Answer, Game, Incoming, Query, Responder, Transport, minecraft::Conversation};

use crate::input::{Input, cut};

/// What is answered was asked for, is bounded by it, and is read as it was meant; what a connection is told does not hang on how it
/// is cut.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let game = Game::ALL[input.below(Game::ALL.len())];
    let answer = answer(&mut input);
    match game.transport() {
        Transport::Udp => check_datagrams(game, &answer, &mut input),
        Transport::Tcp => check_connection(game, &answer, &mut input),
    }
}

fn answer(input: &mut Input<'_>) -> Answer {
    let name = String::from_utf8_lossy(input.bytes(60)).into_owned();
    Answer {
        players: Some(7),
        max: Some(20),
        version: "1.0".into(),
        ..Answer::default().away(Game::Bedrock, &name)
    }
}

fn check_datagrams(game: Game, answer: &Answer, input: &mut Input<'_>) {
    let responder = Responder::new(game, &[5; 32]);
    let player = "192.0.2.1:50000".parse().unwrap();
    // Who asks as it should is answered after what any other has sent, too.
    let mut query = Query::new(game, "localhost", 7777, 1);
    while let Some(datagram) = query.poll_transmit() {
        let reply = responder.respond(player, 3, &datagram, answer).unwrap();
        if let Some(read) = query.handle_input(&reply).unwrap() {
            crate::game_answer::check_answer(&read);
        }
    }
    while !input.is_empty() {
        let datagram = input.bytes(200);
        let Some(reply) = responder.respond(player, 3, datagram, answer) else {
            continue;
        };
        assert_eq!(game.classify(datagram), Incoming::Status);
        assert!(reply.len() <= 5 * datagram.len(), "{datagram:?}");
    }
}

fn check_connection(game: Game, answer: &Answer, input: &mut Input<'_>) {
    let cuts = input.bytes(8);
    let bytes = input.rest();
    let (whole, is_over) = said(answer, bytes, &[]);
    // A byte of an old ping is answered as soon as it comes, whatever follows.
    if bytes.first() != Some(&0xfe) {
        assert_eq!(said(answer, bytes, cuts), (whole.clone(), is_over));
    }
    if !whole.is_empty() {
        let incoming = game.classify(bytes);
        assert!(matches!(incoming, Incoming::Status | Incoming::Login));
    }
}

/// What is said to these bytes, up to an error.
fn said(answer: &Answer, bytes: &[u8], cuts: &[u8]) -> (Vec<u8>, bool) {
    let mut conversation = Conversation::new(answer.clone(), "asleep");
    let mut out = Vec::new();
    for piece in cut(bytes, cuts) {
        let ended = conversation.handle_input(piece).is_err() || conversation.is_over();
        out.extend(conversation.poll_transmit().unwrap_or_default());
        if ended {
            break;
        }
    }
    assert!(out.len() <= 4096);
    (out, conversation.is_over())
}
