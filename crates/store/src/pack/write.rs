//! Writing a pack: objects are grouped into frames, frames appended, and the whole made durable under its name.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use model::ObjectId;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use super::{
    Codec, END_MAGIC, FRAME_HEADER, Footer, FrameInfo, HEADER, PACK_MAGIC, PackNumber, Record, TRAILER, VERSION,
    check_of, file_name, put_table,
};
use crate::durable;
use crate::error::{Context, Result};
use crate::fail::{self, Point};
use crate::object::Kind;

/// A frame is closed when it has that many raw bytes.
const FRAME_FULL: usize = 192 << 10;
/// A frame of several records never has more than that.
const FRAME_MOST: usize = 256 << 10;
/// A pack is finished when it is that long.
const PACK_FULL: u64 = 24 << 20;
/// The zstd level.
const LEVEL: i32 = 3;
/// Logarithms of the entries of zstd's two tables, and its shortest match. The level's own, 17, 16 and 4, have three
/// quarters of a megabyte cleared for each frame and miss the inner caches: with these, cold ingest takes a fifth less time
/// and two percent more space.
const HASH_LOG: u32 = 14;
const CHAIN_LOG: u32 = 13;
const SHORTEST_MATCH: u32 = 5;

/// Records waiting to become a frame.
#[derive(Default)]
struct Group {
    raw: Vec<u8>,
    records: Vec<Record>,
}

/// A pack that is complete and durable.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) number: PackNumber,
    pub(crate) footer: Footer,
    /// Length of the file.
    pub(crate) size: u64,
}

struct OpenPack {
    number: PackNumber,
    file: File,
    path: PathBuf,
    length: u64,
    footer: Footer,
}

/// Writes packs one after another.
pub(crate) struct PackWriter {
    packs: PathBuf,
    tmp: PathBuf,
    next: PackNumber,
    open: Option<OpenPack>,
    data: Group,
    metadata: Group,
    compressor: Compressor<'static>,
    scratch: Vec<u8>,
    sealed: Vec<Sealed>,
}

impl PackWriter {
    /// Packs get numbers from `next` on. The caller holds the writer's lock.
    pub(crate) fn new(packs: PathBuf, tmp: PathBuf, next: PackNumber) -> Result<Self> {
        let mut compressor = Compressor::new(LEVEL).context("set up compression for", &packs)?;
        // The pack's own check covers the payload.
        for parameter in [
            CParameter::ChecksumFlag(false),
            CParameter::HashLog(HASH_LOG),
            CParameter::ChainLog(CHAIN_LOG),
            CParameter::MinMatch(SHORTEST_MATCH),
        ] {
            compressor.set_parameter(parameter).context("set up compression for", &packs)?;
        }
        Ok(Self {
            packs,
            tmp,
            next,
            open: None,
            data: Group::default(),
            metadata: Group::default(),
            compressor,
            scratch: Vec::new(),
            sealed: Vec::new(),
        })
    }

    /// Adds an object that is in no pack yet.
    pub(crate) fn add(&mut self, id: ObjectId, kind: Kind, bytes: &[u8]) -> Result<()> {
        let metadata = kind.is_metadata();
        let group = if metadata { &mut self.metadata } else { &mut self.data };
        if !group.raw.is_empty() && group.raw.len() + bytes.len() > FRAME_MOST {
            self.end_frame(metadata)?;
        }
        let group = if metadata { &mut self.metadata } else { &mut self.data };
        group.raw.extend_from_slice(bytes);
        group.records.push(Record { id, kind, length: bytes.len() as u32 });
        if group.raw.len() >= FRAME_FULL { self.end_frame(metadata) } else { Ok(()) }
    }

