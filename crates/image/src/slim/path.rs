//! Paths of a tree as readable text, whatever bytes they hold.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path from the root of a tree, without the leading slash. As text it has one, and bytes that are no UTF-8, control
/// characters and backslashes are escaped, so that **each path has one text and each text one path**.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// The path, with or without a leading slash.
    pub fn new(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|it| *it != b'/').unwrap_or(bytes.len());
        Self(bytes.get(start..).unwrap_or_default().to_vec())
    }

    /// Its bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of the directory that it lies in.
    pub fn parent(&self) -> &[u8] {
        self.0.iter().rposition(|it| *it == b'/').map_or(&[], |at| &self.0[..at])
    }

    /// The path of what has that name in the directory that this one leads to.
    pub fn entry(&self, name: &[u8]) -> Self {
        if self.0.is_empty() { Self(name.to_vec()) } else { Self([&self.0, &b"/"[..], name].concat()) }
    }

    /// Its last name.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|it| *it == b'/').next().unwrap_or_default()
    }
}

impl AsRef<[u8]> for TreePath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/")?;
        for piece in self.0.utf8_chunks() {
            for letter in piece.valid().chars() {
                match letter {
                    '\\' => f.write_str("\\\\")?,
                    plain if !plain.is_control() => write!(f, "{plain}")?,
                    control => {
                        let mut bytes = [0; 4];
                        control.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
                    }
                }
            }
            piece.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = after;
        } else {
            let digits = std::str::from_utf8(rest.strip_prefix(b"x")?.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = rest.get(3..)?;
        }
    }
    Some(bytes)
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text).ok_or_else(|| serde::de::Error::custom("a path that is not escaped rightly"))?;
        Ok(Self::new(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_parents_and_names() {
        let path = TreePath::new(b"//usr/lib/x");
        assert_eq!((path.parent(), path.name(), path.to_string().as_str()), (&b"usr/lib"[..], &b"x"[..], "/usr/lib/x"));
        assert_eq!(TreePath::new(b"x").parent(), b"");
        assert_eq!(TreePath::new(b"a\xff\n\\").to_string(), "/a\\xff\\x0a\\\\");
    }

    proptest::proptest! {
        #[test]
        fn any_path_comes_back_from_its_text(bytes in proptest::collection::vec(1u8..=255, 0..40)) {
            let path = TreePath::new(&bytes);
            let text = serde_json::to_string(&path).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<TreePath>(&text).unwrap(), path);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = unescape(&text);
        }
    }
}
