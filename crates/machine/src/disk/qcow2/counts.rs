//! How many point to each cluster of the file: 16 bits each, in blocks that a table has the places of.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::header::Header;
use super::{Image, broken};
use crate::disk::{Zeroes, zero_file};

/// The counts.
pub(super) struct Counts {
    at: u64,
    table: Vec<u64>,
    /// Blocks that were read. There are no more than the file has room for.
    blocks: HashMap<usize, Vec<u16>>,
    /// No cluster before it is free.
    cursor: u64,
}

impl Counts {
    pub(super) fn open(image: &mut Image, header: &Header) -> io::Result<Counts> {
        let size = header.counts_clusters << header.bits;
        image.add_table(header.counts_at, size)?;
        let table = image.read_words(header.counts_at, (size / 8) as usize)?;
        for at in table.iter().filter(|at| **at != 0) {
            image.add_table(*at, image.cluster())?;
        }
        Ok(Counts { at: header.counts_at, table, blocks: HashMap::new(), cursor: 0 })
    }

    /// Where a cluster's count is: its block, and its number there.
    fn split(image: &Image, number: u64) -> (usize, usize) {
        let per_block = image.cluster() / 2;
        ((number / per_block) as usize, (number % per_block) as usize)
    }

    fn block(&mut self, image: &Image, number: usize) -> io::Result<Option<&mut Vec<u16>>> {
        let full = || io::Error::new(ErrorKind::StorageFull, "the qcow2 file's table of counts is full");
        let at = *self.table.get(number).ok_or_else(full)?;
        if at == 0 {
            return Ok(None);
        }
        let read = || {
            let mut bytes = vec![0; image.cluster() as usize];
            image.read(&mut bytes, at)?;
            Ok::<_, io::Error>(bytes.chunks_exact(2).map(|it| u16::from_be_bytes([it[0], it[1]])).collect())
        };
        match self.blocks.entry(number) {
            Entry::Occupied(known) => Ok(Some(known.into_mut())),
            Entry::Vacant(unknown) => Ok(Some(unknown.insert(read()?))),
        }
    }

    fn set(&mut self, image: &Image, number: u64, count: u16) -> io::Result<()> {
        let (block, within) = Counts::split(image, number);
        let Some(counts) = self.block(image, block)? else { return Err(broken("what is in use is not counted")) };
        counts[within] = count;
        image.file.write_all_at(&count.to_be_bytes(), self.table[block] + within as u64 * 2)
    }

    /// A cluster that was free, counted once. What is in there is whatever it was.
    pub(super) fn allocate(&mut self, image: &mut Image) -> io::Result<u64> {
        let end = image.file.metadata()?.len().div_ceil(image.cluster());
        loop {
            let number = self.cursor;
            let (block, within) = Counts::split(image, number);
            let count = self.block(image, block)?.map(|counts| counts[within]);
            match count {
                Some(0) if image.tables.contains(&number) => return Err(broken("a table is where it says it is free")),
                Some(0) => {
                    self.set(image, number, 1)?;
                    self.cursor += 1;
                    return Ok(number << image.bits);
                }
                Some(_) if number > end => return Err(broken("it counts what is behind its end")),
                Some(_) => self.cursor += 1,
                None if image.tables.contains(&number) => return Err(broken("a table is not counted")),
                None => self.make_block(image, number)?,
            }
        }
    }

    /// A block of counts, in the first free of the clusters that it counts.
    fn make_block(&mut self, image: &mut Image, number: u64) -> io::Result<()> {
        let (block, within) = Counts::split(image, number);
        let mut counts = vec![0; (image.cluster() / 2) as usize];
        counts[within] = 1;
        let bytes: Vec<u8> = counts.iter().flat_map(|count: &u16| count.to_be_bytes()).collect();
        let at = number << image.bits;
        image.file.write_all_at(&bytes, at)?;
        image.write_word(self.at + block as u64 * 8, at)?;
        image.tables.insert(number);
        self.table[block] = at;
        self.blocks.insert(block, counts);
        Ok(())
    }

    /// One fewer points to it. What nobody points to takes no room.
    pub(super) fn release(&mut self, image: &mut Image, at: u64) -> io::Result<()> {
        let number = at >> image.bits;
        let (block, within) = Counts::split(image, number);
        let count = self.block(image, block)?.map_or(0, |counts| counts[within]);
        let left = count.checked_sub(1).ok_or_else(|| broken("what is in use is counted as free"))?;
        self.set(image, number, left)?;
        if left == 0 && !image.tables.contains(&number) {
            self.cursor = self.cursor.min(number);
            zero_file(&image.file, at & !(image.cluster() - 1), image.cluster(), Zeroes::Release)?;
        }
        Ok(())
    }
}
