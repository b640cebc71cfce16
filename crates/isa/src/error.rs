//! What is wrong with a description: a place in it, and a sentence.

use std::fmt;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// A byte of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Which source, counted from 0.
    pub source: u32,
    /// Which byte of it.
    pub offset: u32,
}

/// A mistake in a description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Where it is.
    pub place: Place,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
}

impl Error {
    /// A mistake at `place`.
    pub fn at(place: Place, message: impl Into<String>) -> Error {
        Error { place, message: message.into() }
    }
}

/// One file of a description.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, as errors give it.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl Source {
    /// All sources of a folder: its files of the extension `isa`, by name.
    pub fn all_in(folder: &std::path::Path) -> std::io::Result<Vec<Source>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.retain(|it| it.extension().is_some_and(|it| it == "isa"));
        files.sort();
        let source = |file: &std::path::PathBuf| {
            Ok(Source { name: file.display().to_string(), text: std::fs::read_to_string(file)? })
        };
        files.iter().map(source).collect()
    }
}

/// An error with its file, line and column, as an editor jumps to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Located {
    /// The file.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl Error {
    /// Finds the line and the column.
    pub fn locate(self, sources: &[Source]) -> Located {
        let Some(source) = sources.get(self.place.source as usize) else {
            return Located { file: "description".into(), line: 1, column: 1, message: self.message };
        };
        let before = &source.text[..source.text.floor_char_boundary(self.place.offset as usize)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Located {
            file: source.name.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: self.message,
        }
    }
}
