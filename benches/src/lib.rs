//! What the measurements of Adit share.
#![forbid(unsafe_code)]

pub mod compare;
pub mod link;
pub mod load;
pub mod namespace;
pub mod process;
pub mod topology;
pub mod udp_path;
pub mod worker;
