//! The messages of the control stream (`docs/protocol.md` §5.2): one table, [`Message`], and a [`Decoder`].

use std::{fmt, str::FromStr, time::Duration};

use bytes::{Buf, BufMut, BytesMut};
use zeroize::Zeroize;

use crate::{
    instance::{
        FlowLimits, InstanceId, MAX_RANGE, MAX_SERVICES, Optimize, PortRange, Protocol, Redundancy,
        ServiceName,
    },
    key::Psk,
    proto::{
        stream::frame::StreamId,
        wire::{
            Fields, ListValue, Reader, Slot, Value, WireError, codes, put_field, put_prefixed,
            put_varint, varint_newtype,
        },
    },
};

/// Longest body of a control message, in bytes. A DECLARE of 64 services with the longest names takes 8 KiB.
pub const MAX_MESSAGE: u64 = 65_536;

/// A control message is a row: number, name, and a row for each field. `T` is mandatory, `Option<T>` is not,
/// `Vec<T>` is a list of one or more.
macro_rules! messages {
    ($($(#[$doc:meta])* $number:literal => $message:ident {
        $($(#[$field_doc:meta])* $tag:literal => $field:ident: $type:ty,)*
    })*) => {
        /// A message of the control stream.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $message { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl Message {
            const fn number(&self) -> u64 {
                match self {
                    $(Self::$message { .. } => $number,)*
                }
            }

            const fn name_of(number: u64) -> Option<&'static str> {
                match number {
                    $($number => Some(stringify!($message)),)*
                    _ => None,
                }
            }

            fn encode_fields(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$message { $($field),* } => {
                        $(put_field(out, $tag, $field);)*
                    })*
                }
            }

            /// `None` for a number that is in no row.
            fn decode_fields(number: u64, body: &[u8]) -> Result<Option<Self>, WireError> {
                match number {
                    $($number => {
                        $(let mut $field: Slot<$type> = Slot::new(stringify!($field));)*
                        for field in Fields::new(body) {
                            let (tag, value) = field?;
                            match tag {
                                $($tag => $field.read(value)?,)*
                                _ => {}
                            }
                        }
                        Ok(Some(Self::$message { $($field: $field.finish()?,)* }))
                    })*
                    _ => Ok(None),
                }
            }
        }
    };
}

messages! {
    /// Relay: the tunnel is up.
    1 => Welcome {
        /// The protocol version in use.
        1 => version: u32,
        /// How often each side sends a PING.
        2 => heartbeat: Duration,
        /// How long the relay keeps the ports of a client that is gone.
        3 => lease: Duration,
        /// The client's lasting key, in enrolment only.
        4 => psk: Option<Psk>,
        /// What the relay calls the client.
        5 => client: Text<63>,
        /// The relay's software and its version.
        6 => software: Text<64>,
    }
    /// Relay: there will be no tunnel.
    2 => Reject {
        /// Why.
        1 => code: Code,
        /// Why, for people.
        2 => text: Text<256>,
    }
    /// Client: this is what the instance is now, whole.
    3 => Declare {
        /// Which instance.
        1 => instance: InstanceId,
        /// Rises with every change of the instance.
        2 => revision: Revision,
        /// 1 to 64. Whether they contradict each other is the relay's to judge.
        3 => services: Vec<ServiceDeclaration>,
    }
    /// Client: the instance is gone.
    4 => Withdraw {
        /// Which instance.
        1 => instance: InstanceId,
        /// Rises with every change of the instance.
        2 => revision: Revision,
    }
    /// Relay: this revision's ports are open.
    5 => Bound {
        /// Which instance.
        1 => instance: InstanceId,
        /// The revision that was declared.
        2 => revision: Revision,
    }
    /// Relay: this revision does not come into force; the one before it stays.
    6 => Refused {
        /// Which instance.
        1 => instance: InstanceId,
        /// The revision that was declared.
        2 => revision: Revision,
        /// Why.
        3 => code: Code,
        /// Why, for people.
        4 => text: Text<256>,
        /// The port that it was about.
        5 => port: Option<u16>,
    }
    /// Either: are you there?
    7 => Ping {
        /// Comes back in the PONG.
        1 => number: u64,
        /// The highest number of the other side's PINGs so far: it is heard.
        2 => heard: Option<u64>,
    }
    /// Either: I am.
    8 => Pong {
        /// The PING's.
        1 => number: u64,
    }
    /// Either: no new streams and flows; what is open may end in peace.
    9 => Drain {
        /// After it the sender says GOODBYE.
        1 => grace: Duration,
    }
    /// Either: the tunnel ends.
    10 => Goodbye {
        /// Why.
        1 => code: Code,
        /// Why, for people.
        2 => text: Text<256>,
    }
    /// Relay: so many lanes should stand idle.
    11 => Lanes {
        /// How many.
        1 => idle: IdleLanes,
    }
    /// Relay: what was bound is not any more.
    12 => Unbound {
        /// Which instance.
        1 => instance: InstanceId,
        /// The revision that was bound.
        2 => revision: Revision,
        /// Why.
        3 => code: Code,
        /// Why, for people.
        4 => text: Text<256>,
    }
    /// Client: the lanes of these streams lead nowhere any more, of which the relay may not know.
    13 => Lost {
        /// Which.
        1 => streams: Vec<StreamId>,
    }
}

