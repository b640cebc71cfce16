//! Packs: append-only files of 16 to 32 MiB that hold the objects.
//!
//! ```text
//! header   32 bytes   "skeppack", version u32, zeros
//! frame*              frame header (32 bytes), payload
//! footer              the frames and the records in them: enough to rebuild the index
//! trailer  64 bytes   footer offset u64, footer length u64, frames u32, records u32,
//!                     BLAKE3 of header and footer (32 bytes), "skepend\n"
//! ```
//! A frame holds records of 192 to 256 KiB together (a larger record has its own), as one zstd frame or raw when that
//! saves less than 5 %. Its header carries a BLAKE3 check of the payload, repeated in the footer, so that nothing is
//! decompressed that is not what was written; each record is checked again by its id. At the end of a frame's raw bytes
//! stands a table of its records' kinds and lengths: **a pack without its footer can still be read**, ids and all.
//!
//! All integers are little-endian. A pack gets its name when it is complete and durable, and is never changed after.

mod read;
mod write;

pub(crate) use read::{PackFile, RecordCheck, record, salvage};
pub(crate) use write::{PackWriter, Sealed};

use model::ObjectId;

use crate::codec::{Decoder, Malformed, put_varint};
use crate::object::{Kind, MAX_OBJECT};

const PACK_MAGIC: [u8; 8] = *b"skeppack";
const FRAME_MAGIC: [u8; 4] = *b"skfr";
const END_MAGIC: [u8; 8] = *b"skepend\n";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const FRAME_HEADER: usize = 32;
const TRAILER: usize = 64;
/// The most raw bytes a frame may claim: one object of the largest size with its table.
const MAX_FRAME: usize = MAX_OBJECT + (1 << 16);
/// The most bytes a footer may claim.
const MAX_FOOTER: u64 = 256 << 20;

/// A pack's number, from which its file name is made.
pub(crate) type PackNumber = u32;

/// A pack's file name.
pub(crate) fn file_name(number: PackNumber) -> String {
    format!("{number:08x}.pack")
}

/// The number in a pack's file name.
pub(crate) fn parse_file_name(name: &str) -> Option<PackNumber> {
    let digits = name.strip_suffix(".pack")?;
    (digits.len() == 8).then(|| PackNumber::from_str_radix(digits, 16).ok()).flatten()
}

/// Where an object is: what the index maps an id to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: PackNumber,
    /// Offset of the frame's header in the pack.
    pub(crate) frame: u32,
    /// Length of the frame's payload as stored.
    pub(crate) stored: u32,
    /// Offset of the record in the frame's raw bytes.
    pub(crate) offset: u32,
    /// Length of the record.
    pub(crate) length: u32,
    pub(crate) kind: Kind,
}

impl Location {
    pub(crate) const SIZE: usize = 21;

    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let fields = [self.pack, self.frame, self.stored, self.offset, self.length];
        for (place, field) in out.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        out[20] = self.kind as u8;
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let location = Self {
            pack: decoder.u32()?,
            frame: decoder.u32()?,
            stored: decoder.u32()?,
            offset: decoder.u32()?,
            length: decoder.u32()?,
            kind: Kind::from_byte(decoder.byte()?).ok_or("an object of an unknown kind")?,
        };
        decoder.finish()?;
        Ok(location)
    }
}

/// How a frame's payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Raw = 0,
    Zstd = 1,
}

/// A frame as its header and the footer describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameInfo {
    codec: Codec,
    pub(crate) stored: u32,
    pub(crate) raw: u32,
    check: [u8; 16],
}

impl FrameInfo {
    fn header(&self) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        out[..4].copy_from_slice(&FRAME_MAGIC);
        out[4] = self.codec as u8;
        out[8..12].copy_from_slice(&self.stored.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw.to_le_bytes());
        out[16..].copy_from_slice(&self.check);
        out
    }

    fn parse_header(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        if decoder.array::<4>()? != FRAME_MAGIC {
            return Err("no frame begins here");
        }
        let codec = decoder.byte()?;
        if decoder.array()? != [0; 3] {
            return Err("a frame of an unknown version");
        }
        Self::checked(codec, decoder.u32()?, decoder.u32()?, decoder.array()?)
    }

    fn checked(codec: u8, stored: u32, raw: u32, check: [u8; 16]) -> Result<Self, Malformed> {
        let codec = match codec {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return Err("a frame in an unknown codec"),
        };
        if stored as usize > MAX_FRAME || raw as usize > MAX_FRAME {
            return Err("a frame of an impossible size");
        }
        Ok(Self { codec, stored, raw, check })
    }
}

/// The check of a frame's stored payload.
fn check_of(payload: &[u8]) -> [u8; 16] {
    let mut check = [0; 16];
    check.copy_from_slice(&blake3::hash(payload).as_bytes()[..16]);
    check
}

/// An object as a footer lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: ObjectId,
    pub(crate) kind: Kind,
    pub(crate) length: u32,
}

/// What a footer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) frames: Vec<(FrameInfo, Vec<Record>)>,
}

