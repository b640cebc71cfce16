//! Loads and stores of a guest: through the translation cache to memory or to a device.

use std::sync::atomic::Ordering;

use isa::Isa;
use isa::plan::{Atomic, MOST_ARGUMENTS, access};

use crate::board::Board;
use crate::processor::{End, Processor, Thrown};
use crate::tlb::{Access, PAGE_BITS};

const PAGE: u64 = 1 << PAGE_BITS;
/// The bit of `translate`'s second argument that says: without privileges.
const UNPRIVILEGED: u64 = 4;

type Done<T> = Result<T, Thrown>;

impl Processor {
    /// Forgets where pages are.
    pub(crate) fn flush(&mut self) {
        self.tlb.flush();
        if let Some(translator) = &mut self.translator {
            translator.flush();
        }
    }

    /// Forgets where one page is.
    pub(crate) fn flush_page(&mut self, address: u64) {
        self.tlb.flush_page(address);
        if let Some(translator) = &mut self.translator {
            translator.flush_page(address);
        }
    }

    /// Forgets where pages of an address space are.
    pub(crate) fn flush_space(&mut self, space: u32) {
        self.tlb.flush_space(space);
        if let Some(translator) = &mut self.translator {
            translator.flush_space(space);
        }
    }

    /// What is found without privileges is kept as if it were another mode.
    pub(crate) fn key_of(&self, how: u8) -> u32 {
        self.key | u32::from(how & access::UNPRIVILEGED) << 30
    }

    /// The physical address behind a virtual one.
    #[inline]
    pub(crate) fn translate(
        &mut self,
        isa: &Isa,
        board: &mut dyn Board,
        access: Access,
        address: u64,
        how: u8,
    ) -> Done<u64> {
        let key = self.key_of(how);
        let space = self.space();
        if let Some(physical) = self.tlb.look(access, address, key, space) {
            return Ok(physical);
        }
        let unprivileged = if how & access::UNPRIVILEGED != 0 { UNPRIVILEGED } else { 0 };
        let mut arguments = [0; MOST_ARGUMENTS];
        arguments[0] = address;
        arguments[1] = access as u64 | unprivileged;
        match self.consult(isa, board, self.entries.translate, &arguments) {
            End::Give(given) => {
                self.tlb.keep(access, address, key, space, given as u64);
                Ok(given as u64 >> PAGE_BITS << PAGE_BITS | address & (PAGE - 1))
            }
            End::Throw(thrown) => Err(thrown),
            End::Next | End::Jump(_) => Err(self.unreachable(address, access)),
        }
    }

    pub(crate) fn load(&mut self, isa: &Isa, board: &mut dyn Board, address: u64, width: u8, how: u8) -> Done<u128> {
        let size = u64::from(width / 8);
        if address % PAGE + size > PAGE {
            return self.load_across(isa, board, address, size, how);
        }
        let physical = self.translate(isa, board, Access::Read, address, how)?;
        if let Some(value) = self.ram.read(physical, width) {
            return Ok(value);
        }
        let from_device = if width <= 64 { self.away(board, |board| board.read(physical, width / 8)) } else { None };
        from_device.map(u128::from).ok_or_else(|| self.unreachable(address, Access::Read))
    }

    pub(crate) fn store(
        &mut self,
        isa: &Isa,
        board: &mut dyn Board,
        address: u64,
        width: u8,
        value: u128,
        how: u8,
    ) -> Done<()> {
        let size = u64::from(width / 8);
        if address % PAGE + size > PAGE {
            return self.store_across(isa, board, address, size, value, how);
        }
        let physical = self.translate(isa, board, Access::Write, address, how)?;
        if self.ram.write(physical, width, value).is_some() {
            self.wrote(physical, size);
            return Ok(());
        }
        let by_device = if width <= 64 {
            // What the device writes is heard of before the processor goes on.
            self.away(board, |board| board.write(physical, width / 8, value as u64))
        } else {
            None
        };
        by_device.ok_or_else(|| self.unreachable(address, Access::Write))?;
        // What it was told may have made it raise an interrupt, which nobody else would tell of.
        if board.attention() {
            self.attention.store(1, Ordering::Release);
        }
        Ok(())
    }

    fn load_across(&mut self, isa: &Isa, board: &mut dyn Board, address: u64, size: u64, how: u8) -> Done<u128> {
        let mut value = 0;
        for at in 0..size {
            let byte = address.wrapping_add(at);
            let physical = self.translate(isa, board, Access::Read, byte, how)?;
            let read = self.ram.read(physical, 8).ok_or_else(|| self.unreachable(byte, Access::Read))?;
            value |= read << (8 * at);
        }
        Ok(value)
    }

    /// Nothing is written unless all of it can be.
    fn store_across(
        &mut self,
        isa: &Isa,
        board: &mut dyn Board,
        address: u64,
        size: u64,
        value: u128,
        how: u8,
    ) -> Done<()> {
        let mut places = [0; 16];
        for at in 0..size {
            let byte = address.wrapping_add(at);
            let physical = self.translate(isa, board, Access::Write, byte, how)?;
            if !self.ram.holds(physical) {
                return Err(self.unreachable(byte, Access::Write));
            }
            places[at as usize] = physical;
        }
        for (at, physical) in places[..size as usize].iter().enumerate() {
            let _ = self.ram.write(*physical, 8, value >> (8 * at) & 0xff);
            self.wrote(*physical, 1);
        }
        Ok(())
    }

    pub(crate) fn compare_and_swap(
        &mut self,
        isa: &Isa,
        board: &mut dyn Board,
        at: (u64, u8, u8),
        old: u128,
        new: u128,
    ) -> Done<u128> {
        let (address, width, how) = at;
        let physical = self.translate(isa, board, Access::Write, address, how)?;
        let found = self.ram.compare_and_swap(physical, width, old, new);
        self.wrote(physical, u64::from(width / 8));
        found.ok_or_else(|| self.unreachable(address, Access::Write))
    }

    pub(crate) fn change(
        &mut self,
        isa: &Isa,
        board: &mut dyn Board,
        at: (u64, u8, u8),
        kind: Atomic,
        value: u128,
    ) -> Done<u128> {
        let (address, width, how) = at;
        let physical = self.translate(isa, board, Access::Write, address, how)?;
        let found = self.ram.change(physical, width, kind, value);
        self.wrote(physical, u64::from(width / 8));
        found.ok_or_else(|| self.unreachable(address, Access::Write))
    }
}
