//! Reads the bytes of a peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::proto::wire::varint::VARINT_MAX;

/// Reads forward over bytes of a peer and never past their end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `input`.
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// How many bytes are left.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// All that is left.
    pub const fn take_rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A varint, in whichever of its forms.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let first = *self.rest.first().ok_or(WireError::Truncated)?;
        match first >> 6 {
            0 => self.u8().map(u64::from),
            1 => self.u16().map(|value| u64::from(value & 0x3fff)),
            2 => self.u32().map(|value| u64::from(value & 0x3fff_ffff)),
            _ => self.u64().map(|value| value & VARINT_MAX),
        }
    }

    /// A varint that must fit a smaller number.
    pub fn varint_as<T: TryFrom<u64>>(&mut self) -> Result<T, WireError> {
        T::try_from(self.varint()?).map_err(|_| WireError::OutOfRange)
    }

    /// As many bytes as the varint before them says, which must be at most `max`.
    pub fn prefixed(&mut self, max: u64) -> Result<&'a [u8], WireError> {
        let length = self.varint()?;
        if length > max {
            return Err(WireError::TooLong { length, max });
        }
        // Where `usize` is narrower than the length, so is whatever could be left.
        self.bytes(usize::try_from(length).map_err(|_| WireError::Truncated)?)
    }

    /// An IPv4 address and port, 6 bytes.
    pub fn address_v4(&mut self) -> Result<SocketAddr, WireError> {
        let ip: [u8; 4] = self.array()?;
        Ok(SocketAddr::new(Ipv4Addr::from(ip).into(), self.u16()?))
    }

    /// An IPv6 address and port, 18 bytes. An IPv4-mapped one comes back as IPv4.
    pub fn address_v6(&mut self) -> Result<SocketAddr, WireError> {
        let ip: [u8; 16] = self.array()?;
        let ip = IpAddr::from(Ipv6Addr::from(ip)).to_canonical();
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    /// An error unless everything has been read.
    pub const fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(self.rest.len()))
        }
    }
}

/// What is wrong with bytes of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The input ends inside a value.
    #[error("the input ends inside a value")]
    Truncated,
    /// A length past what is allowed in its place.
    #[error("a length of {length} where at most {max} is allowed")]
    TooLong {
        /// What the peer promised.
        length: u64,
        /// What is allowed.
        max: u64,
    },
    /// Bytes after the end of what should be all.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A value outside of its type.
    #[error("a value out of its range")]
    OutOfRange,
    /// A known field twice.
    #[error("field {0} came twice")]
    FieldTwice(&'static str),
    /// A mandatory field did not come.
    #[error("field {0} is missing")]
    FieldMissing(&'static str),
    /// A field whose value is outside of its type.
    #[error("field {0} holds no valid value")]
    FieldInvalid(&'static str),
    /// A list with too many items.
    #[error("more than {max} of field {name}")]
    TooMany {
        /// The field.
        name: &'static str,
        /// How many are allowed.
        max: usize,
    },
}