impl Footer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.frames.len() as u64);
        for (info, records) in &self.frames {
            out.push(info.codec as u8);
            put_varint(&mut out, info.stored.into());
            put_varint(&mut out, info.raw.into());
            out.extend_from_slice(&info.check);
            put_varint(&mut out, records.len() as u64);
            for record in records {
                out.push(record.kind as u8);
                put_varint(&mut out, record.length.into());
                out.extend_from_slice(record.id.as_bytes());
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let frames = decoder.count(20)?;
        let mut footer = Self { frames: Vec::with_capacity(frames) };
        for _ in 0..frames {
            let (codec, stored, raw) = (decoder.byte()?, decoder.varint32()?, decoder.varint32()?);
            let info = FrameInfo::checked(codec, stored, raw, decoder.array()?)?;
            let count = decoder.count(34)?;
            let mut records = Vec::with_capacity(count);
            for _ in 0..count {
                let kind = Kind::from_byte(decoder.byte()?).ok_or("an object of an unknown kind")?;
                let length = decoder.varint32()?;
                records.push(Record { kind, length, id: decoder.id()? });
            }
            footer.frames.push((info, records));
        }
        decoder.finish()?;
        Ok(footer)
    }

    /// Each record with its place in pack `number`.
    pub(crate) fn locations(&self, number: PackNumber) -> impl Iterator<Item = (ObjectId, Location)> {
        let starts = self.frames.iter().scan(HEADER as u64, |at, (info, _)| {
            let start = *at;
            *at += FRAME_HEADER as u64 + u64::from(info.stored);
            Some(start)
        });
        starts.zip(&self.frames).flat_map(move |(start, (info, records))| {
            records.iter().scan(0u32, move |at, record| {
                let offset = *at;
                *at = at.checked_add(record.length)?;
                let (frame, stored) = (u32::try_from(start).ok()?, info.stored);
                let Record { id, kind, length } = *record;
                Some((id, Location { pack: number, frame, stored, offset, length, kind }))
            })
        })
    }

    /// Where the frames end.
    fn end(&self) -> u64 {
        let frames = self.frames.iter().map(|(info, _)| FRAME_HEADER as u64 + u64::from(info.stored));
        frames.fold(HEADER as u64, u64::saturating_add)
    }

    /// How many objects there are, and how long they are together.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let records = self.frames.iter().flat_map(|(_, records)| records);
        records.fold((0, 0), |(count, bytes), record| (count + 1, bytes + u64::from(record.length)))
    }
}

/// The table at the end of a frame's raw bytes: kind and length of each record, then the table's own length.
fn put_table(raw: &mut Vec<u8>, records: &[Record]) {
    let start = raw.len();
    for record in records {
        raw.push(record.kind as u8);
        put_varint(raw, record.length.into());
    }
    let length = (raw.len() - start) as u32;
    raw.extend_from_slice(&length.to_le_bytes());
}

/// Splits a frame's raw bytes into its records, by its own table.
fn split_table(raw: &[u8]) -> Result<Vec<(Kind, &[u8])>, Malformed> {
    let (rest, length) = raw.split_last_chunk::<4>().ok_or("a frame without a table")?;
    let split = rest.len().checked_sub(u32::from_le_bytes(*length) as usize).ok_or("a frame without a table")?;
    let (bytes, table) = rest.split_at(split);
    let (mut bytes, mut table) = (Decoder::new(bytes), Decoder::new(table));
    let mut records = Vec::new();
    while !table.is_empty() {
        let kind = Kind::from_byte(table.byte()?).ok_or("an object of an unknown kind")?;
        records.push((kind, bytes.take(table.varint32()? as usize)?));
    }
    bytes.finish()?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoders_survive_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Footer::decode(&bytes).map(|footer| footer.locations(1).count());
            let _ = Location::decode(&bytes);
            let _ = FrameInfo::parse_header(&bytes);
            let _ = split_table(&bytes);
        }

        #[test]
        fn locations_round_trip(numbers: [u32; 5]) {
            let [pack, frame, stored, offset, length] = numbers;
            let location = Location { pack, frame, stored, offset, length, kind: Kind::Tree };
            prop_assert_eq!(Location::decode(&location.encode()), Ok(location));
        }

        #[test]
        fn footers_and_tables_round_trip(lengths in prop::collection::vec(0u32..100, 0..20)) {
            let records: Vec<_> = lengths.iter().map(|&length| {
                Record { id: Kind::Chunk.id_of(&length.to_le_bytes()), kind: Kind::Chunk, length }
            }).collect();
            let total: u32 = lengths.iter().sum();
            let mut raw = vec![7; total as usize];
            put_table(&mut raw, &records);
            let split: Vec<_> = split_table(&raw).unwrap().iter().map(|(_, bytes)| bytes.len() as u32).collect();
            prop_assert_eq!(split, lengths);
            let info = FrameInfo { codec: Codec::Raw, stored: total, raw: total, check: [3; 16] };
            let footer = Footer { frames: vec![(info, records)] };
            prop_assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
        }
    }
}
