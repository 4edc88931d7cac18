//! One suite for every transport: what players, game servers and operators may rely on, whatever carries it.
#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

/// Makes of each scenario one test for each transport.
macro_rules! on_every_transport {
    ($($scenario:ident),+ $(,)?) => {
        on_transport!(quic, Quic, $($scenario),+);
        on_transport!(lane, Lane, $($scenario),+);
        on_transport!(mem, Mem, $($scenario),+);
    };
}

macro_rules! on_transport {
    ($module:ident, $via:ident, $($scenario:ident),+ $(,)?) => {
        mod $module {
            $(
                // Four threads: UDP ports have four sockets each.
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $scenario() {
                    super::$scenario(crate::support::Via::$via).await;
                }
            )+
        }
    };
}

mod crowds;
mod drain;
mod front_ends;
mod health;
mod instances;
mod isolation;
mod lifecycle;
mod limits;
mod memory;
mod moves;
mod parked;
mod proxy_protocol;
mod redundancy;
mod resume;
mod tcp;
mod udp;
