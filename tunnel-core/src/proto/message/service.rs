//! A service as a client declares it.

use std::time::Duration;

use bytes::BytesMut;

use crate::{
    instance::{
        FlowLimits, MAX_RANGE, MAX_SERVICES, Optimize, PortRange, Protocol, Redundancy, ServiceName,
    },
    proto::wire::{Fields, ListValue, Reader, Slot, Value, WireError, put_field, varint_newtype},
};

varint_newtype! {
    /// A service of a client: chosen by the client, never used again in the life of its process.
    pub struct ServiceId(u32);
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
    /// Whether the relay tells of each flow what the player sent to.
    pub tells_local: bool,
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
        put_field(out, 11, &self.tells_local.then_some(TELLS_LOCAL));
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
        let mut tells: Slot<Option<u64>> = Slot::new("what is told of flows");
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
                11 => tells.read(value)?,
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
            tells_local: tells.finish()?.unwrap_or_default() & TELLS_LOCAL != 0,
        })
    }
}

impl ListValue for ServiceDeclaration {
    const MAX_ITEMS: usize = MAX_SERVICES;
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

/// What a flow's OPEN tells beside the player: where the player sent to.
const TELLS_LOCAL: u64 = 1;

fn ports(first: u16, count: u16) -> Option<PortRange> {
    let last = first.checked_add(count.checked_sub(1)?)?;
    PortRange::new(first, last).filter(|range| range.count() <= MAX_RANGE)
}
