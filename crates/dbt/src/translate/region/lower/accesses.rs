//! Loads and stores: the same look into the tables of pages as that of blocks.

use std::ops::Range;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder as _, types};
use isa::plan::access;

use super::super::super::generate::{Access, Call};
use super::super::super::ir::{StateId, Table, Val, Value};
use super::super::super::sets;
use super::{Later, Lowerer, trusted};
use crate::state::head;
use crate::tlb::PAGE_BITS;

impl Lowerer<'_, '_> {
    /// Leaves code where a page is known, with what is at an address of ours; gives that, and where cold code begins.
    fn look_up(&mut self, of: Val, address: ir::Value, bytes: i32, table: i32, how: u8) -> (ir::Value, ir::Block) {
        // An access that reaches into the next page has that page's tag.
        let last = self.b.ins().iadd_imm_s(address, i64::from(bytes) - 1);
        let mut page = self.b.ins().band_imm_s(last, -4096);
        if how & access::UNPRIVILEGED != 0 {
            page = self.b.ins().bor_imm_s(page, sets::UNPRIVILEGED as i64);
        }
        let Some(window) = self.window(of, table, how) else {
            return self.search(page, address, table);
        };
        let known = self.b.use_var(window.page);
        let is_known = self.b.ins().icmp(IntCC::Equal, page, known);
        let (there, elsewhere) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(is_known, there, &[], elsewhere, &[]);
        self.b.switch_to_block(elsewhere);
        self.b.set_cold_block(elsewhere);
        let (addend, cold) = self.search(page, address, table);
        self.b.def_var(window.page, page);
        self.b.def_var(window.addend, addend);
        self.b.ins().jump(there, &[]);
        self.b.switch_to_block(there);
        (self.b.use_var(window.addend), cold)
    }

    /// Finds the page of several accesses: what is added to their addresses, or 0.
    pub(super) fn open(&mut self, own: Value, base: Val, bytes: Range<i32>, table: Table) -> Option<()> {
        let address = self.address(base, bytes.start)?;
        let (addend, cold) = self.look_up(base, address, bytes.end - bytes.start, table.offset(), 0);
        let opened = self.b.declare_var(types::I64);
        let back = self.b.create_block();
        self.b.def_var(opened, addend);
        self.b.ins().jump(back, &[]);
        self.b.switch_to_block(cold);
        self.b.set_cold_block(cold);
        let none = self.number(0);
        self.b.def_var(opened, none);
        self.b.ins().jump(back, &[]);
        self.b.switch_to_block(back);
        self.opened.insert(own, opened);
        Some(())
    }

    /// Leaves code where an access may be done, with what is at its address; gives that, and where cold code begins.
    fn reach(&mut self, access: Access, address: ir::Value, table: Table) -> (ir::Value, ir::Block) {
        let opened = access.window.and_then(|window| self.opened.get(&window).copied());
        let Some(opened) = opened else {
            let bytes = i32::from(access.width / 8);
            let (addend, cold) = self.look_up(access.address, address, bytes, table.offset(), access.how);
            return (self.b.ins().iadd(address, addend), cold);
        };
        let addend = self.b.use_var(opened);
        let (there, closed) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(there, types::I64);
        self.b.ins().brif(addend, there, &[addend.into()], closed, &[]);
        self.b.switch_to_block(closed);
        self.b.set_cold_block(closed);
        let last = self.b.ins().iadd_imm_s(address, i64::from(access.width / 8) - 1);
        let page = self.b.ins().band_imm_s(last, -4096);
        let (found, cold) = self.search(page, address, table.offset());
        self.b.ins().jump(there, &[found.into()]);
        self.b.switch_to_block(there);
        let addend = self.b.block_params(there)[0];
        (self.b.ins().iadd(address, addend), cold)
    }

    /// The same, by the tables alone; gives what is added to the address.
    fn search(&mut self, page: ir::Value, address: ir::Value, table: i32) -> (ir::Value, ir::Block) {
        let slot = self.b.ins().ushr_imm_u(address, i64::from(PAGE_BITS as u8 - sets::ENTRY_BITS));
        let slot = self.b.ins().band_imm_s(slot, ((sets::ENTRIES - 1) << sets::ENTRY_BITS) as i64);
        let entry = self.b.ins().iadd(self.set, slot);
        let tag = self.b.ins().load(types::I64, trusted(), entry, table);
        let is_known = self.b.ins().icmp(IntCC::Equal, page, tag);
        let (hot, cold) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(is_known, hot, &[], cold, &[]);
        self.b.switch_to_block(hot);
        (self.b.ins().load(types::I64, trusted(), entry, table + 8), cold)
    }

    fn address(&mut self, of: Val, offset: i32) -> Option<ir::Value> {
        let of = self.value(of)?;
        Some(if offset == 0 { of } else { self.b.ins().iadd_imm_s(of, i64::from(offset)) })
    }

    fn meta(&self, width: u8, how: u8, at: StateId) -> u32 {
        u32::from(width) | u32::from(how) << 8 | self.block().states[at as usize].pc << 16
    }

    pub(super) fn load(&mut self, access: Access) -> Option<ir::Value> {
        let Access { width, how, at, .. } = access;
        let address = self.address(access.address, access.offset)?;
        let (host, cold) = self.reach(access, address, Table::Read);
        let value = match width {
            8 => self.b.ins().uload8(types::I64, trusted(), host, 0),
            16 => self.b.ins().uload16(types::I64, trusted(), host, 0),
            32 => self.b.ins().uload32(trusted(), host, 0),
            64 => self.b.ins().load(types::I64, trusted(), host, 0),
            _ => return None,
        };
        let back = self.b.create_block();
        let loaded = self.b.append_block_param(back, types::I64);
        self.b.ins().jump(back, &[value.into()]);
        let meta = self.meta(width, how, at);
        self.later.push(Later::Access { begin: cold, back, at, call: Call::Load, address, meta, value: None });
        self.b.switch_to_block(back);
        Some(loaded)
    }

    pub(super) fn store(&mut self, value: Val, access: Access) -> Option<()> {
        let Access { width, how, at, .. } = access;
        let (address, value) = (self.address(access.address, access.offset)?, self.value(value)?);
        let (host, cold) = self.reach(access, address, Table::Write);
        match width {
            8 => self.b.ins().istore8(trusted(), value, host, 0),
            16 => self.b.ins().istore16(trusted(), value, host, 0),
            32 => self.b.ins().istore32(trusted(), value, host, 0),
            64 => self.b.ins().store(trusted(), value, host, 0),
            _ => return None,
        };
        let back = self.b.create_block();
        self.b.ins().jump(back, &[]);
        let meta = self.meta(width, how, at);
        let value = Some(value);
        self.later.push(Later::Access { begin: cold, back, at, call: Call::Store, address, meta, value });
        self.b.switch_to_block(back);
        Some(())
    }

    /// Has an access done by the processor. All is in the state.
    pub(super) fn ask(
        &mut self,
        call: Call,
        address: ir::Value,
        meta: u32,
        value: Option<ir::Value>,
        back: ir::Block,
    ) -> Option<()> {
        self.close_windows();
        let none = self.number(0);
        for opened in self.opened.values() {
            self.b.def_var(*opened, none);
        }
        let meta = self.number(meta.into());
        match value {
            Some(value) => {
                self.call(call, &[self.state, address, meta, value]);
                self.b.ins().jump(back, &[]);
            }
            None => {
                self.call(call, &[self.state, address, meta]);
                let value = self.word(head::WIDE);
                self.b.ins().jump(back, &[value.into()]);
            }
        }
        Some(())
    }
}
