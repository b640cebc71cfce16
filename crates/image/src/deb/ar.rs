//! The `.deb` file: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! deb(5). Members are met in that order; each is handed out as a stream, decompressed by its name's ending.

use std::io::{BufReader, Read, Take};

use crate::{Error, Result};

/// The package's own description, small enough for memory: 16 MiB of files at most.
const MAX_CONTROL: u64 = 16 << 20;

/// Reads a package member by member.
pub(crate) struct Deb<R> {
    source: R,
    /// Bytes of the current member and its padding that were not read.
    left: u64,
}

/// A member's name and its decompressed content.
pub(crate) struct Member<'a> {
    pub(crate) name: String,
    pub(crate) content: Box<dyn Read + 'a>,
}

impl<R: Read> Deb<R> {
    /// Checks the archive's magic and the format's version.
    pub(crate) fn open(mut source: R) -> Result<Self> {
        let mut magic = [0; 8];
        source.read_exact(&mut magic).map_err(|error| Error::read("Debian package", error))?;
        if &magic != b"!<arch>\n" {
            return Err(Error::malformed("Debian package", "it is no ar archive"));
        }
        let mut deb = Self { source, left: 0 };
        let mut version = String::new();
        let member = deb.next()?.filter(|member| member.name == "debian-binary");
        let mut member =
            member.ok_or_else(|| Error::malformed("Debian package", "it does not begin with its version"))?;
        (&mut member.content).take(16).read_to_string(&mut version).map_err(|e| Error::read("Debian package", e))?;
        drop(member);
        if !version.starts_with("2.") {
            return Err(Error::malformed("Debian package", format!("format version {:?}", version.trim())));
        }
        Ok(deb)
    }

    /// The next member, or nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Member<'_>>> {
        let skipped = std::io::copy(&mut (&mut self.source).take(self.left), &mut std::io::sink())
            .map_err(|error| Error::read("Debian package", error))?;
        if skipped < self.left.saturating_sub(1) {
            return Err(Error::malformed("Debian package", "it ends too early"));
        }
        let mut header = [0; 60];
        let mut filled = 0;
        while let Some(room) = header.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.source.read(room).map_err(|error| Error::read("Debian package", error))? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(Error::malformed("Debian package", "it ends in the middle of a member's header")),
                count => filled += count,
            }
        }
        let text = |range: std::ops::Range<usize>| {
            std::str::from_utf8(header.get(range).unwrap_or(&[])).map(str::trim_end).unwrap_or_default()
        };
        let size: u64 =
            text(48..58).parse().map_err(|_| Error::malformed("Debian package", "a member without size"))?;
        if !header.ends_with(b"`\n") {
            return Err(Error::malformed("Debian package", "a damaged member header"));
        }
        let name = text(0..16).trim_end_matches('/').to_owned();
        self.left = size + size % 2;
        let content = MemberReader { source: (&mut self.source).take(size), left: &mut self.left };
        let content = decompressor(&name, content)?;
        Ok(Some(Member { name, content }))
    }
}

/// Counts what was read, so that the rest can be skipped.
struct MemberReader<'a, R> {
    source: Take<&'a mut R>,
    left: &'a mut u64,
}

impl<R: Read> Read for MemberReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        if count == 0 && self.source.limit() > 0 && !buffer.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        *self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

fn decompressor<'a>(name: &str, content: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let content = BufReader::with_capacity(64 << 10, content);
    match name.rsplit('.').next() {
        Some("xz") => Ok(Box::new(liblzma::read::XzDecoder::new(content))),
        Some("gz") => Ok(Box::new(flate2::read::MultiGzDecoder::new(content))),
        Some("zst") => {
            let decoder = zstd::Decoder::with_buffer(content).map_err(|error| Error::read("Debian package", error))?;
            Ok(Box::new(decoder))
        }
        Some("bz2" | "lzma") => Err(Error::Unsupported {
            what: format!("package member {name}"),
            why: "its compression is one that Debian stopped using".to_owned(),
        }),
        _ => Ok(Box::new(content)),
    }
}

/// Reads a member into memory, when it is small.
pub(crate) fn read_small(content: impl Read, what: &'static str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(MAX_CONTROL + 1).read_to_end(&mut bytes).map_err(|error| Error::read(what, error))?;
    if bytes.len() as u64 > MAX_CONTROL {
        return Err(Error::limit("bytes of a package's control files", MAX_CONTROL));
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ar archive of those members.
    pub(crate) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, content) in members {
            out.extend_from_slice(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
            );
            out.extend_from_slice(content);
            if content.len() % 2 == 1 {
                out.push(b'\n');
            }
        }
        out
    }

    fn names(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut deb = Deb::open(bytes)?;
        let mut found = Vec::new();
        while let Some(member) = deb.next()? {
            let name = member.name.clone();
            // Every second member is skipped, to see that skipping finds the next one.
            let content = if found.len() % 2 == 0 { read_small(member.content, "test")? } else { Vec::new() };
            found.push((name, content));
        }
        Ok(found)
    }

    #[test]
    fn members_are_found_read_or_not() {
        let bytes = archive(&[("debian-binary", b"2.0\n"), ("a", b"odd"), ("b/", b"even"), ("c", b"!")]);
        let expected =
            [("a".to_owned(), b"odd".to_vec()), ("b".to_owned(), Vec::new()), ("c".to_owned(), b"!".to_vec())];
        assert_eq!(names(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let good = archive(&[("debian-binary", b"2.0\n"), ("data.tar.xz", b"not xz")]);
        assert!(names(&good).is_err(), "xz must fail");
        assert!(names(b"!<arch>\n").is_err());
        assert!(names(b"PK\x03\x04....").is_err());
        assert!(names(&archive(&[("debian-binary", b"3.0\n")])).is_err());
        for end in 9..good.len() - 6 {
            assert!(names(&good[..end]).is_err() || end == 72, "cut at {end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(tail in proptest::collection::vec(0u8..255, 0..200)) {
            let _ = names(&[b"!<arch>\n".as_slice(), &tail].concat());
        }
    }
}
