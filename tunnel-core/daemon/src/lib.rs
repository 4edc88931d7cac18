//! What Adit's programs share as processes of an operating system, and embedders do not need: configuration files
//! whose every problem is reported at once with its place, key files, output, logs, signals and exit statuses.
#![forbid(unsafe_code)]

mod aside;
pub mod config;
pub mod environment;
pub mod exit;
pub mod file;
pub mod limits;
pub mod log;
pub mod notify;
pub mod observe;
pub mod print;
pub mod runtime;
pub mod service;
pub mod signal;
mod terminal;
