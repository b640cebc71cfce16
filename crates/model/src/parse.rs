//! The one error of reading text: what was read, what it should have looked like.

use std::fmt;

/// Text that does not have the form its place asks for. `expected` completes the sentence "expected …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    what: &'static str,
    text: String,
    expected: String,
}

impl ParseError {
    /// `what` names the kind of thing ("memory size"), `text` is what was given, `expected` the form with an example.
    pub fn new(what: &'static str, text: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { what, text: text.into(), expected: expected.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let article = if self.what.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
        write!(f, "'{}' is not {article} {}: expected {}", self.text.escape_debug(), self.what, self.expected)
    }
}

impl std::error::Error for ParseError {}

/// Implements serde by way of `Display` and `FromStr`, so that a type has one spelling in files, flags and output.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
