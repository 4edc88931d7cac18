//! quinn's settings, each with its reason.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{hkdf, hmac};
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, NoneTokenStore, ServerConfig,
    TransportConfig, ValidationTokenConfig, VarInt, crypto,
};

use super::{
    cid::CidKey,
    congestion::LevelConfig,
    keys::{VERSIONS, version_of},
};
use crate::proto::handshake::{Suite, keys::Secret};

pub(super) fn endpoint(cids: CidKey, reset_key: &Secret) -> EndpointConfig {
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, reset_key.as_bytes());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config
        .supported_versions(VERSIONS.to_vec())
        .cid_generator(move || Box::new(cids.clone()));
    config
}

pub(super) fn server(crypto: Arc<dyn crypto::ServerConfig>, token_key: &Secret) -> ServerConfig {
    let token_key = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, token_key.as_bytes());
    let mut config = ServerConfig::new(crypto, Arc::new(token_key));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config
        .transport_config(Arc::new(relay_transport()))
        .validation_token_config(tokens)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * MAX_INCOMING as u64);
    config
}

pub(super) fn client(crypto: Arc<dyn crypto::ClientConfig>, suite: Suite) -> ClientConfig {
    let mut config = ClientConfig::new(crypto);
    config
        .version(version_of(suite))
        .token_store(Arc::new(NoneTokenStore))
        .transport_config(Arc::new(client_transport()));
    config
}

fn relay_transport() -> TransportConfig {
    let mut config = common_transport();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(CLIENT_STREAMS))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW));
    config
}

fn client_transport() -> TransportConfig {
    let mut config = common_transport();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(RELAY_STREAMS))
        .keep_alive_interval(Some(KEEP_ALIVE));
    config
}

fn common_transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU).minimum_change(MTU_STEP);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(IDLE_TIMEOUT)))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .mtu_discovery_config(Some(mtu))
        .packet_threshold(PACKET_THRESHOLD)
        .time_threshold(TIME_THRESHOLD)
        // The spin bit would show every observer the round trip, and helps nobody here.
        .allow_spin(false)
        // Ours: random loss does not shrink it, and bulk does not drown a game (docs/congestion.md).
        .congestion_controller_factory(Arc::new(LevelConfig::default()));
    config
}

/// Streams a client may have open: the control stream.
const CLIENT_STREAMS: u32 = 1;

/// Streams a relay may have open, one for each player's TCP connection: 16,384 is more than half of what one
/// address can have to one port, and their state, about 1 KiB each, stays near 16 MiB.
const RELAY_STREAMS: u32 = 16_384;

/// Silence after which a connection is dead, in ms. Streams end after as long (DESIGN), and RFC 9308 §3.2 names it.
const IDLE_TIMEOUT: VarInt = VarInt::from_u32(30_000);

/// How often an idle client speaks: twice within a NAT's 30 s, the shortest mapping seen in practice, so that one
/// lost packet does not end it. The relay needs none of its own: the client's are answered.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Bytes in flight of one stream: 1 Gbit/s at 130 ms. The protocol's window for a stream is the same 16 MiB.
const STREAM_WINDOW: u32 = 16 << 20;

/// Bytes in flight of all streams together: the protocol's bound for a tunnel.
pub(super) const WINDOW: u32 = 64 << 20;

/// The same for a client that has not been let in: a few messages, for it has nothing to say but a heartbeat and goodbye.
const STRANGER_WINDOW: u32 = 16 << 10;

/// Datagrams that wait for us to read them: 100 ms at 80 Mbit/s, or the burst after a pause of the process.
const DATAGRAM_RECEIVE_BUFFER: usize = 1 << 20;

/// Datagrams that wait to be sent: 13 ms at 20 Mbit/s, and 23 full packets of a burst. quinn sends them in the order in
/// which they came and drops the oldest beyond that without a word, so the queue that counts, ages, drops on purpose and
/// gives each player a turn is ours, and this one only has to keep the connection busy.
const DATAGRAM_SEND_BUFFER: usize = 32 << 10;

/// Packets that may overtake one before it counts as lost: any number, for only time tells. Wi-Fi and mobile networks reorder by
/// milliseconds, which is many packets of bulk, and each one taken for lost is sent twice.
const PACKET_THRESHOLD: u32 = u32::MAX;

/// Round trips after which a packet that others have overtaken is lost: a quarter more than one, as RFC 8985 (RACK) allows for
/// reordering.
const TIME_THRESHOLD: f32 = 1.25;

/// CRYPTO bytes that may wait out of order: the longest message is 2,050 with its length, twice.
const CRYPTO_BUFFER: usize = 4_100;

/// Largest UDP payload to probe for: 1,500 of Ethernet less IPv4 and UDP heads. Far below the 6,500 beyond which
/// quinn's ten segments pass what one GSO send may carry (PROTOTYPE.md, pitfall 1).
const MTU: u16 = 1_472;

/// How near the search comes to what the path carries. Over IPv6 or PPPoE that is less, and a datagram of 1,400 bytes has to fit
/// with its repair or nearly so.
const MTU_STEP: u16 = 4;

/// Handshakes that wait for our decision, which comes at once: four times as many as may be in flight.
const MAX_INCOMING: usize = 1_024;

/// Bytes that may come for such a handshake: a repeated Initial or two.
const INCOMING_BUFFER: u64 = 4_096;
