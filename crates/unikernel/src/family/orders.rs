//! What cells are to do that somebody outside wants, and what they have.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use sys::Errno;

use super::{Family, Living, Process, Streams};
use crate::desk::Demand;
use crate::files::File;

impl Family {
    /// The standard streams of a cell, as far as they are open.
    pub(crate) fn streams(&self, cell: u32) -> [Option<Arc<File>>; 3] {
        self.account().streams.get(&cell).map_or([const { None }; 3], |it| it.each_ref().map(Weak::upgrade))
    }

    /// Wants the first process of a cell to do something about its cell.
    pub(crate) fn order(&self, cell: u32, order: Demand) -> Result<(), Errno> {
        let mut account = self.account();
        let account = &mut *account;
        let living = account.processes.get(&cell).filter(|it| it.cell == cell).and_then(Process::living);
        let living = living.ok_or(Errno::SRCH)?;
        let orders = account.orders.entry(cell).or_default();
        orders.push_back(order);
        living.port.copies.store(orders.len() as u32, Ordering::SeqCst);
        living.tap();
        Ok(())
    }

    /// The next order that a process has to carry out, with the streams that its cell has.
    pub(crate) fn next_order(&self, cell: u32) -> Option<(Demand, Streams)> {
        let mut account = self.account();
        let account = &mut *account;
        let orders = account.orders.get_mut(&cell);
        let order = orders.and_then(|it| {
            let next = it.pop_front();
            if let Some(living) = account.processes.get(&cell).and_then(Process::living) {
                living.port.copies.store(it.len() as u32, Ordering::SeqCst);
            }
            next
        });
        Some((order?, account.streams.get(&cell)?.clone()))
    }

    /// What reaches the processes of a cell that live.
    pub(crate) fn in_cell(&self, cell: u32) -> Vec<(u32, Living)> {
        let account = self.account();
        let there = account.processes.iter().filter(|(_, it)| it.cell == cell);
        there.filter_map(|(number, it)| Some((*number, it.living()?.clone()))).collect()
    }
}
