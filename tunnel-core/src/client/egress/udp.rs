//! Flows: players' UDP conversations, each with a connected socket of its own towards its target.

mod answers;
mod deliver;
mod ends;
mod flow;
mod flows;
mod preface;
mod search;

pub(crate) use deliver::Egress;
pub(crate) use flow::Means;
pub(crate) use flows::Flows;
