//! Field lists: what stands under which tag, once, not at all or several times.

use bytes::BytesMut;

use crate::proto::wire::{
    reader::{Reader, WireError},
    value::{ListValue, Value},
    varint::{put_prefixed, put_varint},
};

/// Appends one field: nothing for `None` or an empty list, one `tag || length || value` for each value.
pub fn put_field<F: Field>(out: &mut BytesMut, tag: u64, field: &F) {
    field.put(out, tag);
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
