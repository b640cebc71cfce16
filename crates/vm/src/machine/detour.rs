//! Code of the tender's own that a guest's processor executes while the guest stands still, in another address space.
//!
//! What a processor knows of page tables goes by what that processor itself has written and loaded: on hosts whose kernel
//! keeps a copy of a guest's tables, a change that the tender makes behind its back is not noticed. So the processor
//! makes it.

use super::{Exit, Machine};
use crate::error::{Error, Result};

/// Such code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detour {
    /// The physical address of the top page table of its address space.
    pub tables: u64,
    /// Its first instruction. It ends by writing to the doorbell.
    pub entry: u64,
    /// Its first four arguments.
    pub arguments: [u64; 4],
}

impl Machine {
    /// Has its processor execute that to its end, and be afterwards what it was before. By the thread that runs it.
    pub fn detour(&mut self, detour: &Detour) -> Result<()> {
        let host = Error::kvm("leading a virtual processor aside");
        let general = self.vcpu.get_regs().map_err(&host)?;
        let special = self.vcpu.get_sregs().map_err(&host)?;
        let window = std::mem::take(&mut self.vcpu.get_kvm_run().request_interrupt_window);
        let mut aside = special;
        aside.cr3 = detour.tables;
        self.vcpu.set_sregs(&aside).map_err(&host)?;
        let [rdi, rsi, rdx, rcx] = detour.arguments;
        let (rip, rflags) = (detour.entry, 0x202);
        let there = kvm_bindings::kvm_regs { rip, rflags, rdi, rsi, rdx, rcx, ..Default::default() };
        self.vcpu.set_regs(&there).map_err(&host)?;
        let mut interrupted = false;
        let end = loop {
            match self.run() {
                Exit::Doorbell => break Ok(()),
                Exit::Interrupted => interrupted = true,
                Exit::NoMemory => break Err(Error::Aside("it touched memory that is not there")),
                Exit::Broken(why) => break Err(Error::Aside(why)),
            }
        };
        self.vcpu.set_sregs(&special).map_err(&host)?;
        self.vcpu.set_regs(&general).map_err(&host)?;
        self.vcpu.get_kvm_run().request_interrupt_window = window;
        if interrupted {
            // It was meant for the guest, which is told when it is run.
            super::own_thread().interrupt();
        }
        end
    }
}
