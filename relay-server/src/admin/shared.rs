//! What all handlers share.

use std::sync::Arc;

use adit_control::{events::Ring, problem::Problem};
use arc_swap::ArcSwap;
use tokio::task::spawn_blocking;
use tunnel_core::relay::{PlayerStatus, Relay, RelayStatus};

use super::desk::Desk;
use crate::{config::Config, state::StateAuthority};

/// The relay as handlers see it.
#[derive(Clone)]
pub(crate) struct Shared {
    /// As it was last read.
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) authority: Arc<StateAuthority>,
    pub(crate) relay: Arc<Relay>,
    /// Where operators' changes are made.
    pub(crate) desk: Arc<Desk>,
    /// Where is told what has happened.
    pub(crate) events: Ring,
}

impl Shared {
    /// Does what may block: a use case on the state file, with the configuration of now.
    pub(super) async fn operate<T, E>(
        &self,
        operate: impl FnOnce(&Config) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        let config = self.config.load_full();
        match spawn_blocking(move || operate(&config)).await {
            Ok(outcome) => outcome.map_err(Into::into),
            Err(panic) => {
                tracing::error!(%panic, "a request to the API failed");
                Err(Problem::internal())
            }
        }
    }

    /// As [`operate`](Self::operate), and then takes over what that has written: it holds from the answer on.
    pub(super) async fn change<T, E>(
        &self,
        operate: impl FnOnce(&Config) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        let authority = self.authority.clone();
        let outcome = self
            .operate(move |config| {
                let outcome = operate(config);
                // What was written is written, whether it can be read now or by the next look.
                if let Err(error) = authority.reload() {
                    tracing::error!(%error, "a change through the API takes effect later");
                }
                outcome
            })
            .await?;
        self.relay.recheck().await;
        Ok(outcome)
    }

    /// Who plays.
    pub(super) async fn players(&self) -> Result<Vec<PlayerStatus>, Problem> {
        let players = self.relay.players().await;
        players.map_err(|_| Problem::unavailable("The relay has ended."))
    }

    /// Who is connected, and what is bound.
    pub(super) async fn status(&self) -> Result<RelayStatus, Problem> {
        let status = self.relay.status().await;
        status.map_err(|_| Problem::unavailable("The relay has ended."))
    }
}
