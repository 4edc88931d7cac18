//! First messages as an attacker makes them who has the relay's public key: for floods in tests and benches.

use std::{io, net::SocketAddr};

use quinn::Side;

use super::{
    ClientIdentity, client_endpoint, connect,
    filter::protected_part,
    keys::{Suites, initial_secret},
};
use crate::{
    key::{self, Psk, PublicKey, SecretKey},
    proto::handshake::{Capabilities, ProcessId, SUPPORTED, Suite},
};

/// A client's first datagram, which can be sealed anew for any other connection id: then it costs its author next to
/// nothing, and the relay a whole handshake.
#[derive(Debug)]
pub(crate) struct FirstMessages {
    relay: PublicKey,
    recorded: Vec<u8>,
    /// The same, open: the header up to the packet number, the number, and the rest.
    header: Vec<u8>,
    number: Vec<u8>,
    payload: Vec<u8>,
}

impl FirstMessages {
    /// Records the first datagram of a client that this relay does not know.
    pub(crate) async fn record(relay: PublicKey) -> io::Result<Self> {
        let socket = || {
            let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let tape = tokio::net::UdpSocket::from_std(socket()?)?;
        let address: SocketAddr = tape.local_addr()?;
        let identity = ClientIdentity {
            secret_key: SecretKey::generate().map_err(io::Error::other)?,
            relay,
            psk: Psk::generate().map_err(io::Error::other)?,
            process: ProcessId::from([1; 16]),
            versions: SUPPORTED,
            capabilities: Capabilities::SUPPORTED,
            token: None,
            suite: SUITE,
        };
        let endpoint = client_endpoint(socket()?, Default::default())?;
        let mut recorded = vec![0; 2_048];
        let length = tokio::select! {
            _ = connect(&endpoint, address, &identity) => return Err(io::ErrorKind::ConnectionAborted.into()),
            received = tape.recv(&mut recorded) => received?,
        };
        recorded.truncate(length);
        Self::open(relay, recorded).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn open(relay: PublicKey, recorded: Vec<u8>) -> Option<Self> {
        let (number_at, end) = protected_part(&recorded).ok()?;
        let destination = recorded.get(ID_AT..ID_AT + usize::from(*recorded.get(ID_AT - 1)?))?;
        let secret = initial_secret(&relay, destination);
        let keys = Suites::load()
            .ok()?
            .raw(SUITE, &secret, Side::Server)
            .remote;
        let mut packet = recorded.get(..end)?.to_vec();
        let (header, rest) = packet.split_at_mut(number_at);
        let (number, sealed) = rest.split_first_chunk_mut::<4>()?;
        let sample = sealed.get(..keys.header.sample_len())?;
        (keys.header)
            .decrypt_in_place(sample, &mut header[0], number)
            .ok()?;
        let number_len = usize::from(header[0] & 3) + 1;
        let count = number[..number_len]
            .iter()
            .fold(0, |count, byte| count << 8 | u64::from(*byte));
        let (head, payload) = packet.split_at_mut(number_at + number_len);
        let payload = keys
            .packet
            .decrypt_in_place(count, head, payload)
            .ok()?
            .to_vec();
        Some(Self {
            relay,
            header: head[..number_at].to_vec(),
            number: head[number_at..].to_vec(),
            payload,
            recorded,
        })
    }

    /// The datagram as it was sent.
    pub(crate) fn recorded(&self) -> &[u8] {
        &self.recorded
    }

    /// The same message in a datagram that no relay has seen.
    pub(crate) fn fresh(&self) -> io::Result<Vec<u8>> {
        let (mut header, mut number) = (self.header.clone(), self.number.clone());
        let length = usize::from(header[ID_AT - 1]);
        let id = &key::random::<20>().map_err(io::Error::other)?[..length];
        header[ID_AT..ID_AT + length].copy_from_slice(id);
        let secret = initial_secret(&self.relay, id);
        let keys = Suites::load()?.raw(SUITE, &secret, Side::Client).local;
        let count = number
            .iter()
            .fold(0, |count, byte| count << 8 | u64::from(*byte));
        let mut payload = self.payload.clone();
        let head = [&header[..], &number].concat();
        let tag = (keys.packet)
            .encrypt_in_place(count, &head, &mut payload)
            .map_err(io::Error::other)?;
        payload.extend_from_slice(tag.as_ref());
        let sample_at = 4 - number.len();
        let sample = payload[sample_at..sample_at + keys.header.sample_len()].to_vec();
        (keys.header)
            .encrypt_in_place(&sample, &mut header[0], &mut number)
            .map_err(io::Error::other)?;
        Ok([header, number, payload].concat())
    }
}

const SUITE: Suite = Suite::Aes256Gcm;
/// Where an Initial's destination id begins, behind its length.
const ID_AT: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::quic::filter::opens;

    #[tokio::test]
    async fn a_message_sealed_anew_is_as_genuine_as_the_recorded_one() {
        let relay = SecretKey::from([1; 32]).public_key();
        let firsts = FirstMessages::record(relay).await.unwrap();
        let (one, other) = (firsts.fresh().unwrap(), firsts.fresh().unwrap());
        assert_ne!(one, other);
        let suites = Suites::load().unwrap();
        for datagram in [firsts.recorded(), &one, &other] {
            assert!(datagram.len() >= 1_200);
            let id = &datagram[ID_AT..ID_AT + usize::from(datagram[ID_AT - 1])];
            assert!(opens(&suites, SUITE, &relay, datagram, id));
        }
    }
}
