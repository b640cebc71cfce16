//! Seekable layers: tars in gzip like any other, of which single files can be had without the rest.
//!
//! The form is eStargz (`docs/estargz.md` of stargz-snapshotter). The payload of each file is a gzip member of its own, or
//! several, one for each chunk; the last entry of the tar is a table of contents in JSON; behind it stands a footer, an empty
//! member that says where the table begins. The manifest carries the table's digest, the table carries each chunk's: **so
//! from a manifest that is trusted follows every byte, and nothing else of a layer is believed.**
//!
//! [`pack`] writes such layers, [`toc`] reads the table, [`remote`] makes a tree of an image whose layers stay where they
//! are, and [`fetch`] brings its contents. Absent on purpose: the order in which files were used, which the form has room for.

pub(crate) mod decode;
pub(crate) mod fetch;
pub(crate) mod pack;
pub(crate) mod remote;
pub(crate) mod toc;

/// The annotation of a layer with the digest of its table of contents.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The table of contents, as a file of the layer.
pub(crate) const TOC_NAME: &[u8] = b"stargz.index.json";
/// A file which says that there is nothing to fetch before everything else.
const NO_PREFETCH: &[u8] = b".no.prefetch.landmark";
/// A file behind those that are to be fetched before everything else.
const PREFETCH: &[u8] = b".prefetch.landmark";
/// What is in either.
const LANDMARK: &[u8] = &[0xf];

/// Bytes of a footer.
pub(crate) const FOOTER: usize = 51;
/// A gzip header whose flags announce an extra field, and that field up to the number: its length, its name, and the
/// length of what it holds.
const FOOTER_HEAD: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
const FOOTER_WORD: &[u8] = b"STARGZ";
/// No data in a last, stored block; its checksum and its size.
const FOOTER_TAIL: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];

/// The footer of a layer whose table of contents begins at that offset.
pub(crate) fn footer(toc: u64) -> Vec<u8> {
    [&FOOTER_HEAD[..], format!("{toc:016x}").as_bytes(), FOOTER_WORD, &FOOTER_TAIL].concat()
}

/// Where the table of contents begins, told by the last bytes of a layer. Times and names of systems in the header differ
/// from writer to writer.
pub(crate) fn toc_offset(footer: &[u8]) -> Option<u64> {
    let footer = footer.last_chunk::<FOOTER>()?;
    let (head, rest) = footer.split_at(FOOTER_HEAD.len());
    let (digits, rest) = rest.split_at(16);
    let known = head[..4] == FOOTER_HEAD[..4] && head[10..] == FOOTER_HEAD[10..] && rest.starts_with(FOOTER_WORD);
    let hex = digits.iter().all(u8::is_ascii_hexdigit);
    (known && hex).then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}

/// Whether a file of a seekable layer belongs to its form and not to the image.
pub(crate) fn is_of_the_form(names: &[&[u8]]) -> bool {
    matches!(names, [name] if [TOC_NAME, NO_PREFETCH, PREFETCH].contains(name))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_footer_is_an_empty_member_that_tells_an_offset() {
        for offset in [0, 7, 0x0123_4567_89ab_cdef, u64::MAX] {
            let bytes = footer(offset);
            assert_eq!(bytes.len(), FOOTER);
            assert_eq!(toc_offset(&bytes), Some(offset));
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
            assert!(plain.is_empty());
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = footer(7);
            bytes[at] = byte;
            toc_offset(&bytes)
        };
        // The time and the system of another writer; then what no footer has.
        assert_eq!((with(4, 9), with(9, 3)), (Some(7), Some(7)));
        assert_eq!(
            (with(0, 0), with(12, b'X'), with(20, b'+'), with(33, b'x'), toc_offset(b"short")),
            (None, None, None, None, None)
        );
    }
}
