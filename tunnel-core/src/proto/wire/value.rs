//! Values with one encoding of their own.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use crate::proto::wire::{
    reader::{Reader, WireError},
    varint::put_varint,
};

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

/// Appends an address: ip (4 or 16 bytes) and port (2). An IPv4-mapped IPv6 address is written as IPv4.
pub fn put_address(out: &mut BytesMut, address: SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u16(address.port());
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