impl Message {
    /// The message's name, for logs: `Welcome`.
    pub fn name(&self) -> &'static str {
        Self::name_of(self.number()).unwrap_or_default()
    }

    /// Appends the message as it stands on the control stream.
    pub fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.number());
        put_prefixed(out, |out| self.encode_fields(out));
    }
}

/// Makes messages of the control stream's bytes, however they are cut.
///
/// After [`handle_input`](Self::handle_input) call [`poll_message`](Self::poll_message) until it yields `None`:
/// then no more than one message and one piece of input are ever held.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// What is still to come of a message of unknown type.
    skip: usize,
    failed: Option<MessageError>,
}

impl Decoder {
    /// A decoder at the start of a control stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. After an error they are thrown away.
    pub fn handle_input(&mut self, input: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        let skipped = self.skip.min(input.len());
        self.skip -= skipped;
        self.buffer
            .extend_from_slice(input.get(skipped..).unwrap_or_default());
    }

    /// The next message, or `None` until more input came. An error is final: the stream has lost its place.
    pub fn poll_message(&mut self) -> Result<Option<Message>, MessageError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.next().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = BytesMut::new();
        })
    }

    fn next(&mut self) -> Result<Option<Message>, MessageError> {
        loop {
            let mut reader = Reader::new(&self.buffer);
            let (Ok(number), Ok(length)) = (reader.varint(), reader.varint()) else {
                return Ok(None);
            };
            if length > MAX_MESSAGE {
                return Err(MessageError::TooLong { length });
            }
            let head = self.buffer.len() - reader.remaining();
            let total = head + length as usize;
            let Some(message) = Message::name_of(number) else {
                let held = total.min(self.buffer.len());
                self.buffer.advance(held);
                self.skip = total - held;
                continue;
            };
            let Ok(body) = reader.bytes(length as usize) else {
                return Ok(None);
            };
            let decoded = Message::decode_fields(number, body)
                .map_err(|error| MessageError::Malformed { message, error })?;
            // WELCOME brings a secret.
            self.buffer[..total].zeroize();
            self.buffer.advance(total);
            return Ok(decoded);
        }
    }
}

/// Why the control stream cannot go on. The peer is to blame: close with [`Code::ProtocolError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A message longer than any.
    #[error("a control message of {length} bytes where at most {MAX_MESSAGE} are allowed")]
    TooLong {
        /// What the peer promised.
        length: u64,
    },
    /// A known message whose fields do not hold.
    #[error("control message {message}: {error}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        #[source]
        error: WireError,
    },
}

varint_newtype! {
    /// A service of a client: chosen by the client, never used again in the life of its process.
    pub struct ServiceId(u32);
}

varint_newtype! {
    /// Tells the states of one instance apart; a later one is greater.
    pub struct Revision(u64);
}

