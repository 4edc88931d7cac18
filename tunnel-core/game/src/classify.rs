//! Tells what comes from players apart.

use crate::{a2s, bedrock, incoming::Incoming, kind::Game, minecraft, satisfactory};

impl Game {
    /// What this is: a whole datagram, or all that has come of a connection so far.
    pub fn classify(self, input: &[u8]) -> Incoming {
        match self {
            Self::A2s => a2s::classify(input),
            Self::Minecraft => minecraft::classify(input),
            Self::Bedrock => bedrock::classify(input),
            Self::Satisfactory => satisfactory::classify(input),
        }
    }
}