    fn end_frame(&mut self, metadata: bool) -> Result<()> {
        let group = if metadata { &mut self.metadata } else { &mut self.data };
        if group.records.is_empty() {
            return Ok(());
        }
        put_table(&mut group.raw, &group.records);
        let raw = group.raw.len();
        self.scratch.clear();
        self.scratch.reserve(compress_bound(raw));
        self.compressor.compress_to_buffer(&group.raw, &mut self.scratch).context("compress", &self.packs)?;
        let pays = self.scratch.len() < raw - raw / 20;
        let (codec, payload) = if pays { (Codec::Zstd, &self.scratch) } else { (Codec::Raw, &group.raw) };
        let info = FrameInfo { codec, stored: payload.len() as u32, raw: raw as u32, check: check_of(payload) };

        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(OpenPack::create(&self.tmp, self.next)?),
        };
        open.append(&info, payload)?;
        open.footer.frames.push((info, std::mem::take(&mut group.records)));
        group.raw.clear();
        if open.length >= PACK_FULL { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.sealed.push(open.seal(&self.packs)?);
            self.next += 1;
        }
        Ok(())
    }

    /// Writes out what is waiting. When it returns, every object that was added survives a power cut, in the packs
    /// that it gives.
    pub(crate) fn finish(&mut self) -> Result<Vec<Sealed>> {
        self.end_frame(false)?;
        self.end_frame(true)?;
        self.seal()?;
        if !self.sealed.is_empty() {
            durable::sync_dir(&self.packs, Point::PackDirSync)?;
        }
        Ok(std::mem::take(&mut self.sealed))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            let _ = std::fs::remove_file(&open.path);
        }
    }
}

impl OpenPack {
    fn create(tmp: &Path, number: PackNumber) -> Result<Self> {
        let path = durable::unique(tmp, "pack");
        fail::point(Point::PackCreate).context("create", &path)?;
        let mut file = durable::create_new(&path, 0o444)?;
        file.write_all(&header()).context("write", &path)?;
        Ok(Self { number, file, path, length: HEADER as u64, footer: Footer::default() })
    }

    fn append(&mut self, info: &FrameInfo, payload: &[u8]) -> Result<()> {
        fail::point(Point::PackWrite).context("write", &self.path)?;
        self.file.write_all(&info.header()).context("write", &self.path)?;
        let (first, second) = payload.split_at(payload.len() / 2);
        self.file.write_all(first).context("write", &self.path)?;
        fail::point(Point::PackTear).context("write", &self.path)?;
        self.file.write_all(second).context("write", &self.path)?;
        self.length += (FRAME_HEADER + payload.len()) as u64;
        Ok(())
    }

    fn seal(mut self, packs: &Path) -> Result<Sealed> {
        let sealed = self.try_seal(packs);
        if sealed.is_err() {
            let _ = std::fs::remove_file(&self.path);
        }
        sealed
    }

    fn try_seal(&mut self, packs: &Path) -> Result<Sealed> {
        let footer = self.footer.encode();
        let trailer = trailer(self.length, &footer, &self.footer);
        fail::point(Point::PackFooter).context("write", &self.path)?;
        self.file.write_all(&footer).context("write", &self.path)?;
        self.file.write_all(&trailer).context("write", &self.path)?;
        durable::sync_file(&self.file, &self.path, Point::PackSync)?;
        let name = packs.join(file_name(self.number));
        durable::rename(&self.path, &name, Point::PackRename)?;
        let size = self.length + (footer.len() + TRAILER) as u64;
        Ok(Sealed { number: self.number, footer: std::mem::take(&mut self.footer), size })
    }
}

fn header() -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&PACK_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out
}

fn trailer(offset: u64, encoded: &[u8], footer: &Footer) -> [u8; TRAILER] {
    let mut out = [0; TRAILER];
    out[..8].copy_from_slice(&offset.to_le_bytes());
    out[8..16].copy_from_slice(&(encoded.len() as u64).to_le_bytes());
    out[16..20].copy_from_slice(&(footer.frames.len() as u32).to_le_bytes());
    out[20..24].copy_from_slice(&(footer.totals().0 as u32).to_le_bytes());
    out[24..56].copy_from_slice(super::read::footer_hash(&header(), encoded).as_bytes());
    out[56..].copy_from_slice(&END_MAGIC);
    out
}
