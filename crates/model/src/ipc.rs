//! With whom a cell's programs exchange messages and share memory.

use std::fmt;
use std::str::FromStr;

use crate::name::CellName;
use crate::parse::{ParseError, serde_as_text};

/// The value of `--ipc`: whose message queues, semaphores and shared memory a cell's programs see. Joining takes the
/// consent of the cell that is joined, given when that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ipc {
    /// Its own, and nobody else sees them.
    #[default]
    Private,
    /// Its own, and other cells of the same user may join.
    Shareable,
    /// Those of the cell of that name, which must run when this one starts.
    Cell(CellName),
}

impl Ipc {
    /// Whether nobody else has part in it, as in most cells.
    pub fn is_private(&self) -> bool {
        *self == Self::Private
    }
}

impl fmt::Display for Ipc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.pad("private"),
            Self::Shareable => f.pad("shareable"),
            Self::Cell(name) => write!(f, "cell:{name}"),
        }
    }
}

impl FromStr for Ipc {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("ipc setting", text, "private, shareable, or cell:NAME of a running cell");
        match text {
            "private" => Ok(Self::Private),
            "shareable" => Ok(Self::Shareable),
            _ => {
                let name = text.strip_prefix("cell:").ok_or_else(wrong)?;
                name.parse().map(Self::Cell).map_err(|_| wrong())
            }
        }
    }
}

serde_as_text!(Ipc);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        for text in ["private", "shareable", "cell:web"] {
            assert_eq!(text.parse::<Ipc>().unwrap().to_string(), text);
        }
        for text in ["", "host", "cell:", "cell", "cell:a/b", "container:web", "Private"] {
            assert!(text.parse::<Ipc>().is_err(), "{text}");
        }
    }
}