/// What the relay needs to know of a service. Where its traffic goes stays with the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDeclaration {
    /// What streams and flows name.
    pub id: ServiceId,
    /// Name within the instance.
    pub name: ServiceName,
    /// What the public ports accept.
    pub protocol: Protocol,
    /// The public ports, at most 1,024.
    pub public: PortRange,
    /// How TCP connections travel.
    pub optimize: Optimize,
    /// How datagrams are protected.
    pub redundancy: Redundancy,
    /// UDP limits, within the bounds of [`FlowLimits`].
    pub flows: FlowLimits,
}

impl Value for ServiceDeclaration {
    fn encode(&self, out: &mut BytesMut) {
        put_field(out, 1, &self.id);
        put_field(out, 2, &self.name);
        put_field(out, 3, &self.protocol);
        put_field(out, 4, &self.public.first());
        put_field(out, 5, &self.public.count());
        put_field(out, 6, &self.optimize);
        put_field(out, 7, &self.flows.idle);
        put_field(out, 8, &self.flows.per_address);
        put_field(out, 9, &self.flows.per_service);
        let is_protected = self.redundancy != Redundancy::Off;
        put_field(out, 10, &is_protected.then_some(self.redundancy));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut id = Slot::new("service id");
        let mut name = Slot::new("service name");
        let mut protocol = Slot::new("protocol");
        let mut first: Slot<u16> = Slot::new("first port");
        let mut count: Slot<u16> = Slot::new("number of ports");
        let mut optimize = Slot::new("optimize");
        let mut idle: Slot<Duration> = Slot::new("idle time");
        let mut per_address = Slot::new("flows per address");
        let mut per_service = Slot::new("flows per service");
        let mut redundancy: Slot<Option<Redundancy>> = Slot::new("redundancy");
        for field in Fields::new(reader.take_rest()) {
            let (tag, value) = field?;
            match tag {
                1 => id.read(value)?,
                2 => name.read(value)?,
                3 => protocol.read(value)?,
                4 => first.read(value)?,
                5 => count.read(value)?,
                6 => optimize.read(value)?,
                7 => idle.read(value)?,
                8 => per_address.read(value)?,
                9 => per_service.read(value)?,
                10 => redundancy.read(value)?,
                _ => {}
            }
        }
        let idle = idle.finish()?;
        let flows = FlowLimits {
            idle,
            per_address: per_address.finish()?,
            per_service: per_service.finish()?,
        };
        if !FlowLimits::IDLE_SECONDS.contains(&idle.as_secs()) {
            return Err(WireError::FieldInvalid("idle time"));
        }
        if !FlowLimits::PER_ADDRESS.contains(&flows.per_address) {
            return Err(WireError::FieldInvalid("flows per address"));
        }
        if !FlowLimits::PER_SERVICE.contains(&flows.per_service) {
            return Err(WireError::FieldInvalid("flows per service"));
        }
        Ok(Self {
            id: id.finish()?,
            name: name.finish()?,
            protocol: protocol.finish()?,
            public: ports(first.finish()?, count.finish()?)
                .ok_or(WireError::FieldInvalid("number of ports"))?,
            optimize: optimize.finish()?,
            redundancy: redundancy.finish()?.unwrap_or(Redundancy::Off),
            flows,
        })
    }
}

impl ListValue for ServiceDeclaration {
    const MAX_ITEMS: usize = MAX_SERVICES;
}

impl ListValue for StreamId {
    /// 64, as of every list. Who has lost more says so in several messages.
    const MAX_ITEMS: usize = 64;
}

/// How many lanes the relay wants to stand idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLanes(u16);

impl IdleLanes {
    /// 256: each is a socket and a keep-alive on both sides, for nothing but the next stream's first round trip.
    pub const MAX: u16 = 256;

    /// So many lanes, [`MAX`](Self::MAX) at most.
    pub fn new(count: u16) -> Self {
        Self(count.min(Self::MAX))
    }

    /// How many.
    pub const fn count(self) -> u16 {
        self.0
    }
}

impl Value for IdleLanes {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u16::decode(reader)?;
        (count <= Self::MAX)
            .then_some(Self(count))
            .ok_or(WireError::OutOfRange)
    }
}

/// A text for people, of at most `MAX` bytes. It holds no control characters, so that a peer cannot drive the
/// terminal that shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Text<const MAX: usize>(Box<str>);

