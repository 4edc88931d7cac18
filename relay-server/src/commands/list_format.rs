//! An argument that lists share: how they look.

use clap::ValueEnum;

/// How a list looks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ListFormat {
    /// Columns for people.
    Table,
    /// A JSON array of objects.
    Json,
}
