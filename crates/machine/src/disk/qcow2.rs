//! Disks in the format qcow2, versions 2 and 3 ("The QCOW2 image file format", of QEMU's documentation).
//!
//! What is not served is refused when the file is opened, in words: files that lie over others, encryption, data in another
//! file, subclusters, counts of other than 16 bits, and files that were not closed cleanly. Compressed clusters (deflate)
//! are read, and written anew elsewhere.
//!
//! **Invariants.** A file may say anything: every number is checked before it is used, tables are where nothing else is
//! ([`Image::tables`]), and so neither does a loop among them lead anywhere nor do sectors of a guest's end up in them.
//! What is counted as free is never pointed to: a cluster is counted before a table names it, and named no more before it is
//! counted as free; a machine that ends in between leaves room that nobody uses, no more.

mod counts;
mod header;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;

use self::counts::Counts;
use self::header::Header;
use super::{Access, Medium, Zeroes, zero_file};

/// The only one who points to it.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Zeroes, wherever it points (version 3).
const ZERO: u64 = 1;
/// Bits that are a place.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// Bytes of tables that are kept.
const MOST_KEPT: usize = 16 << 20;

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the qcow2 file is damaged: {what}"))
}

/// What a table says of a cluster of the disk.
enum Cluster {
    Nothing,
    /// At this place; whether nobody else points there.
    At(u64, bool),
    /// Compressed: place, and bytes at most.
    Compressed(u64, usize),
}

/// A disk.
pub(super) struct Qcow2 {
    image: Image,
    counts: Counts,
    /// The first table, of whose entries each is a table's place.
    first: Vec<u64>,
    first_at: u64,
    /// Tables that were read, by their number in the first.
    kept: HashMap<usize, Vec<u64>>,
    length: u64,
}

/// The file, and where there is anything but sectors in it.
struct Image {
    file: File,
    bits: u32,
    tables: std::collections::HashSet<u64>,
}

impl Image {
    fn cluster(&self) -> u64 {
        1 << self.bits
    }

