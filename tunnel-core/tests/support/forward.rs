//! A router of which only TCP gets through: it stands between a client and its relay's port.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Forwards TCP to one address. Nothing listens on its UDP port.
pub(crate) struct Forwarder {
    address: SocketAddr,
    faults: Arc<watch::Sender<Faults>>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What has befallen the connections, which are numbered from 0 as they come.
#[derive(Debug, Default, Clone, Copy)]
struct Faults {
    come: u64,
    /// Those below have ended.
    cut: u64,
    /// Those below stand, and carry nothing any more.
    frozen: u64,
}

impl Forwarder {
    pub(crate) async fn start(ip: IpAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(watch::Sender::new(Faults::default()));
        let shared = faults.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let mut number = 0;
                shared.send_modify(|faults| {
                    number = faults.come;
                    faults.come += 1;
                });
                tokio::spawn(forward(near, to, number, shared.subscribe()));
            }
        });
        Self {
            address,
            faults,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, as a router does that restarts.
    pub(crate) fn cut(&self) {
        self.faults.send_modify(|faults| faults.cut = faults.come);
    }

    /// Every connection so far carries nothing any more, and nobody is told.
    pub(crate) fn freeze_all(&self) {
        self.faults
            .send_modify(|faults| faults.frozen = faults.come);
    }

    /// The first `count` connections carry nothing any more, and nobody is told.
    pub(crate) fn freeze(&self, count: u64) {
        self.faults.send_modify(|faults| faults.frozen = count);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    mut near: TcpStream,
    to: SocketAddr,
    number: u64,
    mut faults: watch::Receiver<Faults>,
) {
    // A relay that is not there: the connection ends at once, as it would without the router.
    let Ok(mut far) = TcpStream::connect(to).await else {
        return;
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let mut freezing = faults.clone();
    let frozen = async {
        drop(freezing.wait_for(|faults| number < faults.frozen).await);
    };
    let copied = async {
        tokio::select! {
            copied = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, SIZE, SIZE) => return drop(copied),
            () = frozen => {}
        }
        std::future::pending().await
    };
    tokio::select! {
        () = copied => {}
        _ = faults.wait_for(|faults| number < faults.cut) => {}
    }
}

const SIZE: usize = 256 * 1024;
