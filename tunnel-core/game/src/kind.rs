//! Which protocol a server is asked by.

use std::{fmt, str::FromStr};

/// A protocol by which a game server tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Game {
    /// Valve's server queries, over UDP: Source, GoldSrc and hundreds of games with Steam's server library.
    A2s,
    /// Minecraft, Java edition: the server list ping, over TCP.
    Minecraft,
    /// Minecraft, Bedrock edition: RakNet's unconnected ping, over UDP.
    Bedrock,
    /// Satisfactory's lightweight query, over UDP.
    Satisfactory,
}

/// What a protocol travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One connection, whose bytes come in any pieces.
    Tcp,
    /// Datagrams, each whole.
    Udp,
}

impl Game {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::A2s,
        Self::Minecraft,
        Self::Bedrock,
        Self::Satisfactory,
    ];

    /// What the protocol travels on.
    pub const fn transport(self) -> Transport {
        match self {
            Self::Minecraft => Transport::Tcp,
            Self::A2s | Self::Bedrock | Self::Satisfactory => Transport::Udp,
        }
    }
}

impl fmt::Display for Game {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A2s => "a2s",
            Self::Minecraft => "minecraft",
            Self::Bedrock => "bedrock",
            Self::Satisfactory => "satisfactory",
        })
    }
}

impl FromStr for Game {
    type Err = UnknownGame;

    fn from_str(text: &str) -> Result<Self, UnknownGame> {
        let game = Self::ALL.into_iter().find(|game| game.to_string() == text);
        game.ok_or_else(|| UnknownGame(text.chars().take(80).collect()))
    }
}

/// A word that names no protocol; at most 80 characters of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown query protocol {0:?}: expected a2s, minecraft, bedrock or satisfactory")]
pub struct UnknownGame(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_read_by_the_name_that_it_prints() {
        for game in Game::ALL {
            assert_eq!(game.to_string().parse(), Ok(game));
        }
        let error = "x".repeat(1000).parse::<Game>().unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }
}