impl<const MAX: usize> Text<MAX> {
    /// As much of a text as fits, with `?` in the place of control characters.
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        for c in text.chars() {
            let c = if c.is_control() { '?' } else { c };
            if kept.len() + c.len_utf8() > MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> Value for Text<MAX> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.0.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        if reader.remaining() > MAX {
            return Err(WireError::OutOfRange);
        }
        utf8(reader).map(Self::new)
    }
}

codes! {
    /// Why a peer refuses or ends something: in REJECT, GOODBYE, REFUSED, UNBOUND and QUIC's application close.
    pub enum Code {
        /// No reason given.
        0 => None "no reason given",
        /// The sender shuts down.
        1 => Shutdown "shutting down",
        /// Another process with the same key took the tunnel over.
        2 => Superseded "superseded by another process with the same key",
        /// The client's key was revoked.
        3 => Revoked "the client's key is revoked",
        /// The ranges of protocol versions do not meet.
        4 => Incompatible "no protocol version in common",
        /// The token's time is over.
        5 => TokenExpired "the token has expired",
        /// The token belongs to another key.
        6 => TokenUsed "the token was used already",
        /// The receiver broke the protocol.
        7 => ProtocolError "protocol error",
        /// The client may not have this.
        8 => NotPermitted "not permitted",
        /// Somebody else has the port.
        9 => PortInUse "port in use",
        /// Another client has an instance of this id.
        10 => IdInUse "id in use",
        /// A limit of the sender.
        11 => Limit "limit reached",
        /// The sender's own fault.
        12 => Internal "internal error",
        /// Removed by an operator.
        13 => Removed "removed",
        /// A port below 1,024 that the relay may not open.
        14 => PrivilegedPort "privileged port",
        /// The receiver was silent for too long.
        15 => Timeout "timed out",
    }
}

impl Value for InstanceId {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.as_str().as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        name(reader)
    }
}

impl Value for ServiceName {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.as_str().as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        name(reader)
    }
}

impl Value for Psk {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.array().map(Self::from)
    }
}

impl Value for Protocol {
    fn encode(&self, out: &mut BytesMut) {
        let number: u64 = match self {
            Self::Tcp => 1,
            Self::Udp => 2,
            Self::Both => 3,
        };
        number.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.varint()? {
            1 => Ok(Self::Tcp),
            2 => Ok(Self::Udp),
            3 => Ok(Self::Both),
            _ => Err(WireError::OutOfRange),
        }
    }
}

impl Value for Optimize {
    fn encode(&self, out: &mut BytesMut) {
        let number: u64 = match self {
            Self::Auto => 0,
            Self::Latency => 1,
            Self::Throughput => 2,
        };
        number.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.varint()? {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Latency),
            2 => Ok(Self::Throughput),
            _ => Err(WireError::OutOfRange),
        }
    }
}

impl Value for Redundancy {
    fn encode(&self, out: &mut BytesMut) {
        (*self as u64).encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        // What a later version does instead, it knows better when it is worth its bytes than this one.
        let number = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        Ok(Self::ALL.get(number).copied().unwrap_or(Self::Adaptive))
    }
}

/// Milliseconds below 2^32 (49 days), so that adding one to a clock cannot overflow it.
impl Value for Duration {
    fn encode(&self, out: &mut BytesMut) {
        u32::try_from(self.as_millis())
            .unwrap_or(u32::MAX)
            .encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        u32::decode(reader).map(|ms| Self::from_millis(ms.into()))
    }
}

fn ports(first: u16, count: u16) -> Option<PortRange> {
    let last = first.checked_add(count.checked_sub(1)?)?;
    PortRange::new(first, last).filter(|range| range.count() <= MAX_RANGE)
}

fn name<T: FromStr>(reader: &mut Reader<'_>) -> Result<T, WireError> {
    utf8(reader)?.parse().map_err(|_| WireError::OutOfRange)
}

fn utf8<'a>(reader: &mut Reader<'a>) -> Result<&'a str, WireError> {
    std::str::from_utf8(reader.take_rest()).map_err(|_| WireError::OutOfRange)
}

#[cfg(test)]
mod tests;
