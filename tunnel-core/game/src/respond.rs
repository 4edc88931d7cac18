//! Answers status queries over UDP in the place of a server.

use std::net::SocketAddr;

use crate::{
    a2s::{self, Challenges, Info},
    answer::Answer,
    bedrock,
    kind::Game,
    satisfactory,
};

/// Answers status queries over UDP in the place of a server, without any state of those who ask.
///
/// An address over UDP proves nothing, so what is sent to it is bounded by what it has sent: A2S is answered only to who repeats
/// a challenge that only its address can have seen, and the challenge is shorter than the query; a pong of Bedrock is at
/// most [five times](bedrock::PONG_MAX) its ping, and a state of Satisfactory at most [4.6 times](satisfactory::STATE_MAX) its poll.
#[derive(Debug)]
pub struct Responder {
    game: Game,
    challenges: Challenges,
    guid: u64,
}

impl Responder {
    /// Answers queries of this protocol. `secret` is 32 random bytes, kept as long as challenges should hold.
    pub fn new(game: Game, secret: &[u8; 32]) -> Self {
        let challenges = Challenges::new(secret);
        let guid = challenges.guid();
        Self {
            game,
            challenges,
            guid,
        }
    }

    /// What to send to a player for this datagram, if anything. `slot` is the number of the present slot of time: a challenge
    /// holds to the end of the next one, so with slots of 30 s for 30 to 60 s.
    pub fn respond(
        &self,
        player: SocketAddr,
        slot: u64,
        datagram: &[u8],
        answer: &Answer,
    ) -> Option<Vec<u8>> {
        match self.game {
            Game::A2s => {
                let info = || Info::from(answer).encode();
                a2s::respond(&self.challenges, player, slot, datagram, info)
            }
            Game::Bedrock => bedrock::pong(datagram, self.guid, answer),
            Game::Satisfactory => satisfactory::state(datagram, answer),
            // It is asked over TCP.
            Game::Minecraft => None,
        }
    }
}
