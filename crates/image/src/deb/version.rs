//! The order of Debian's package versions.
//!
//! Debian Policy 5.6.12: `[epoch:]upstream[-revision]`, compared epoch first, then upstream, then revision; each of the
//! last two is read as an alternation of non-digits (compared by letter, `~` before the end of the text, letters before
//! the rest) and numbers (compared by value, of any length).

use std::cmp::Ordering;

/// Compares two versions as `dpkg --compare-versions` does. Total: text that is no version still has its place.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (a_epoch, a_rest) = split_epoch(a);
    let (b_epoch, b_rest) = split_epoch(b);
    let (a_upstream, a_revision) = split_revision(a_rest);
    let (b_upstream, b_revision) = split_revision(b_rest);
    compare_numbers(a_epoch.as_bytes(), b_epoch.as_bytes())
        .then_with(|| compare_part(a_upstream.as_bytes(), b_upstream.as_bytes()))
        .then_with(|| compare_part(a_revision.as_bytes(), b_revision.as_bytes()))
}

fn split_epoch(version: &str) -> (&str, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) if epoch.bytes().all(|b| b.is_ascii_digit()) => (epoch, rest),
        _ => ("", version),
    }
}

/// A version without a revision compares as one with revision `0`, which compares as an empty one.
fn split_revision(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !(a.is_empty() && b.is_empty()) {
        let (a_text, a_rest) = split_while(a, |byte| !byte.is_ascii_digit());
        let (b_text, b_rest) = split_while(b, |byte| !byte.is_ascii_digit());
        let (a_number, a_rest) = split_while(a_rest, |byte| byte.is_ascii_digit());
        let (b_number, b_rest) = split_while(b_rest, |byte| byte.is_ascii_digit());
        let order = compare_text(a_text, b_text).then_with(|| compare_numbers(a_number, b_number));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
    Ordering::Equal
}

fn split_while(text: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| !belongs(byte)).unwrap_or(text.len());
    text.split_at(end)
}

fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    };
    (0..a.len().max(b.len()))
        .map(|i| weight(a.get(i)).cmp(&weight(b.get(i))))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or(Ordering::Equal)
}

/// Numbers of any length: without leading zeros the longer one is the larger.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let (_, a) = split_while(a, |byte| byte == b'0');
    let (_, b) = split_while(b, |byte| byte == b'0');
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_policy_says() {
        let check = |a: &str, order: Ordering, b: &str| {
            assert_eq!(compare(a, b), order, "{a} {b}");
            assert_eq!(compare(b, a), order.reverse(), "{b} {a}");
        };
        use Ordering::{Equal, Greater, Less};
        check("1.0", Equal, "1.0-0");
        check("1.0", Equal, "0:1.0");
        check("1.2.3", Less, "1.2.10");
        check("1.0~rc1", Less, "1.0");
        check("1.0~~", Less, "1.0~");
        check("1.0~rc1-1", Less, "1.0-1~bpo1");
        check("1:0.1", Greater, "9.9");
        check("1.0a", Greater, "1.0");
        check("1.0+b1", Greater, "1.0a");
        check("007", Equal, "7");
        check("1.22.1-9+deb12u1", Greater, "1.22.1-9");
        check("2.36-9+deb12u10", Greater, "2.36-9+deb12u9");
        check("99999999999999999999999999", Greater, "99999999999999999999999998");
        check("1-2-3", Less, "1-2-4");
        check("", Less, "1");
        check("", Greater, "~");
    }

    proptest::proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a-c~+.:-]{0,10}", b in "[0-9a-c~+.:-]{0,10}", c in "[0-9a-c~+.:-]{0,10}") {
            proptest::prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                proptest::prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
