//! Patterns of paths: `*` and `?` within a name, `**` for any number of names. What lies below a match matches.

use std::fmt;
use std::str::FromStr;

use model::ParseError;

/// A pattern of absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    names: Vec<Vec<u8>>,
}

impl Glob {
    /// Whether that path (without a leading slash), or a directory on the way to it, matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = path.split(|it| *it == b'/').collect();
        matches_names(&self.names, &names)
    }
}

fn matches_names(pattern: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match (pattern.split_first(), names.split_first()) {
        (None, _) => true,
        (Some((first, rest)), _) if first == b"**" => {
            (0..=names.len()).any(|skipped| matches_names(rest, names.get(skipped..).unwrap_or_default()))
        }
        (Some(_), None) => false,
        (Some((first, rest)), Some((name, further))) => matches_name(first, name) && matches_names(rest, further),
    }
}

/// Without backtracking further than to the last star, so that no pattern takes more than quadratic time.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(it) if *it == b'?' || Some(it) == name.get(seen) => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((before, covered)) = star else { return false };
                star = Some((before, covered + 1));
                at = before + 1;
                seen = covered + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|it| *it == b'*')
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Glob {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let names: Vec<_> = text.split('/').filter(|it| !it.is_empty()).map(|it| it.as_bytes().to_vec()).collect();
        if !text.starts_with('/') || names.is_empty() || names.len() > 64 {
            return Err(ParseError::new(
                "pattern",
                text,
                "an absolute path, in which * and ? stand for letters, ** for names",
            ));
        }
        Ok(Self { text: text.to_owned(), names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths_and_what_is_below() {
        let check = |pattern: &str, path: &str, expected: bool| {
            let glob: Glob = pattern.parse().unwrap();
            assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} {path}");
        };
        check("/usr/share/x", "usr/share/x", true);
        check("/usr/share/x", "usr/share/x/y/z", true);
        check("/usr/share/x", "usr/share/xy", false);
        check("/usr/*/x", "usr/share/x", true);
        check("/usr/*/x", "usr/a/b/x", false);
        check("/usr/**/*.conf", "usr/a/b/x.conf", true);
        check("/**/x", "x", true);
        check("/a?c*e", "abcde", true);
        check("/a?c*e", "abcd", false);
        for wrong in ["", "/", "usr"] {
            assert!(wrong.parse::<Glob>().is_err(), "{wrong}");
        }
    }
}
