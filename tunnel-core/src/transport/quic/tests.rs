use std::{
    collections::HashMap,
    net::{Ipv4Addr, UdpSocket as StdSocket},
    sync::Mutex,
};

use tokio::{net::UdpSocket, task::JoinHandle, time::timeout};

use super::{socket::DropCounts, *};
use crate::{
    join::TokenId,
    proto::{
        handshake::{Capabilities, ProcessId, SUPPORTED, VersionRange},
        testing::XorShift,
    },
    transport::{
        admission::{Admission, AdmissionLimits},
        psk::PskSource,
    },
};

const RELAY_KEY: [u8; 32] = [0x22; 32];
const CLIENT_KEY: [u8; 32] = [0x11; 32];
const PSK: [u8; 32] = [0x33; 32];
/// Long enough for everything that loopback could bring.
const QUIET: Duration = Duration::from_millis(400);

/// The relay's clients, and who has asked.
#[derive(Debug, Default)]
struct Clients {
    known: HashMap<PublicKey, Psk>,
    asked: Mutex<Vec<(PublicKey, Option<TokenId>)>>,
}

impl PskSource for Clients {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        self.asked.lock().unwrap().push((*client, token));
        self.known.get(client).cloned()
    }
}

fn clients_with(psk: [u8; 32]) -> Arc<Clients> {
    let key = SecretKey::from(CLIENT_KEY).public_key();
    Arc::new(Clients {
        known: HashMap::from([(key, Psk::from(psk))]),
        asked: Mutex::default(),
    })
}

struct Relay {
    endpoint: Endpoint,
    address: SocketAddr,
    drops: Arc<Drops>,
}

impl Relay {
    fn new(clients: Arc<Clients>) -> Self {
        Self::with_versions(clients, SUPPORTED)
    }

    fn with_versions(psks: Arc<Clients>, versions: VersionRange) -> Self {
        let drops = Arc::new(Drops::default());
        let identity = RelayIdentity {
            secret_key: SecretKey::from(RELAY_KEY),
            process: ProcessId::from([0x66; 16]),
            versions,
            capabilities: Capabilities::STREAM_RESUMPTION,
            psks,
        };
        let endpoint = relay_endpoint(
            loopback(),
            identity,
            Admission::shared(AdmissionLimits::default()),
            Arc::clone(&drops),
        )
        .unwrap();
        Self {
            address: endpoint.local_addr().unwrap(),
            endpoint,
            drops,
        }
    }

    /// Takes one handshake to its end.
    fn accept_one(&self, within: Duration) -> JoinHandle<Result<Accepted, QuicAcceptError>> {
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move {
            let incoming = endpoint.accept().await.unwrap();
            answer(incoming)?.accepted(within).await
        })
    }
}

