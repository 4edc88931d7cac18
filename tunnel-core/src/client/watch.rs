//! Watches the path under a tunnel: whether what leaves over QUIC arrives, and which address of this machine it leaves from.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::client::{
    policy::{
        hearing::{HEARD_LOOK, Heard, Seen, Sent},
        sources::{SourceChange, Sources},
    },
    ports::LocalPorts,
    tunnel::ClientTunnel,
};

/// Notices that what leaves over QUIC does not arrive.
pub(crate) async fn watch_quic(tunnel: Arc<ClientTunnel>, connection: quinn::Connection) {
    let mut heard = Heard::default();
    let watch = async {
        loop {
            tokio::time::sleep(HEARD_LOOK).await;
            let stats = connection.stats();
            let frames = &stats.frame_tx;
            let seen = Seen {
                sent: Sent {
                    packets: stats.udp_tx.datagrams,
                    frames: frames.datagram + frames.stream + frames.ping,
                },
                received: stats.udp_rx.datagrams,
                acks: stats.frame_rx.acks,
            };
            if let Some(hearing) = heard.handle_look(Instant::now(), seen, stats.path.rtt) {
                // The main task is busy: there is another look soon.
                _ = tunnel.hearing.offer(hearing);
            }
        }
    };
    tokio::select! {
        () = watch => {}
        () = tunnel.ended() => {}
    }
}

/// Notices that this machine has got another address on the way to the relay. QUIC goes on from there by itself; TCP
/// connections from one that is gone hang.
pub(crate) async fn watch_address(tunnel: Arc<ClientTunnel>, ports: Arc<LocalPorts>) {
    let Some(peer) = tunnel.peer else { return };
    let mut sources = Sources::default();
    let watch = async {
        loop {
            let now = ports.source_towards(peer).ok();
            match sources.handle_look(now, |ip| ports.is_ours(ip)) {
                None => {}
                Some(SourceChange::Another) => {
                    tracing::info!("this machine speaks to the relay from another address");
                    tunnel.lanes.watch.doubt();
                    tunnel.path_changed.notify_one();
                }
                Some(SourceChange::Gone { is_first }) => {
                    tracing::info!("this machine's address has changed");
                    tunnel.path.send_modify(|changes| *changes += 1);
                    tunnel.path_changed.notify_one();
                    if tunnel.quic.is_none() && is_first {
                        tunnel.broken.cancel();
                    }
                }
            }
            tokio::time::sleep(ADDRESS_LOOK).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = tunnel.ended() => {}
    }
}

/// How often it is looked whether our own address has changed. Half a second: four system calls, and players hardly
/// notice.
const ADDRESS_LOOK: Duration = Duration::from_millis(500);
