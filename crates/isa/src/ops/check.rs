//! Checksums of 32 bits, the lowest bit first, as instructions compute them: without turning anything round before or after.

/// What each byte adds, by a polynomial.
pub(super) type Table = [u32; 256];

/// By the polynomial of ISO 3309.
pub(super) const ISO: Table = table(0xedb8_8320);
/// By that of Castagnoli.
pub(super) const CASTAGNOLI: Table = table(0x82f6_3b78);

const fn table(polynomial: u32) -> Table {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = sum >> 1 ^ if sum & 1 != 0 { polynomial } else { 0 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

/// What the sum becomes with `bits` more of a value.
pub(super) fn sum(table: &Table, bits: u8, value: u64, seed: u32) -> u32 {
    let bytes = value.to_le_bytes();
    bytes[..usize::from(bits / 8)].iter().fold(seed, |sum, byte| sum >> 8 ^ table[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_nine_digits_are_those_that_everybody_knows() {
        let of = |table| !b"123456789".iter().fold(!0, |seed, byte| sum(table, 8, u64::from(*byte), seed));
        assert_eq!(of(&ISO), 0xcbf4_3926);
        assert_eq!(of(&CASTAGNOLI), 0xe306_9283);
        let whole = sum(&ISO, 64, 0x0807_0605_0403_0201, 7);
        assert_eq!(whole, (1..9).fold(7, |seed, byte| sum(&ISO, 8, byte, seed)));
    }
}
