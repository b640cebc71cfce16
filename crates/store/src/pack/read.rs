//! Reading packs, and saving what can be saved from damaged ones.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use model::ObjectId;
use zstd::bulk::Decompressor;

use super::{
    Codec, END_MAGIC, FRAME_HEADER, Footer, FrameInfo, HEADER, Location, MAX_FOOTER, MAX_FRAME, PACK_MAGIC, PackNumber,
    TRAILER, VERSION, check_of, file_name, split_table,
};
use crate::codec::{Decoder, Malformed};
use crate::error::{Context, Error, Result};
use crate::object::Kind;

/// A pack open for reading. Reading needs no lock: a pack never changes, and stays readable when it is unlinked.
#[derive(Debug)]
pub(crate) struct PackFile {
    file: File,
    path: PathBuf,
}

/// Whether the records of a frame are checked against their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordCheck {
    /// Hash each.
    Ids,
    /// Trust the frame's own check.
    FrameOnly,
}

impl PackFile {
    pub(crate) fn open(packs: &Path, number: PackNumber) -> Result<Self> {
        let path = packs.join(file_name(number));
        let file = File::open(&path).context("open", &path)?;
        Ok(Self { file, path })
    }

    fn damaged(&self, why: impl Into<String>) -> Error {
        Error::damaged(self.path.display().to_string(), why)
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(format!("it ends before byte {}", offset + length as u64)))
            }
            Err(error) => Err(error).context("read", &self.path),
        }
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.file.metadata().map(|it| it.len()).context("inspect", &self.path)
    }

    /// The footer, checked against the trailer.
    pub(crate) fn footer(&self) -> Result<Footer> {
        let size = self.size()?;
        if size < (HEADER + TRAILER) as u64 {
            return Err(self.damaged("it is shorter than a header and a trailer"));
        }
        let header = self.read_at(0, HEADER)?;
        parse_header(&header).map_err(|why| self.damaged(why))?;
        let end = size - TRAILER as u64;
        let trailer = self.read_at(end, TRAILER)?;
        let Trailer { offset, length, counts, hash } = parse_trailer(&trailer).map_err(|why| self.damaged(why))?;
        if offset.checked_add(length) != Some(end) || length > MAX_FOOTER {
            return Err(self.damaged("the trailer does not fit the file"));
        }
        let bytes = self.read_at(offset, length as usize)?;
        if *footer_hash(&header, &bytes).as_bytes() != hash {
            return Err(self.damaged("the footer does not have its hash"));
        }
        let footer = Footer::decode(&bytes).map_err(|why| self.damaged(why))?;
        if footer.end() != offset || (footer.frames.len() as u64, footer.totals().0) != counts {
            return Err(self.damaged("the trailer does not fit the footer"));
        }
        Ok(footer)
    }

    /// The raw bytes of the frame at `offset`, whose payload is `stored` bytes long.
    pub(crate) fn frame(&self, offset: u32, stored: u32) -> Result<Vec<u8>> {
        if stored as usize > MAX_FRAME {
            return Err(self.damaged("a frame of an impossible size"));
        }
        let bytes = self.read_at(offset.into(), FRAME_HEADER + stored as usize)?;
        let (header, payload) = bytes.split_at(FRAME_HEADER);
        let at = |why: Malformed| self.damaged(format!("at byte {offset}: {why}"));
        let info = FrameInfo::parse_header(header).map_err(at)?;
        if info.stored != stored {
            return Err(at("a frame of another size than the index says"));
        }
        unpack(&info, payload).map_err(at)
    }

    /// Checks everything in it. Returns the footer and what is wrong, record by record.
    pub(crate) fn verify(&self, check: RecordCheck) -> Result<(Footer, Vec<(ObjectId, String)>)> {
        let footer = self.footer()?;
        let mut wrong = Vec::new();
        let mut at = HEADER as u64;
        for (info, records) in &footer.frames {
            let frame = u32::try_from(at).map_err(|_| self.damaged("it is too long")).and_then(|offset| {
                let raw = self.frame(offset, info.stored)?;
                if raw.len() == info.raw as usize { Ok(raw) } else { Err(self.damaged("a frame of a wrong length")) }
            });
            at += FRAME_HEADER as u64 + u64::from(info.stored);
            let split = frame.and_then(|raw| match split_table(&raw) {
                Err(why) => Err(self.damaged(why)),
                Ok(found) => {
                    let same = found.len() == records.len()
                        && found.iter().zip(records).all(|((kind, bytes), record)| {
                            *kind == record.kind
                                && bytes.len() == record.length as usize
                                && (check == RecordCheck::FrameOnly || kind.id_of(bytes) == record.id)
                        });
                    if same { Ok(()) } else { Err(self.damaged("a frame does not hold what the footer says")) }
                }
            });
            if let Err(error) = split {
                wrong.extend(records.iter().map(|record| (record.id, error.to_string())));
            }
        }
        Ok((footer, wrong))
    }
}

