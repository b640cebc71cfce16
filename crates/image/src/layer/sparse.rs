//! Files with holes: which parts of them a tar holds.

use crate::{Error, Result};

/// A part of a file that has content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The parts of a file that have content, in order and apart from each other, within its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SparseMap {
    segments: Vec<Segment>,
}

impl SparseMap {
    /// Checks a map from a tar against the file's size and the bytes that follow in the tar.
    pub(crate) fn new(segments: Vec<Segment>, size: u64, stored: u64) -> Result<Self> {
        let wrong = |why| Err(Error::malformed("tar", format!("a map of holes that {why}")));
        let (mut end, mut content) = (0u64, 0u64);
        for segment in &segments {
            if segment.offset < end {
                return wrong("overlaps itself");
            }
            match segment.offset.checked_add(segment.length) {
                Some(next) if next <= size => end = next,
                _ => return wrong("reaches beyond its file"),
            }
            content += segment.length;
        }
        if content != stored {
            return wrong("does not fit the content");
        }
        Ok(Self { segments })
    }

    /// The segments, empty ones left out.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        self.segments.iter().copied().filter(|segment| segment.length > 0)
    }
}
