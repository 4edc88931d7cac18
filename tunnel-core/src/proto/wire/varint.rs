//! Integers of variable length, and what is written with one before it.

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
