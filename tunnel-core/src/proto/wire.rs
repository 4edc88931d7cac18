//! The alphabet of every message: varints, a bounded reader, and field lists (`docs/protocol.md` §5.1).
//!
//! A type that travels implements [`Value`]; a field is a [`Value`] (mandatory), an [`Option`] of one, or a
//! [`Vec`] of one or more [`ListValue`]s. Nothing here allocates more than the bytes it was given.
//!
//! ```
//! use bytes::BytesMut;
//! use tunnel_core::proto::wire::{Fields, Slot, WireError, put_field};
//!
//! let mut out = BytesMut::new();
//! put_field(&mut out, 1, &7u64);
//! put_field(&mut out, 2, &None::<u32>);
//!
//! let mut number: Slot<u64> = Slot::new("number");
//! let mut limit: Slot<Option<u32>> = Slot::new("limit");
//! for field in Fields::new(&out) {
//!     let (tag, value) = field?;
//!     match tag {
//!         1 => number.read(value)?,
//!         2 => limit.read(value)?,
//!         _ => {}
//!     }
//! }
//! assert_eq!((number.finish()?, limit.finish()?), (7, None));
//! # Ok::<(), WireError>(())
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, BytesMut};

/// Greatest value of a varint, 2^62 − 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Length of the shortest varint for a value: 1, 2, 4 or 8.
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends a varint in its shortest form. A value past [`VARINT_MAX`] is written as [`VARINT_MAX`]; ids and
/// offsets, which rise from 0, do not get there.
pub fn put_varint(out: &mut BytesMut, value: u64) {
    match varint_len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value.min(VARINT_MAX)),
    }
}

/// Appends what `write` appends, with its length as a varint before it.
pub fn put_prefixed(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    write(out);
    let length = out.len() - start;
    let prefix = varint_len(length as u64);
    // The length is written behind the body and both are turned round: no second buffer.
    put_varint(out, length as u64);
    if let Some(tail) = out.get_mut(start..) {
        tail.rotate_right(prefix);
    }
}

/// Appends an address: ip (4 or 16 bytes) and port (2). An IPv4-mapped IPv6 address is written as IPv4.
pub fn put_address(out: &mut BytesMut, address: SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u16(address.port());
}

/// Appends one field: nothing for `None` or an empty list, one `tag || length || value` for each value.
pub fn put_field<F: Field>(out: &mut BytesMut, tag: u64, field: &F) {
    field.put(out, tag);
}

/// Something with one encoding of its own: a number, an id, a text, a nested field list.
pub trait Value: Sized {
    /// Appends the value, without tag and length.
    fn encode(&self, out: &mut BytesMut);

    /// Reads the value. Whoever calls also sees to it that nothing is left ([`Reader::finish`]).
    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// A [`Value`] of which a field list may hold several.
pub trait ListValue: Value {
    /// How many at most.
    const MAX_ITEMS: usize;
}

/// What a field list holds under one tag: `T` (mandatory), `Option<T>` or `Vec<T>` (one or more).
pub trait Field: Sized {
    /// Appends the field.
    fn put(&self, out: &mut BytesMut, tag: u64);

    /// Takes in one occurrence.
    fn read(held: &mut Option<Self>, name: &'static str, value: &[u8]) -> Result<(), WireError>;

    /// What the occurrences came to.
    fn finish(held: Option<Self>, name: &'static str) -> Result<Self, WireError>;
}

impl<T: Value> Field for T {
    fn put(&self, out: &mut BytesMut, tag: u64) {
        put_varint(out, tag);
        put_prefixed(out, |out| self.encode(out));
    }

    fn read(held: &mut Option<Self>, name: &'static str, value: &[u8]) -> Result<(), WireError> {
        if held.is_some() {
            return Err(WireError::FieldTwice(name));
        }
        *held = Some(whole(name, value)?);
        Ok(())
    }

    fn finish(held: Option<Self>, name: &'static str) -> Result<Self, WireError> {
        held.ok_or(WireError::FieldMissing(name))
    }
}

impl<T: Value> Field for Option<T> {
    fn put(&self, out: &mut BytesMut, tag: u64) {
        if let Some(value) = self {
            value.put(out, tag);
        }
    }

    fn read(held: &mut Option<Self>, name: &'static str, value: &[u8]) -> Result<(), WireError> {
        T::read(held.get_or_insert_default(), name, value)
    }

    fn finish(held: Option<Self>, _: &'static str) -> Result<Self, WireError> {
        Ok(held.flatten())
    }
}

impl<T: ListValue> Field for Vec<T> {
    fn put(&self, out: &mut BytesMut, tag: u64) {
        for value in self {
            value.put(out, tag);
        }
    }

    fn read(held: &mut Option<Self>, name: &'static str, value: &[u8]) -> Result<(), WireError> {
        let items = held.get_or_insert_default();
        if items.len() >= T::MAX_ITEMS {
            return Err(WireError::TooMany {
                name,
                max: T::MAX_ITEMS,
            });
        }
        items.push(whole(name, value)?);
        Ok(())
    }

    fn finish(held: Option<Self>, name: &'static str) -> Result<Self, WireError> {
        held.ok_or(WireError::FieldMissing(name))
    }
}

/// A field on its way out of a field list, under the name that its errors give.
#[derive(Debug)]
pub struct Slot<F> {
    name: &'static str,
    held: Option<F>,
}

impl<F: Field> Slot<F> {
    /// An empty slot.
    pub const fn new(name: &'static str) -> Self {
        Self { name, held: None }
    }

    /// Takes in one occurrence of the field; a second one is an error unless the field is a list.
    pub fn read(&mut self, value: &[u8]) -> Result<(), WireError> {
        F::read(&mut self.held, self.name, value)
    }

    /// The field; a mandatory one that never came is an error.
    pub fn finish(self) -> Result<F, WireError> {
        F::finish(self.held, self.name)
    }
}

/// The fields of a list in the order of their arrival, as tag and value. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a>(Reader<'a>);

impl<'a> Fields<'a> {
    /// The fields in `input`, which is the whole list.
    pub const fn new(input: &'a [u8]) -> Self {
        Self(Reader::new(input))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self
            .0
            .varint()
            .and_then(|tag| Ok((tag, self.0.prefixed(u64::MAX)?)));
        if field.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(field)
    }
}

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

impl Value for u64 {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, *self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.varint()
    }
}

impl Value for u32 {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(*self));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.varint_as()
    }
}

