//! What an embedder is told of a relay that does not run.

use super::*;
use crate::mem;

fn builder() -> RelayBuilder {
    let authority = Arc::new(StaticAuthority::new());
    Relay::builder(SecretKey::generate().unwrap(), authority)
}

#[tokio::test]
async fn a_relay_that_nobody_could_reach_does_not_start() {
    let started = builder().start().await;
    assert!(
        matches!(started, Err(RelayStartError::NowhereToListen)),
        "{started:?}"
    );
}

#[tokio::test]
async fn a_relay_that_has_ended_has_no_status() {
    let relay = builder().mem(&mem::Network::new()).start().await.unwrap();
    assert!(relay.status().await.unwrap().clients.is_empty());
    relay.shutdown(Duration::ZERO).await;
    assert_eq!(relay.status().await.unwrap_err(), RelayEnded);
}
