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
    /// Rises with every cut: connections of before end.
    generation: Arc<watch::Sender<u64>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Forwarder {
    pub(crate) async fn start(ip: IpAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let generation = Arc::new(watch::Sender::new(0));
        let cuts = generation.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(near, to, cuts.subscribe()));
            }
        });
        Self {
            address,
            generation,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, as a router does that restarts.
    pub(crate) fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(mut near: TcpStream, to: SocketAddr, mut cuts: watch::Receiver<u64>) {
    // A relay that is not there: the connection ends at once, as it would without the router.
    let Ok(mut far) = TcpStream::connect(to).await else {
        return;
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, SIZE, SIZE) => drop(copied),
        _ = cuts.changed() => {}
    }
}

const SIZE: usize = 256 * 1024;
