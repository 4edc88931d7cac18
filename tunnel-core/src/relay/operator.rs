//! What a relay starts with of its operator's word.

use crate::{
    instance::InstanceId,
    relay::{
        entrance::{Ban, Gate},
        reservations::Reservation,
    },
};

/// What a relay's operator has said: see [`RelayBuilder::operator`](super::RelayBuilder::operator).
#[derive(Debug, Clone, Default)]
pub struct OperatorState {
    /// Instances that are reserved.
    pub reservations: Vec<Reservation>,
    /// Gates of instances; those of all others are open.
    pub gates: Vec<(InstanceId, Gate)>,
    /// The gate of all instances together.
    pub gate_of_all: Gate,
    /// Who may not play.
    pub bans: Vec<Ban>,
}