    /// A table's place, if one can be there. Each is somewhere else.
    fn add_table(&mut self, at: u64, length: u64) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if !at.is_multiple_of(self.cluster()) || at.checked_add(length).is_none_or(|end| end > size) {
            return Err(broken("a table is outside of it"));
        }
        for number in at >> self.bits..(at + length).div_ceil(self.cluster()) {
            if !self.tables.insert(number) {
                return Err(broken("two of its tables are in one place"));
            }
        }
        Ok(())
    }

    /// The place of a guest's sectors, if they can be there.
    fn data(&self, at: u64) -> io::Result<u64> {
        if !at.is_multiple_of(self.cluster()) || self.tables.contains(&(at >> self.bits)) {
            return Err(broken("sectors are where a table is"));
        }
        if at >= self.file.metadata()?.len() {
            return Err(broken("sectors are behind its end"));
        }
        Ok(at)
    }

    fn read_words(&self, at: u64, count: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count * 8];
        self.file.read_exact_at(&mut bytes, at)?;
        let words = bytes.chunks_exact(8).map(|it| it.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        Ok(words.collect())
    }

    fn write_word(&self, at: u64, word: u64) -> io::Result<()> {
        self.file.write_all_at(&word.to_be_bytes(), at)
    }

    /// What is there; behind the end of the file, a cluster's rest is zero.
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], at + done as u64) {
                Ok(0) => {
                    into[done..].fill(0);
                    return Ok(());
                }
                Ok(size) => done += size,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Qcow2 {
    pub(super) fn open(file: File, access: Access) -> io::Result<Qcow2> {
        let header = Header::read(&file)?;
        header.must_be_served(access)?;
        let mut image = Image { file, bits: header.bits, tables: std::collections::HashSet::new() };
        image.add_table(0, image.cluster())?;
        image.add_table(header.first_at, header.first_size * 8)?;
        let counts = Counts::open(&mut image, &header)?;
        let first = image.read_words(header.first_at, header.first_size as usize)?;
        for entry in first.iter().map(|entry| entry & PLACE).filter(|at| *at != 0) {
            image.add_table(entry, image.cluster())?;
        }
        if access == Access::ReadWrite {
            // What others keep of it beside the sectors, we do not keep.
            header.clear_features(&image.file)?;
        }
        let (first_at, length) = (header.first_at, header.length);
        Ok(Qcow2 { image, counts, first, first_at, kept: HashMap::new(), length })
    }

    /// Entries of a table.
    fn entries(&self) -> u64 {
        self.image.cluster() / 8
    }

    /// The table of a cluster of the disk, and its number there.
    fn split(&self, number: u64) -> (usize, usize) {
        ((number / self.entries()) as usize, (number % self.entries()) as usize)
    }

    /// What the table says of a cluster of the disk.
    fn entry(&mut self, number: u64) -> io::Result<u64> {
        let (table, at) = self.split(number);
        let place = self.first.get(table).ok_or_else(|| broken("its first table is too short"))? & PLACE;
        if place == 0 {
            return Ok(0);
        }
        if let Some(kept) = self.kept.get(&table) {
            return Ok(kept[at]);
        }
        let words = self.image.read_words(place, self.entries() as usize)?;
        let entry = words[at];
        if (self.kept.len() + 1) * self.image.cluster() as usize > MOST_KEPT {
            self.kept.clear();
        }
        self.kept.insert(table, words);
        Ok(entry)
    }

    fn find(&mut self, number: u64) -> io::Result<Cluster> {
        let entry = self.entry(number)?;
        if entry & COMPRESSED != 0 {
            let (at, size) = compressed(entry, self.image.bits);
            return Ok(Cluster::Compressed(at, size));
        }
        let at = entry & PLACE;
        if at == 0 || entry & ZERO != 0 {
            return Ok(Cluster::Nothing);
        }
        Ok(Cluster::At(self.image.data(at)?, entry & COPIED != 0))
    }

    /// Has the table say something else.
    fn set_entry(&mut self, number: u64, entry: u64) -> io::Result<()> {
        let (table, at) = self.split(number);
        let place = self.own_table(table)?;
        self.image.write_word(place + at as u64 * 8, entry)?;
        if let Some(kept) = self.kept.get_mut(&table) {
            kept[at] = entry;
        }
        Ok(())
    }

    /// The place of a table that may be written: one that is there and nobody else's, or a new one.
    fn own_table(&mut self, table: usize) -> io::Result<u64> {
        let entry = *self.first.get(table).ok_or_else(|| broken("its first table is too short"))?;
        let old = entry & PLACE;
        if old != 0 && entry & COPIED != 0 {
            return Ok(old);
        }
        let mut content = vec![0; self.image.cluster() as usize];
        if old != 0 {
            self.image.read(&mut content, old)?;
        }
        let new = self.counts.allocate(&mut self.image)?;
        self.image.file.write_all_at(&content, new)?;
        self.image.tables.insert(new >> self.image.bits);
        self.image.write_word(self.first_at + table as u64 * 8, new | COPIED)?;
        self.first[table] = new | COPIED;
        self.kept.remove(&table);
        if old != 0 {
            self.image.tables.remove(&(old >> self.image.bits));
            self.counts.release(&mut self.image, old)?;
        }
        Ok(new)
    }

    /// All of a cluster of the disk.
    fn content(&mut self, number: u64) -> io::Result<Vec<u8>> {
        let mut content = vec![0; self.image.cluster() as usize];
        match self.find(number)? {
            Cluster::Nothing => {}
            Cluster::At(at, _) => self.image.read(&mut content, at)?,
            Cluster::Compressed(at, size) => {
                let mut packed = vec![0; size];
                self.image.read(&mut packed, at)?;
                let mut unpacked = flate2::read::DeflateDecoder::new(&packed[..]);
                unpacked.read_exact(&mut content).map_err(|_| broken("a compressed cluster is none"))?;
            }
        }
        Ok(content)
    }

    /// Writes a part of a cluster of the disk.
    fn write_part(&mut self, number: u64, within: u64, from: &[u8]) -> io::Result<()> {
        if let Cluster::At(at, true) = self.find(number)? {
            return self.image.file.write_all_at(from, at + within);
        }
        // Somewhere else, with what is there beside it.
        let old = self.entry(number)?;
        let mut content = self.content(number)?;
        content[within as usize..within as usize + from.len()].copy_from_slice(from);
        let new = self.counts.allocate(&mut self.image)?;
        self.image.file.write_all_at(&content, new)?;
        self.set_entry(number, new | COPIED)?;
        self.release(old)
    }

    /// Nobody points from here to what an entry pointed to.
    fn release(&mut self, entry: u64) -> io::Result<()> {
        if entry & COMPRESSED != 0 {
            let (at, size) = compressed(entry, self.image.bits);
            let clusters = at >> self.image.bits..=(at + size as u64 - 1) >> self.image.bits;
            return clusters.into_iter().try_for_each(|it| {
                let at = it << self.image.bits;
                self.counts.release(&mut self.image, at)
            });
        }
        match entry & PLACE {
            0 => Ok(()),
            at => self.counts.release(&mut self.image, at),
        }
    }

    /// A range in pieces that are each within a cluster: its number, where in it, and how much.
    fn pieces(&self, at: u64, length: u64) -> impl Iterator<Item = (u64, u64, u64)> + use<> {
        let (bits, end) = (self.image.bits, at + length);
        let mut at = at;
        std::iter::from_fn(move || {
            let within = at & ((1 << bits) - 1);
            let size = ((1 << bits) - within).min(end - at);
            let piece = (at >> bits, within, size);
            at += size;
            (size > 0).then_some(piece)
        })
    }
}

/// Where compressed bytes are, and how many there are at most: whole sectors.
fn compressed(entry: u64, bits: u32) -> (u64, usize) {
    let split = 62 - (bits - 8);
    let at = entry & ((1 << split) - 1);
    let sectors = (entry & !(COPIED | COMPRESSED)) >> split;
    (at, ((sectors + 1) * 512 - at % 512) as usize)
}

impl Medium for Qcow2 {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&mut self, into: &mut [u8], at: u64) -> io::Result<()> {
        let mut rest = into;
        for (number, within, size) in self.pieces(at, rest.len() as u64) {
            let (part, behind) = rest.split_at_mut(size as usize);
            rest = behind;
            match self.find(number)? {
                Cluster::Nothing => part.fill(0),
                Cluster::At(at, _) => self.image.read(part, at + within)?,
                Cluster::Compressed(..) => {
                    part.copy_from_slice(&self.content(number)?[within as usize..(within + size) as usize]);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, from: &[u8], at: u64) -> io::Result<()> {
        let mut rest = from;
        for (number, within, size) in self.pieces(at, from.len() as u64) {
            let (part, behind) = rest.split_at(size as usize);
            rest = behind;
            self.write_part(number, within, part)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.file.sync_data()
    }

    fn zero(&mut self, at: u64, length: u64, how: Zeroes) -> io::Result<()> {
        for (number, within, size) in self.pieces(at, length) {
            match self.find(number)? {
                Cluster::Nothing => {}
                Cluster::At(at, true) if how == Zeroes::Keep || size < self.image.cluster() => {
                    zero_file(&self.image.file, at + within, size, Zeroes::Keep)?;
                }
                _ if size < self.image.cluster() => self.write_part(number, within, &vec![0; size as usize])?,
                _ => {
                    let old = self.entry(number)?;
                    self.set_entry(number, 0)?;
                    self.release(old)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
