//! The argument that most commands share: which relay it is about.

use std::path::PathBuf;

use adit_daemon::exit::Stop;
use clap::Args;

use crate::config::Config;

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// The relay's configuration, as `relay-server init` writes it.
    #[arg(long = "config", value_name = "FILE")]
    pub(super) path: PathBuf,
}

impl ConfigFile {
    /// The configuration, or every problem that it has.
    pub(super) fn load(&self) -> Result<Config, Stop> {
        Config::load(&self.path)
            .map(|loaded| loaded.value)
            .map_err(Stop::invalid)
    }
}