fn loopback() -> StdSocket {
    let socket = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn client() -> ClientEndpoint {
    client_endpoint(loopback(), Arc::default()).unwrap()
}

fn identity(suite: Suite) -> ClientIdentity {
    ClientIdentity {
        secret_key: SecretKey::from(CLIENT_KEY),
        relay: SecretKey::from(RELAY_KEY).public_key(),
        psk: Psk::from(PSK),
        process: ProcessId::from([0x44; 16]),
        versions: SUPPORTED,
        capabilities: Capabilities::REDUNDANCY,
        token: None,
        suite,
    }
}

const SECONDS_5: Duration = Duration::from_secs(5);

/// A client's connection, and the relay's end of it.
pub(crate) async fn pair(suite: Suite) -> (quinn::Connection, Answer, Accepted, [Endpoint; 2]) {
    let relay = Relay::new(clients_with(PSK));
    let client = client();
    let accepting = relay.accept_one(SECONDS_5);
    let (connection, answer) = connect(&client, relay.address, &identity(suite))
        .await
        .unwrap();
    let accepted = accepting.await.unwrap().unwrap();
    (
        connection,
        answer,
        accepted,
        [client.clone(), relay.endpoint],
    )
}

#[tokio::test]
async fn both_ends_meet_and_agree() {
    for suite in Suite::ALL {
        let (connection, answer, accepted, _endpoints) = pair(suite).await;
        assert_eq!(accepted.peer, SecretKey::from(CLIENT_KEY).public_key());
        assert_eq!(accepted.suite, suite);
        assert_eq!(accepted.hello.process, ProcessId::from([0x44; 16]));
        assert_eq!(accepted.hello.capabilities, Capabilities::REDUNDANCY);
        assert_eq!(answer.process, ProcessId::from([0x66; 16]));
        assert_eq!(answer.capabilities, Capabilities::STREAM_RESUMPTION);
        let relay: Box<PublicKey> = connection.peer_identity().unwrap().downcast().unwrap();
        assert_eq!(*relay, SecretKey::from(RELAY_KEY).public_key());
        let (ours, theirs) = (lane_secret(&connection), lane_secret(&accepted.connection));
        assert_eq!(ours.as_bytes(), theirs.as_bytes());
    }
}

#[tokio::test]
async fn streams_and_datagrams_come_back() {
    for suite in Suite::ALL {
        let (connection, _, accepted, _endpoints) = pair(suite).await;
        let (mut control, mut control_back) = connection.open_bi().await.unwrap();
        control.write_all(b"control").await.unwrap();
        control.finish().unwrap();
        let (mut back, mut control) = accepted.connection.accept_bi().await.unwrap();
        assert_eq!(control.read_to_end(100).await.unwrap(), b"control");
        back.write_all(b"yes").await.unwrap();
        back.finish().unwrap();
        assert_eq!(control_back.read_to_end(100).await.unwrap(), b"yes");

        for number in 0..100u32 {
            let datagram = bytes::Bytes::copy_from_slice(&[number as u8; 1_100]);
            accepted
                .connection
                .send_datagram_wait(datagram.clone())
                .await
                .unwrap();
            let received = connection.read_datagram().await.unwrap();
            assert_eq!(received, datagram);
            connection.send_datagram_wait(received).await.unwrap();
            let returned = accepted.connection.read_datagram().await.unwrap();
            assert_eq!(returned, datagram);
        }
    }
}

#[tokio::test]
async fn a_client_may_open_one_stream_at_a_time() {
    let (connection, _, accepted, _endpoints) = pair(Suite::Aes256Gcm).await;
    let _control = connection.open_bi().await.unwrap();
    assert!(timeout(QUIET, connection.open_bi()).await.is_err());
    assert!(timeout(QUIET, connection.open_uni()).await.is_err());
    let mut players = Vec::new();
    for _ in 0..1_000 {
        players.push(accepted.connection.open_bi().await.unwrap());
    }
}

#[tokio::test]
async fn stream_of_64_mib_survives_key_updates() {
    const LENGTH: usize = 64 << 20;
    for suite in Suite::ALL {
        let (connection, _, accepted, _endpoints) = pair(suite).await;
        let echo = connection.clone();
        tokio::spawn(async move {
            let (mut send, mut receive) = echo.accept_bi().await.unwrap();
            while let Some(chunk) = receive.read_chunk(1 << 20, true).await.unwrap() {
                send.write_chunk(chunk.bytes).await.unwrap();
            }
            send.finish().unwrap();
            send.stopped().await.unwrap();
        });
        let (mut send, mut receive) = accepted.connection.open_bi().await.unwrap();
        let writing = tokio::spawn(async move {
            let mut random = XorShift::new(1);
            let mut written = 0;
            while written < LENGTH {
                let byte = random.next() as u8;
                send.write_all(&[byte; 64 << 10]).await.unwrap();
                written += 64 << 10;
            }
            send.finish().unwrap();
            send
        });
        let mut random = XorShift::new(1);
        let mut block = vec![0; 64 << 10];
        for number in 0..LENGTH / block.len() {
            receive.read_exact(&mut block).await.unwrap();
            let byte = random.next() as u8;
            assert!(block.iter().all(|got| *got == byte));
            match number % 64 {
                0 => connection.force_key_update(),
                32 => accepted.connection.force_key_update(),
                _ => {}
            }
        }
        assert!(receive.read_chunk(1, true).await.unwrap().is_none());
        drop(writing.await.unwrap());
        let (ours, theirs) = (lane_secret(&connection), lane_secret(&accepted.connection));
        assert_eq!(ours.as_bytes(), theirs.as_bytes());
    }
}

#[tokio::test]
async fn retry_proves_the_address() {
    for suite in Suite::ALL {
        let relay = Relay::new(clients_with(PSK));
        let endpoint = relay.endpoint.clone();
        let accepting = tokio::spawn(async move {
            let first = endpoint.accept().await.unwrap();
            assert!(!first.remote_address_validated());
            first.retry().unwrap();
            let second = endpoint.accept().await.unwrap();
            assert!(second.remote_address_validated());
            answer(second)?.accepted(SECONDS_5).await
        });
        let client = client();
        let (connection, _) = connect(&client, relay.address, &identity(suite))
            .await
            .unwrap();
        let accepted = accepting.await.unwrap().unwrap();
        assert_eq!(
            lane_secret(&connection).as_bytes(),
            lane_secret(&accepted.connection).as_bytes()
        );
        assert_eq!(relay.drops.counts(), DropCounts::default());
    }
}

/// A forwarder between a client and a relay that notes the length of every datagram.
struct Tap {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(Direction, usize)>>>,
    relay: Arc<Mutex<SocketAddr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    ToRelay,
    ToClient,
}

impl Tap {
    async fn new(relay: SocketAddr) -> Self {
        let front = UdpSocket::from_std(loopback()).unwrap();
        let back = UdpSocket::from_std(loopback()).unwrap();
        let tap = Self {
            address: front.local_addr().unwrap(),
            seen: Arc::default(),
            relay: Arc::new(Mutex::new(relay)),
        };
        let (seen, relay) = (Arc::clone(&tap.seen), Arc::clone(&tap.relay));
        tokio::spawn(async move {
            let mut client = None;
            let (mut up, mut down) = (vec![0; 2_000], vec![0; 2_000]);
            loop {
                tokio::select! {
                    got = front.recv_from(&mut up) => {
                        let (length, from) = got.unwrap();
                        client = Some(from);
                        seen.lock().unwrap().push((Direction::ToRelay, length));
                        let to = *relay.lock().unwrap();
                        back.send_to(&up[..length], to).await.unwrap();
                    }
                    got = back.recv_from(&mut down) => {
                        let (length, _) = got.unwrap();
                        seen.lock().unwrap().push((Direction::ToClient, length));
                        front.send_to(&down[..length], client.unwrap()).await.unwrap();
                    }
                }
            }
        });
        tap
    }

    fn sizes(&self) -> Vec<(Direction, usize)> {
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn unknown_wrong_and_revoked_look_the_same_on_the_wire() {
    let mut traces = Vec::new();
    // A wrong secret; then a key that is not there, be it unknown or revoked.
    for clients in [clients_with([0x34; 32]), Arc::default(), Arc::default()] {
        let relay = Relay::new(Arc::clone(&clients));
        let tap = Tap::new(relay.address).await;
        let accepting = relay.accept_one(SECONDS_5);
        let client = client();
        let result = connect(&client, tap.address, &identity(Suite::Aes256Gcm)).await;
        assert_eq!(result.unwrap_err(), QuicConnectError::NotAdmitted);
        assert!(accepting.await.unwrap().is_err());
        tokio::time::sleep(QUIET).await;
        assert_eq!(clients.asked.lock().unwrap().len(), 1);
        let mut sizes = tap.sizes();
        assert!(sizes.iter().any(|(way, _)| *way == Direction::ToClient));
        sizes.sort_unstable();
        traces.push(sizes);
    }
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0], traces[2]);
}

/// The first datagram that a client with `identity` sends.
async fn first_datagram(identity: &ClientIdentity) -> Vec<u8> {
    let nobody = UdpSocket::from_std(loopback()).unwrap();
    let client = client();
    let address = nobody.local_addr().unwrap();
    let identity = identity.clone();
    let connecting = tokio::spawn(async move { connect(&client, address, &identity).await });
    let mut datagram = vec![0; 2_000];
    let length = nobody.recv(&mut datagram).await.unwrap();
    datagram.truncate(length);
    connecting.abort();
    datagram
}

/// What comes back to a stranger that sends `datagram`.
async fn reply_to(relay: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    let stranger = UdpSocket::from_std(loopback()).unwrap();
    stranger.send_to(datagram, relay).await.unwrap();
    let mut reply = vec![0; 2_000];
    let length = timeout(QUIET, stranger.recv(&mut reply))
        .await
        .ok()?
        .unwrap();
    reply.truncate(length);
    Some(reply)
}

#[tokio::test]
async fn strangers_get_not_one_byte() {
    let relay = Relay::new(clients_with(PSK));
    let endpoint = relay.endpoint.clone();
    // Under load at all times: Retry for whatever gets as far as that.
    let serving = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            incoming.retry().unwrap();
        }
    });
    let genuine = first_datagram(&identity(Suite::Aes256Gcm)).await;
    assert_eq!(genuine.len(), 1_200);
    assert!(reply_to(relay.address, &genuine).await.is_some(), "a Retry");

    let other_relay = ClientIdentity {
        relay: SecretKey::from([0x23; 32]).public_key(),
        ..identity(Suite::Aes256Gcm)
    };
    let mut attempts = vec![first_datagram(&other_relay).await];
    let mut edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut datagram = genuine.clone();
        edit(&mut datagram);
        attempts.push(datagram);
    };
    // Another destination id, another byte of the payload, a shorter id, a token, and every foreign version.
    edited(&|datagram| datagram[8] ^= 1);
    edited(&|datagram| datagram[600] ^= 1);
    edited(&|datagram| {
        datagram[5] = 7;
    });
    edited(&|datagram| {
        let token_at = 6 + 20 + 1 + usize::from(datagram[26]);
        datagram.splice(token_at..=token_at, [4, 1, 2, 3, 4]);
    });
    for version in [0u32, 1, 0x6b33_43cf, 0x0a1a_2a3a] {
        edited(&|datagram| datagram[1..5].copy_from_slice(&version.to_be_bytes()));
    }
    edited(&|datagram| datagram.truncate(1_199));
    edited(&|datagram| datagram.truncate(40));
    let mut random = XorShift::new(3);
    for _ in 0..200 {
        attempts.push(random.bytes(1_400));
    }
    attempts.push(vec![0x40; 1_200]);

    let stranger = UdpSocket::from_std(loopback()).unwrap();
    for attempt in attempts.iter().filter(|attempt| !attempt.is_empty()) {
        stranger.send_to(attempt, relay.address).await.unwrap();
    }
    let reply = timeout(QUIET, stranger.recv(&mut [0; 2_000])).await;
    assert!(reply.is_err(), "{reply:?}");
    let counts = relay.drops.counts();
    assert!(counts.foreign_version >= 4 && counts.foreign_initial >= 4);
    assert!(counts.short_initial >= 1, "{counts:?}");
    serving.abort();
}

