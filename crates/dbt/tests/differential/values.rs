//! Numbers that are likely to be special.

/// A generator of numbers: xorshift, so that a seed says everything.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// A general register.
    pub(crate) fn general(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(130),
            1 => self.below(130).wrapping_neg(),
            2 => self.of(&[0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 31, (1 << 31) - 1, u32::MAX.into()]),
            3 => 1 << self.below(64),
            4 => self.next() >> self.below(64),
            5 => self.double(),
            _ => self.next(),
        }
    }

    /// A floating-point number of 32 bits.
    pub(crate) fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 1 << 31;
        let fraction = match self.below(4) {
            0 => self.of(&[0, 1, 0x40_0000, 0x7f_ffff, 0x7f_fffe, 0x3f_ffff, 0x40_0001, 2, 0x7f_fffd]),
            1 => self.next() as u32 & 0x7f_ffff & !0xfff,
            _ => self.next() as u32 & 0x7f_ffff,
        };
        let exponent = match self.below(8) {
            0 => self.of(&[0, 255]),
            1 => self.below(30) as u32,
            2 => 225 + self.below(30) as u32,
            // The square root of the least normal number: products are near to it.
            4 if self.below(2) == 0 => 63 + self.below(2) as u32,
            3 => 127 + self.below(66) as u32,
            4 => 90 + self.below(40) as u32,
            _ => 115 + self.below(24) as u32,
        };
        sign | exponent << 23 | fraction
    }

    /// A floating-point number of 64 bits.
    pub(crate) fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        let whole = (1u64 << 52) - 1;
        let fraction = match self.below(4) {
            0 => self.of(&[0, 1, 1 << 51, whole, whole - 1, (1 << 51) - 1, (1 << 51) + 1]),
            1 => self.next() & whole & !0xffff_ffff,
            _ => self.next() & whole,
        };
        let exponent = match self.below(8) {
            0 => self.of(&[0, 2047]),
            1 => self.below(60),
            2 => 1985 + self.below(62),
            4 if self.below(2) == 0 => 511 + self.below(2),
            3 => 1023 + self.below(68),
            4 => 860 + self.below(170),
            _ => 1011 + self.below(24),
        };
        sign | exponent << 52 | fraction
    }

    fn half(&mut self) -> u16 {
        let exponent = self.of(&[0, 1, 2, 10, 14, 15, 16, 20, 29, 30, 31]);
        (self.next() as u16 & 0x83ff) | exponent << 10
    }

    /// One of two numbers, whose product is so little less than the least normal number that it is rounded to it whatever
    /// exponents there are: 1 + n and 1 - n of the last places, times its square root.
    fn factor(&mut self, fraction: u32, exponent: u64) -> u64 {
        let places = 1 + self.below(2);
        match self.below(2) {
            0 => (exponent + 1) << fraction | places,
            _ => exponent << fraction | ((1 << fraction) - 2 * places),
        }
    }

    /// A vector like another one: of lanes of 32 or 64 bits, signs are turned, or the least or the exponent changed a little.
    pub(crate) fn beside(&mut self, vector: u128) -> u128 {
        let lane = if self.below(2) == 0 { 32 } else { 64 };
        let exponent = if lane == 32 { 23 } else { 52 };
        (0..128 / lane).fold(vector, |vector, number| {
            let change = match self.below(6) {
                0 => 1 << (lane - 1),
                1 => self.below(4),
                2 => self.below(4) << exponent,
                3 => 1 << (lane - 1) | self.below(16),
                4 => 1 << (lane - 1) | self.below(4) << exponent | self.below(2),
                _ => 0,
            };
            vector ^ u128::from(change) << (number * lane)
        })
    }

    /// A vector register.
    pub(crate) fn vector(&mut self) -> u128 {
        let mut bytes = [0; 16];
        let kind = self.below(9);
        let is_double = self.below(2) == 0;
        let byte = self.next() as u8;
        for at in 0..16 {
            match kind {
                0 | 1 if at % 4 == 0 => bytes[at..at + 4].copy_from_slice(&self.single().to_le_bytes()),
                2 | 3 if at % 8 == 0 => bytes[at..at + 8].copy_from_slice(&self.double().to_le_bytes()),
                4 => bytes[at] = self.of(&[0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 0x7f, 0x80, 0x81, 0xf8, 0xff, byte]),
                5 if at % 2 == 0 => bytes[at..at + 2].copy_from_slice(&self.half().to_le_bytes()),
                6 => bytes[at] = self.next() as u8,
                8 if is_double && at % 8 == 0 => bytes[at..at + 8].copy_from_slice(&self.factor(52, 511).to_le_bytes()),
                8 if !is_double && at % 4 == 0 => {
                    bytes[at..at + 4].copy_from_slice(&(self.factor(23, 63) as u32).to_le_bytes());
                }
                7 if at % 8 == 0 => bytes[at..at + 8].copy_from_slice(&self.general().to_le_bytes()),
                _ => {}
            }
        }
        u128::from_le_bytes(bytes)
    }
}
