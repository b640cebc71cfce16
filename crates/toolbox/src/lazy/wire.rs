//! The bytes that go over `/dev/fuse`: the few requests that a directory of nothing gets, and their answers. No I/O.
//!
//! **A request is bytes from outside**, if only from the kernel: what is too short or unknown is refused by its number.
//! Layouts are those of `linux/fuse.h`, protocol 7; all numbers are in the machine's own order.

use sys::Errno;

/// No request of ours is longer: names are at most 255 bytes, and nothing is written.
pub(super) const MAX_REQUEST: usize = 64 << 10;

const HEADER: usize = 40;
const MAJOR: u32 = 7;
/// The newest minor version whose answers are known here.
const MINOR: u32 = 40;
/// Look-ups in one directory need not wait for each other.
const PARALLEL_DIROPS: u32 = 1 << 18;
/// Answers stay right for so many seconds: for ever.
const VALID: u64 = 1 << 30;
const MODE_DIRECTORY: u32 = 0o040_555;

/// What the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Init {
        minor: u32,
    },
    /// What has that name in a directory.
    Lookup {
        directory: u64,
        name: &'a [u8],
    },
    Attributes {
        node: u64,
    },
    Statistics,
    /// Not asked but told: nothing is to be answered.
    Told,
    /// What nobody asks of a file system that only has directories, or does not mind being refused.
    Other,
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    unique: u64,
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads one request; nothing when it is none.
pub(super) fn parse(bytes: &[u8]) -> Option<(Header, Request<'_>)> {
    let (length, operation) = (number32(bytes, 0)? as usize, number32(bytes, 4)?);
    let (unique, node) = (number64(bytes, 8)?, number64(bytes, 16)?);
    let body = bytes.get(HEADER..length)?;
    let request = match operation {
        1 => Request::Lookup { directory: node, name: body.split(|byte| *byte == 0).next()? },
        // FORGET, BATCH_FORGET, DESTROY; INTERRUPT has no answer of its own either.
        2 | 42 | 36 | 38 => Request::Told,
        3 => Request::Attributes { node },
        17 => Request::Statistics,
        26 => Request::Init { minor: number32(body, 4)? },
        _ => Request::Other,
    };
    Some((Header { unique }, request))
}

/// An answer in the making.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    fn begin(header: Header, error: i32) -> Self {
        let mut answer = Self(Vec::with_capacity(160));
        answer.put32(0);
        answer.0.extend_from_slice(&error.to_ne_bytes());
        answer.put64(header.unique);
        answer
    }

    fn put16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn put32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn put64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    /// The bytes, the length put where it belongs.
    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0.iter_mut().zip(length).for_each(|(slot, byte)| *slot = byte);
        self.0
    }

    fn attributes(&mut self, node: u64) {
        // Number, size and blocks; three times; their nanoseconds.
        [node, 0, 0, 0, 0, 0].into_iter().for_each(|it| self.put64(it));
        // Nanoseconds, mode, links, owner, group, device, block size, flags.
        [0, 0, 0, MODE_DIRECTORY, 2, 0, 0, 0, 4096, 0].into_iter().for_each(|it| self.put32(it));
    }

    pub(super) fn error(header: Header, errno: Errno) -> Vec<u8> {
        Self::begin(header, -errno.raw_os_error()).finish()
    }

    pub(super) fn init(header: Header, minor: u32) -> Vec<u8> {
        let mut answer = Self::begin(header, 0);
        // Version, read-ahead, flags.
        [MAJOR, minor.min(MINOR), 0, PARALLEL_DIROPS].into_iter().for_each(|it| answer.put32(it));
        // Requests in the background; congestion.
        answer.put16(16);
        answer.put16(12);
        // The most to be written; granularity of times.
        [4096, 1].into_iter().for_each(|it| answer.put32(it));
        // The rest means nothing here: pages, alignment, more flags, stacking.
        (0..9).for_each(|_| answer.put32(0));
        answer.finish()
    }

    /// A directory, by that number.
    pub(super) fn directory(header: Header, node: u64) -> Vec<u8> {
        let mut answer = Self::begin(header, 0);
        [node, 0, VALID, VALID].into_iter().for_each(|it| answer.put64(it));
        answer.put64(0);
        answer.attributes(node);
        answer.finish()
    }

    /// There is nothing by that name, and never will be.
    pub(super) fn nothing(header: Header) -> Vec<u8> {
        let mut answer = Self::begin(header, 0);
        [0, 0, VALID, 0].into_iter().for_each(|it| answer.put64(it));
        answer.put64(0);
        (0..11).for_each(|_| answer.put64(0));
        answer.finish()
    }

    pub(super) fn attributes_of(header: Header, node: u64) -> Vec<u8> {
        let mut answer = Self::begin(header, 0);
        answer.put64(VALID);
        answer.put64(0);
        answer.attributes(node);
        answer.finish()
    }

    pub(super) fn statistics(header: Header) -> Vec<u8> {
        let mut answer = Self::begin(header, 0);
        (0..5).for_each(|_| answer.put64(0));
        // Block size, length of names, fragment size, padding.
        [4096, 255, 4096, 0].into_iter().for_each(|it| answer.put32(it));
        (0..6).for_each(|_| answer.put32(0));
        answer.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(operation: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = (40 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(operation.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_read() {
        let check = |bytes: &[u8], expected| assert_eq!(parse(bytes).map(|it| it.1), expected);
        check(&request(1, 5, b"ab\0"), Some(Request::Lookup { directory: 5, name: b"ab" }));
        check(&request(3, 9, &[0; 16]), Some(Request::Attributes { node: 9 }));
        check(&request(26, 0, &[7, 0, 0, 0, 45, 0, 0, 0]), Some(Request::Init { minor: 45 }));
        check(&request(26, 0, &[7, 0, 0]), None);
        check(&request(2, 9, &[0; 8]), Some(Request::Told));
        check(&request(14, 9, &[0; 8]), Some(Request::Other));
        check(&request(1, 5, b"ab\0")[..41], None);
        check(b"", None);
    }

    /// The kernel refuses an answer of another length.
    #[test]
    fn answers_are_as_long_as_the_kernel_expects() {
        let header = Header { unique: 7 };
        let check = |bytes: Vec<u8>, length: usize| {
            assert_eq!(bytes.len(), 16 + length);
            assert_eq!(number32(&bytes, 0), Some(bytes.len() as u32));
            assert_eq!(number64(&bytes, 8), Some(7));
        };
        check(Answer::init(header, 45), 64);
        check(Answer::directory(header, 2), 128);
        check(Answer::nothing(header), 128);
        check(Answer::attributes_of(header, 1), 104);
        check(Answer::statistics(header), 80);
        check(Answer::error(header, Errno::IO), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
