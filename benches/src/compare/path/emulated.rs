//! A path as it is emulated.

use crate::{
    compare::{data::LineFacts, scenario::Scenario},
    link::LinkConfig,
};

/// A link, and what is measured on it.
#[derive(Debug, Clone)]
pub struct EmulatedPath {
    /// Its section in the report.
    pub title: String,
    /// What it does to packets.
    pub link: LinkConfig,
    /// What the kernel gives TCP connections that ask for none: `bbr` or `cubic`.
    pub congestion_control: &'static str,
    /// What verdicts go by, where it is one of the lines.
    pub line: Option<LineFacts>,
    /// In this order.
    pub scenarios: Vec<Scenario>,
}
