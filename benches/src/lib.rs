//! What the measurements of Adit share.
#![forbid(unsafe_code)]

pub mod link;
pub mod path;
pub mod place;
