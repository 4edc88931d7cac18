//! What the measurements of Adit share.
#![forbid(unsafe_code)]

pub mod compare;
pub mod link;
pub mod load;
pub mod path;
pub mod place;
pub mod process;
pub mod role;
