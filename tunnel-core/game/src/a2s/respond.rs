//! Answers in the place of a server.

use std::net::SocketAddr;

use crate::a2s::{
    challenge::Challenges,
    wire::{
        CHALLENGE, CHALLENGE_LENGTH, INFO, INFO_TEXT, PLAYER, PLAYER_ANSWER, RULES, RULES_ANSWER,
        SINGLE,
    },
};

/// What to send to a player for this datagram, if anything: a challenge (9 bytes, never more than what it sent), or to who
/// repeats it, INFO as `info` yields it, and no players and no rules.
pub fn respond(
    challenges: &Challenges,
    player: SocketAddr,
    slot: u64,
    datagram: &[u8],
    info: impl FnOnce() -> Vec<u8>,
) -> Option<Vec<u8>> {
    let [kind, body @ ..] = datagram.strip_prefix(&SINGLE)? else {
        return None;
    };
    let repeated = match *kind {
        INFO => body.strip_prefix(INFO_TEXT)?,
        // Without the place of a challenge they are shorter than the challenge would be.
        PLAYER | RULES if body.len() == CHALLENGE_LENGTH => body,
        _ => return None,
    };
    let repeated = repeated.first_chunk().copied();
    if !repeated.is_some_and(|repeated| challenges.holds(player, slot, repeated)) {
        let challenge = challenges.issue(player, slot);
        return Some(single(CHALLENGE, &challenge));
    }
    Some(match *kind {
        INFO => info(),
        PLAYER => single(PLAYER_ANSWER, &[0]),
        _ => single(RULES_ANSWER, &[0, 0]),
    })
}

fn single(kind: u8, body: &[u8]) -> Vec<u8> {
    [&SINGLE[..], &[kind], body].concat()
}