#[tokio::test]
async fn a_client_with_another_relays_key_hears_nothing() {
    let relay = Relay::new(clients_with(PSK));
    let tap = Tap::new(relay.address).await;
    let client = client();
    let mistaken = ClientIdentity {
        relay: SecretKey::from([0x23; 32]).public_key(),
        ..identity(Suite::ChaCha20Poly1305)
    };
    let connecting = connect(&client, tap.address, &mistaken);
    assert!(timeout(QUIET, connecting).await.is_err());
    assert!(
        tap.sizes()
            .iter()
            .all(|(way, _)| *way == Direction::ToRelay)
    );
}

#[tokio::test]
async fn a_relay_key_that_is_none_is_told_at_once() {
    let client = client();
    let nobody = ClientIdentity {
        relay: PublicKey::from([0; 32]),
        ..identity(Suite::Aes256Gcm)
    };
    let address = client.local_addr().unwrap();
    let result = connect(&client, address, &nobody).await;
    assert_eq!(result.unwrap_err(), QuicConnectError::RelayKey);
}

#[tokio::test]
async fn clients_answer_no_stranger() {
    let client = client();
    let address = client.local_addr().unwrap();
    let initial = first_datagram(&identity(Suite::Aes256Gcm)).await;
    assert_eq!(reply_to(address, &initial).await, None);
    assert_eq!(reply_to(address, &[0x40; 1_200]).await, None);
}

