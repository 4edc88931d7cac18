//! The environment, as people's tools write it: env files keep quotes and carriage returns, editors begin with a
//! byte-order mark.

use std::{
    env::{self, VarError},
    path::PathBuf,
};

use tunnel_core::text::bare;

/// A variable's text without what its writer's tools put around it; `None` if it is absent or empty.
pub fn text(name: &'static str) -> Result<Option<String>, NotText> {
    match env::var(name) {
        Ok(text) => Ok(Some(bare(&text).to_owned()).filter(|text| !text.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(NotText(name)),
    }
}

/// As [`text`], of a path, which need not be text.
pub fn path(name: &'static str) -> Option<PathBuf> {
    match text(name) {
        Ok(text) => text.map(PathBuf::from),
        Err(NotText(name)) => env::var_os(name).map(PathBuf::from),
    }
}

/// A variable is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not UTF-8 text")]
pub struct NotText(&'static str);
