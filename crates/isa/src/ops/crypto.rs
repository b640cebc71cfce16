//! The parts of AES, on the sixteen bytes of a block, its first byte lowest (FIPS 197).
//!
//! The substitution is computed, not looked up in a table that somebody has to believe: inverses in the field of 256 with
//! the polynomial x^8 + x^4 + x^3 + x + 1, and then an affine map.

/// Rows are turned, bytes are substituted: AES's last round without its key.
pub(super) fn encrypt(block: u128) -> u128 {
    // Byte `row + 4 * column` comes from `row` columns further.
    bytes(|at| SUBSTITUTED[usize::from(byte(block, (at + 4 * (at % 4)) % 16))])
}

/// The other way.
pub(super) fn decrypt(block: u128) -> u128 {
    bytes(|at| RESTORED[usize::from(byte(block, (at + 12 * (at % 4)) % 16))])
}

/// Each column times x^3·3 + x^2 + x + 2.
pub(super) fn mix(block: u128) -> u128 {
    multiplied(block, [2, 3, 1, 1])
}

/// The other way.
pub(super) fn unmix(block: u128) -> u128 {
    multiplied(block, [14, 11, 13, 9])
}

fn multiplied(block: u128, by: [u8; 4]) -> u128 {
    bytes(|at| {
        let (row, column) = (at % 4, at / 4 * 4);
        (0..4).fold(0, |sum, other| sum ^ times(byte(block, column + other), by[(4 + other - row) % 4]))
    })
}

fn byte(block: u128, at: usize) -> u8 {
    (block >> (8 * at)) as u8
}

fn bytes(of: impl Fn(usize) -> u8) -> u128 {
    u128::from_le_bytes(std::array::from_fn(of))
}

/// A product in the field.
const fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

const SUBSTITUTED: [u8; 256] = substituted();
const RESTORED: [u8; 256] = restored();

const fn substituted() -> [u8; 256] {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        // The inverse is the 254th power.
        let (mut inverse, mut power) = (1u8, 0);
        while power < 254 {
            inverse = times(inverse, value as u8);
            power += 1;
        }
        let turned = inverse ^ inverse.rotate_left(1) ^ inverse.rotate_left(2) ^ inverse.rotate_left(3);
        table[value] = turned ^ inverse.rotate_left(4) ^ 0x63;
        value += 1;
    }
    table
}

const fn restored() -> [u8; 256] {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        table[SUBSTITUTED[value] as usize] = value as u8;
        value += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitution_and_mixing_are_those_of_the_standard() {
        assert_eq!([SUBSTITUTED[0], SUBSTITUTED[0x53], SUBSTITUTED[0xff]], [0x63, 0xed, 0x16]);
        // FIPS 197, appendix B, round 1: after the rows were shifted, and after the columns were mixed.
        let shifted = u128::from_le_bytes([
            0xd4, 0xbf, 0x5d, 0x30, 0xe0, 0xb4, 0x52, 0xae, 0xb8, 0x41, 0x11, 0xf1, 0x1e, 0x27, 0x98, 0xe5,
        ]);
        let start = u128::from_le_bytes([
            0x19, 0x3d, 0xe3, 0xbe, 0xa0, 0xf4, 0xe2, 0x2b, 0x9a, 0xc6, 0x8d, 0x2a, 0xe9, 0xf8, 0x48, 0x08,
        ]);
        let mixed = u128::from_le_bytes([
            0x04, 0x66, 0x81, 0xe5, 0xe0, 0xcb, 0x19, 0x9a, 0x48, 0xf8, 0xd3, 0x7a, 0x28, 0x06, 0x26, 0x4c,
        ]);
        assert_eq!(encrypt(start), shifted);
        assert_eq!(decrypt(shifted), start);
        assert_eq!(mix(shifted), mixed);
        assert_eq!(unmix(mixed), shifted);
    }
}