#[tokio::test]
async fn a_recorded_hello_never_becomes_a_connection() {
    let clients = clients_with(PSK);
    let relay = Relay::new(Arc::clone(&clients));
    let recorded = first_datagram(&identity(Suite::Aes256Gcm)).await;
    for _ in 0..2 {
        let accepting = relay.accept_one(QUIET);
        assert!(reply_to(relay.address, &recorded).await.is_some());
        assert_eq!(
            accepting.await.unwrap().unwrap_err(),
            QuicAcceptError::Timeout
        );
        // The relay forgets the attempt before the next one with the same ids.
        relay.endpoint.wait_idle().await;
    }
    assert_eq!(clients.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn version_mismatch_is_told_to_both_sides() {
    let newer = VersionRange::new(2, 3).unwrap();
    let relay = Relay::with_versions(clients_with(PSK), newer);
    let accepting = relay.accept_one(SECONDS_5);
    let client = client();
    let error = connect(&client, relay.address, &identity(Suite::Aes256Gcm))
        .await
        .unwrap_err();
    let QuicConnectError::Incompatible(mismatch) = error else {
        panic!("{error}");
    };
    assert!(!mismatch.peer_is_behind());
    let error = accepting.await.unwrap().unwrap_err();
    let QuicAcceptError::Incompatible(peer, mismatch) = error else {
        panic!("{error}");
    };
    assert_eq!(peer, SecretKey::from(CLIENT_KEY).public_key());
    assert!(mismatch.peer_is_behind());
}

#[tokio::test]
async fn enrolling_client_names_its_token() {
    let clients = clients_with(PSK);
    let relay = Relay::new(Arc::clone(&clients));
    let accepting = relay.accept_one(SECONDS_5);
    let client = client();
    let token = Some(TokenId::from([7; 16]));
    let enrolling = ClientIdentity {
        token,
        ..identity(Suite::Aes256Gcm)
    };
    let _connection = connect(&client, relay.address, &enrolling).await.unwrap();
    assert_eq!(accepting.await.unwrap().unwrap().hello.token, token);
    assert_eq!(clients.asked.lock().unwrap()[0].1, token);
}

#[tokio::test]
async fn restarted_relay_ends_old_connections_at_once() {
    let relay = Relay::new(clients_with(PSK));
    let tap = Tap::new(relay.address).await;
    let accepting = relay.accept_one(SECONDS_5);
    let client = client();
    let (connection, _) = connect(&client, tap.address, &identity(Suite::Aes256Gcm))
        .await
        .unwrap();
    let _accepted = accepting.await.unwrap().unwrap();
    // Long enough for the ids that the relay issues after the handshake.
    tokio::time::sleep(QUIET / 4).await;
    let restarted = Relay::new(clients_with(PSK));
    *tap.relay.lock().unwrap() = restarted.address;
    connection
        .send_datagram(bytes::Bytes::from_static(&[0; 100]))
        .unwrap();
    let ended = timeout(SECONDS_5, connection.closed()).await.unwrap();
    assert_eq!(ended, ConnectionError::Reset);
}
