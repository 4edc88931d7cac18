//! How a worker answers.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What a worker says if it cannot do what it should.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) error: String,
}

/// One line for whoever started this process.
#[expect(clippy::print_stdout, reason = "this is how a worker answers")]
pub(crate) fn say(what: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}
