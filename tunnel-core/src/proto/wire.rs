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

mod fields;
mod reader;
mod value;
mod varint;

pub use fields::{Field, Fields, Slot, put_field};
pub use reader::{Reader, WireError};
pub use value::{ListValue, Value, put_address};
pub(crate) use value::{codes, varint_newtype};
pub use varint::{VARINT_MAX, put_prefixed, put_varint, varint_len};

#[cfg(test)]
mod tests;
