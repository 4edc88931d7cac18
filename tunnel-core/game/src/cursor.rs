//! Reads the bytes of a peer.

use crate::error::ReadError;

/// Reads forward over bytes of a peer and never past their end. `what` names them in errors.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = (self.rest.split_at_checked(count)).ok_or(self.truncated())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (taken, rest) = (self.rest.split_first_chunk()).ok_or(self.truncated())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16_be(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u16_le(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32_le(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The bytes up to the next NUL, which is passed over. What is not UTF-8 in them is replaced.
    pub(crate) fn cstr(&mut self) -> Result<String, ReadError> {
        let end = (self.rest.iter().position(|byte| *byte == 0)).ok_or(self.truncated())?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    /// Passes over these bytes, or says that it is something else.
    pub(crate) fn expect(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        if self.take(bytes.len())? == bytes {
            Ok(())
        } else {
            Err(ReadError::Unexpected(self.what))
        }
    }

    const fn truncated(&self) -> ReadError {
        ReadError::Truncated(self.what)
    }
}
