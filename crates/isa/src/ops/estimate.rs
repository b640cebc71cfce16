//! Estimates to nine bits, as architectures prescribe them: exact in what they give, not in what they estimate.

/// 1/a of a number from 256 to 511, which stands for 0.5 to 1: from 256 to 511, standing for 1 to 2.
pub(super) fn reciprocal_of(a: u32) -> u32 {
    let a = a * 2 + 1;
    let b = (1 << 19) / a;
    b.div_ceil(2)
}

/// 1/sqrt(a) of a number from 128 to 511, which stands for 0.25 to 1: from 256 to 511, standing for 1 to 2.
pub(super) fn root_of(a: u32) -> u32 {
    let a = if a < 256 { a * 2 + 1 } else { ((a >> 1 << 1) + 1) * 2 };
    let mut b = 512;
    while a * (b + 1) * (b + 1) < 1 << 28 {
        b += 1;
    }
    b.div_ceil(2)
}

/// Of a fraction of 32 bits; all ones if it is less than a half.
pub(super) fn reciprocal(a: u32) -> u32 {
    if a >> 31 == 0 { u32::MAX } else { reciprocal_of(a >> 23) << 23 }
}

/// Of a fraction of 32 bits; all ones if it is less than a quarter.
pub(super) fn root(a: u32) -> u32 {
    if a >> 30 == 0 { u32::MAX } else { root_of(a >> 23) << 23 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_close() {
        for a in 256..512 {
            let product = a * reciprocal_of(a);
            assert!(product.abs_diff(256 * 512) <= 512, "{a}: {product}");
        }
        for a in 128..512 {
            let (exact, found) = (1.0 / (f64::from(a) / 512.0).sqrt(), f64::from(root_of(a)) / 256.0);
            assert!((exact - found).abs() < 1.0 / 128.0, "{a}: {found}, not {exact}");
        }
    }
}
