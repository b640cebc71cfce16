//! PAX extended headers: `LENGTH KEY=VALUE\n` records that override a header's fields.

use crate::{Error, Result};

/// What records said about the next entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseKeys,
}

/// The GNU extension's records, in the three versions of the format.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparseKeys {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    /// Offsets and lengths, alternating.
    pub(crate) map: Vec<u64>,
}

impl Pax {
    /// Adds the records of one extended header. A later record overrides an earlier one; an empty value removes it.
    pub(crate) fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            let (record, rest) =
                split_record(records).ok_or_else(|| Error::malformed("tar", "a damaged PAX record"))?;
            records = rest;
            let equals = record.iter().position(|&byte| byte == b'=');
            let (key, value) = equals
                .and_then(|at| Some((record.get(..at)?, record.get(at + 1..)?)))
                .ok_or_else(|| Error::malformed("tar", "a PAX record without '='"))?;
            self.apply(key, value)?;
        }
        Ok(())
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if matches!(key, b"path" | b"linkpath" | b"GNU.sparse.name") && value.contains(&0) {
            return Err(Error::malformed("tar", "a PAX path holds a zero byte"));
        }
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = optional(value)?,
            b"uid" => self.uid = optional(value)?,
            b"gid" => self.gid = optional(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.major" => self.sparse.major = optional(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = optional(value)?,
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.size = optional(value)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                self.sparse.map = value.split(|&byte| byte == b',').map(decimal).collect::<Result<_>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The first record without its length and line end, and what follows it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = records.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(records.get(..space)?).ok()?).ok()?;
    let record = records.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, records.get(length..)?))
}

/// One record as text, its own length included in the length it begins with.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn optional(value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() { Ok(None) } else { decimal(value).map(Some) }
}

pub(crate) fn decimal(text: &[u8]) -> Result<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let value = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    value.ok_or_else(|| Error::malformed("tar", "a PAX number is none, negative or too large"))
}

/// `-12.75`: seconds with a fraction. The fraction counts upward, as in a `timespec`.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let wrong = || Error::malformed("tar", "a PAX time cannot be read");
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let padded: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = padded.parse().map_err(|_| wrong())?;
    if whole.starts_with('-') && nanos > 0 {
        Ok((seconds.checked_sub(1).ok_or_else(wrong)?, 1_000_000_000 - nanos))
    } else {
        Ok((seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let text = [
            record(b"path", b"a/b"),
            record(b"uid", b"7"),
            record(b"mtime", b"-1.25"),
            record(b"size", b"99999999999"),
        ]
        .concat();
        let mut pax = Pax::default();
        pax.read(&text).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!((pax.uid, pax.size), (Some(7), Some(99_999_999_999)));
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
    }

    #[test]
    fn damaged_records_are_refused() {
        for wrong in [
            "5 a=b",
            "6 a=b\n\n7",
            "3 \n",
            "99 a=b\n",
            "x a=b\n",
            "-6 a=b\n",
            "7 ab c\n",
            "11 size=-1\n",
            "12 path=a\0b\n",
        ] {
            assert!(Pax::default().read(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_record_tells_its_own_length(value in proptest::collection::vec(1u8..255, 0..200)) {
            let text = record(b"SCHILY.xattr.user.x", &value);
            let mut pax = Pax::default();
            pax.read(&text).unwrap();
            proptest::prop_assert_eq!(&pax.xattrs[0].1, &value);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(0u8..255, 0..100)) {
            let _ = Pax::default().read(&bytes);
        }
    }
}