impl Value for u16 {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(*self));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.varint_as()
    }
}

impl<const N: usize> Value for [u8; N] {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.array()
    }
}

/// Bytes whose meaning is somebody else's; the message around them bounds them.
impl Value for Box<[u8]> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(reader.take_rest().into())
    }
}

/// An address that is all of its field, so that the field's length tells the families apart.
impl Value for SocketAddr {
    fn encode(&self, out: &mut BytesMut) {
        put_address(out, *self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.remaining() {
            6 => reader.address_v4(),
            18 => reader.address_v6(),
            _ => Err(WireError::OutOfRange),
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
    /// A value that its type does not hold.
    #[error("a value out of its range")]
    OutOfRange,
    /// A known field twice.
    #[error("field {0} came twice")]
    FieldTwice(&'static str),
    /// A mandatory field did not come.
    #[error("field {0} is missing")]
    FieldMissing(&'static str),
    /// A field whose value its type does not hold.
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

/// A newtype of a number that travels as a varint.
macro_rules! varint_newtype {
    ($(#[$doc:meta])* pub struct $name:ident($inner:ty);) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl $crate::proto::wire::Value for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                $crate::proto::wire::Value::encode(&self.0, out);
            }

            fn decode(
                reader: &mut $crate::proto::wire::Reader<'_>,
            ) -> Result<Self, $crate::proto::wire::WireError> {
                $crate::proto::wire::Value::decode(reader).map(Self)
            }
        }
    };
}
pub(crate) use varint_newtype;

/// An enum of numbers with a text each, which keeps numbers that it does not know in `Other`.
macro_rules! codes {
    ($(#[$doc:meta])* pub enum $name:ident {
        $($(#[$code_doc:meta])* $number:literal => $code:ident $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$code_doc])* $code,)*
            /// A number of a later version. Made by `From<u64>` only, so never one of the above.
            Other(u64),
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                match number {
                    $($number => Self::$code,)*
                    other => Self::Other(other),
                }
            }
        }

        impl From<$name> for u64 {
            fn from(code: $name) -> Self {
                match code {
                    $($name::$code => $number,)*
                    $name::Other(number) => number,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$code => f.write_str($text),)*
                    Self::Other(number) => write!(f, "code {number}"),
                }
            }
        }

        impl $crate::proto::wire::Value for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                $crate::proto::wire::put_varint(out, (*self).into());
            }

            fn decode(
                reader: &mut $crate::proto::wire::Reader<'_>,
            ) -> Result<Self, $crate::proto::wire::WireError> {
                reader.varint().map(Self::from)
            }
        }
    };
}
pub(crate) use codes;

/// A value that fills its field.
fn whole<T: Value>(name: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    let mut reader = Reader::new(bytes);
    let value = T::decode(&mut reader);
    match (value, reader.finish()) {
        (Ok(value), Ok(())) => Ok(value),
        // The fault of a nested list names its own field already.
        (
            Err(
                error @ (WireError::FieldTwice(_)
                | WireError::FieldMissing(_)
                | WireError::FieldInvalid(_)
                | WireError::TooMany { .. }),
            ),
            _,
        ) => Err(error),
        _ => Err(WireError::FieldInvalid(name)),
    }
}

#[cfg(test)]
mod tests;
