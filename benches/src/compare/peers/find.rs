//! Where the programs of peers are.

use std::{env, path::PathBuf};

pub(super) fn find_peer(name: &str) -> Option<PathBuf> {
    find(name, &name.to_uppercase())
}

/// Where `ADIT_BENCH_<KEY>` says, or else on `PATH`.
pub(super) fn find(name: &str, key: &str) -> Option<PathBuf> {
    if let Some(named) = env::var_os(format!("ADIT_BENCH_{key}")).map(PathBuf::from) {
        return named.is_file().then_some(named);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}
