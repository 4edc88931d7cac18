//! Health checks by a game's own query: what the engine asks a target by, of the crate that knows the games.

use adit_game::{Answer, Game, Query, Transport};
use tunnel_core::health::{Asked, Exchange, Over, Probe, Report};

/// Asks a game server for its status, as players' server lists do.
#[derive(Debug)]
pub(crate) struct GameProbe {
    game: Game,
    name: String,
}

impl GameProbe {
    /// Asks by this protocol.
    pub(crate) fn new(game: Game) -> Self {
        Self {
            game,
            name: game.to_string(),
        }
    }
}

impl Probe for GameProbe {
    fn name(&self) -> &str {
        &self.name
    }

    fn over(&self) -> Over {
        match self.game.transport() {
            Transport::Tcp => Over::Tcp,
            Transport::Udp => Over::Udp,
        }
    }

    fn ask(&self, asked: Asked<'_>) -> Box<dyn Exchange> {
        let host = asked.target.host.to_string();
        Box::new(Asking(Query::new(
            self.game,
            &host,
            asked.target.port,
            asked.nonce,
        )))
    }
}

struct Asking(Query);

impl Exchange for Asking {
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.0.poll_transmit()
    }

    fn handle_input(&mut self, input: &[u8]) -> Result<Option<Report>, String> {
        let answer = self.0.handle_input(input);
        let answer = answer.map_err(|error| error.to_string())?;
        Ok(answer.map(report))
    }

    fn handle_silence(&mut self) {
        self.0.handle_silence();
    }
}

fn report(answer: Answer) -> Report {
    Report {
        name: answer.name,
        players: answer.players,
        max: answer.max,
        version: answer.version,
        map: answer.map,
    }
}