/// One record of a frame's raw bytes, checked against its id.
pub(crate) fn record(raw: &[u8], location: &Location, id: &ObjectId) -> Result<std::ops::Range<usize>, Malformed> {
    let start = location.offset as usize;
    let range = start..start.saturating_add(location.length as usize);
    let bytes = raw.get(range.clone()).ok_or("the index points outside of a frame")?;
    if location.kind.id_of(bytes) == *id { Ok(range) } else { Err("the index points at something else") }
}

pub(super) fn footer_hash(header: &[u8], footer: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(footer);
    hasher.finalize()
}

fn parse_header(bytes: &[u8]) -> Result<(), Malformed> {
    let mut decoder = Decoder::new(bytes);
    if decoder.array::<8>()? != PACK_MAGIC {
        return Err("it does not begin as a pack");
    }
    if decoder.u32()? == VERSION { Ok(()) } else { Err("a pack of an unknown version") }
}

struct Trailer {
    offset: u64,
    length: u64,
    /// Frames and records.
    counts: (u64, u64),
    hash: [u8; 32],
}

fn parse_trailer(bytes: &[u8]) -> Result<Trailer, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let (offset, length) = (decoder.u64()?, decoder.u64()?);
    let counts = (decoder.u32()?.into(), decoder.u32()?.into());
    let hash = decoder.array()?;
    if decoder.array::<8>()? != END_MAGIC {
        return Err("it does not end as a pack");
    }
    Ok(Trailer { offset, length, counts, hash })
}

fn unpack(info: &FrameInfo, payload: &[u8]) -> Result<Vec<u8>, Malformed> {
    if check_of(payload) != info.check {
        return Err("a frame does not have its check");
    }
    let raw = match info.codec {
        Codec::Raw => payload.to_vec(),
        Codec::Zstd => decompress(payload, info.raw as usize).map_err(|_| "a frame does not decompress")?,
    };
    if raw.len() == info.raw as usize { Ok(raw) } else { Err("a frame of a wrong length") }
}

/// A context is larger than what an allocator keeps at hand: a new one for each frame costs a twentieth of the time.
fn decompress(payload: &[u8], size: usize) -> std::io::Result<Vec<u8>> {
    thread_local! {
        static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) => context.decompress(payload, size),
        None => context.insert(Decompressor::new()?).decompress(payload, size),
    })
}

/// Everything in a damaged pack that is still whole: frames are looked for by their magic, without the footer.
/// Ids are computed, so each object is what it says.
pub(crate) fn salvage(path: &Path, mut found: impl FnMut(ObjectId, Kind, &[u8]) -> Result<()>) -> Result<()> {
    let bytes = std::fs::read(path).context("read", path)?;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= FRAME_HEADER) {
        match whole_frame(rest) {
            Some((raw, length)) => {
                for (kind, record) in split_table(&raw).unwrap_or_default() {
                    found(kind.id_of(record), kind, record)?;
                }
                at += length;
            }
            None => at += 1,
        }
    }
    Ok(())
}

fn whole_frame(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    if !bytes.starts_with(&super::FRAME_MAGIC) {
        return None;
    }
    let (header, rest) = bytes.split_at_checked(FRAME_HEADER)?;
    let info = FrameInfo::parse_header(header).ok()?;
    let payload = rest.get(..info.stored as usize)?;
    unpack(&info, payload).ok().map(|raw| (raw, FRAME_HEADER + payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use crate::pack::PackWriter;

    /// A small pack with both kinds of frames, and its path.
    fn small_pack(dir: &Path) -> PathBuf {
        let mut writer = PackWriter::new(dir.to_owned(), dir.to_owned(), 1).unwrap();
        for bytes in [&b"compressible ".repeat(20)[..], b"one", b"two"] {
            writer.add(Kind::Chunk.id_of(bytes), Kind::Chunk, bytes).unwrap();
        }
        writer.add(Kind::List.id_of(b"list"), Kind::List, b"list").unwrap();
        assert_eq!(writer.finish().unwrap().len(), 1);
        dir.join(file_name(1))
    }

    #[test]
    fn no_single_bit_can_turn_unseen() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = small_pack(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let verify = || PackFile::open(dir.path(), 1).and_then(|pack| pack.verify(RecordCheck::Ids));
        assert!(verify().unwrap().1.is_empty());
        std::fs::remove_file(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &broken).unwrap();
            let seen = verify().map_or(true, |(_, wrong)| !wrong.is_empty());
            assert!(seen, "bit {bit} of {}", whole.len() * 8);
        }
    }

    #[test]
    fn every_cut_is_seen_and_whole_frames_before_it_are_saved() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = small_pack(dir.path());
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut saved_before = 0;
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(PackFile::open(dir.path(), 1).and_then(|pack| pack.footer()).is_err(), "cut to {length}");
            let mut saved = 0;
            salvage(&path, |id, kind, bytes| {
                assert_eq!(kind.id_of(bytes), id);
                saved += 1;
                Ok(())
            })
            .unwrap();
            assert!(saved >= saved_before);
            saved_before = saved;
        }
        assert_eq!(saved_before, 4);
    }
}
