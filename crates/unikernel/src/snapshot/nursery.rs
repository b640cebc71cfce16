//! Processes that are made ahead from a snapshot, and wait to be told who they are.
//!
//! The first thing that a copy does is to ask for its number. One that was made ahead has come so far: its machine is
//! made, its memory mapped, its thread is there, and it is answered when somebody wants it. As with empty machines
//! ([`crate::kvm::Kvm`]), **there are none before the first was wanted, and none once nobody wanted one for a while**.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vm::Exit;

use super::saved::SavedMachine;
use crate::error::Result;
use crate::guest::Handle;
use crate::kvm::{Guest, Kvm, Space, TablesOf};
use crate::member::{Body, KILLED, Member};
use crate::port::Mapped;
use crate::tender::thread;

/// A process that nobody has wanted yet.
pub(super) struct Unborn {
    pub(super) port: Arc<Mapped>,
    pub(super) space: Arc<Space>,
    /// Whoever has it can end it, wanted or not.
    pub(super) handle: Arc<Handle>,
    /// Nothing once it was wanted.
    thread: Option<Sender<Member>>,
}

impl Drop for Unborn {
    fn drop(&mut self) {
        if self.thread.take().is_some() {
            self.handle.kill();
        }
    }
}

impl Unborn {
    /// Makes one, which begins to run at once.
    pub(super) fn new(kvm: &Arc<Kvm>, machine: &SavedMachine, sealed: u32) -> Result<Self> {
        let shell = kvm.empty()?;
        let port = match &shell {
            Some(shell) => shell.port.clone(),
            None => Arc::new(Mapped::new(abi::port::Engine::Kvm)?),
        };
        crate::clock::write(&port.clock);
        port.sealed.store(sealed, std::sync::atomic::Ordering::Relaxed);
        // It stands in a call for a copy, of which it is one.
        port.answer(0, 0);
        let whose = if sealed == 0 { TablesOf::Guest } else { TablesOf::Tender };
        let guest = Guest::go_on(kvm, machine, &port, shell, whose)?;
        let space = guest.space();
        let (thread_end, wanted) = channel();
        let handle = Arc::new(Handle::machine());
        let (kvm, own, reached) = (kvm.clone(), port.clone(), handle.clone());
        thread("unborn", move || {
            wait(guest, &own, &reached, kvm, &wanted);
            reached.set_thread(None);
        })?;
        Ok(Self { port, space, handle, thread: Some(thread_end) })
    }

    /// Lets it be that process; nothing if its machine has failed meanwhile.
    pub(super) fn be(mut self, member: Member) -> Option<()> {
        self.thread.take()?.send(member).ok()
    }
}

/// Comes to the first call, and waits there.
fn wait(mut guest: Guest, port: &Mapped, handle: &Handle, kvm: Arc<Kvm>, wanted: &Receiver<Member>) {
    match guest.adopt() {
        Ok(thread) => handle.set_thread(Some(thread)),
        Err(_) => return,
    }
    while !port.is_called() {
        if handle.is_killed() {
            // Whoever wanted it hears that it has ended; it never got anywhere.
            return wanted.try_recv().into_iter().for_each(|mut member| member.end(KILLED));
        }
        match guest.run() {
            Exit::Doorbell | Exit::Interrupted => {}
            Exit::NoMemory | Exit::Broken(_) => return,
        }
    }
    // Nobody will: it was one too many.
    let Ok(mut member) = wanted.recv() else { return };
    member.body = Body::Machine(kvm, Some(Box::new(guest)));
    member.serve();
}

/// Those of one snapshot.
pub(super) struct Nursery {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Vec<Unborn>,
    /// Whether there is a thread that makes more.
    runs: bool,
}

/// So many are kept ready.
const READY: usize = 2;

/// How often it is looked whether there are enough. **It looks by itself**: being woken would take the processor from
/// whoever has just begun.
const LOOK: Duration = Duration::from_millis(5);

/// Nobody wanted one for so long: the family has settled.
const LONGEST: Duration = Duration::from_secs(5);

impl Nursery {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is ready; else one is made. From here on there will be some.
    pub(super) fn take(self: &Arc<Self>, kvm: &Arc<Kvm>, machine: &SavedMachine, sealed: u32) -> Result<Unborn> {
        let ready = {
            let mut state = self.state();
            if !state.runs {
                let (nursery, kvm, machine) = (self.clone(), kvm.clone(), machine.clone());
                state.runs = thread("nursery", move || nursery.serve(&kvm, &machine, sealed)).is_ok();
            }
            state.ready.pop()
        };
        ready.map_or_else(|| Unborn::new(kvm, machine, sealed), Ok)
    }

    fn serve(&self, kvm: &Arc<Kvm>, machine: &SavedMachine, sealed: u32) {
        let mut idle = Duration::ZERO;
        while idle < LONGEST {
            std::thread::sleep(LOOK);
            idle += LOOK;
            while idle < LONGEST && self.state().ready.len() < READY {
                // Where none is to be had, whoever wants one will hear why.
                match Unborn::new(kvm, machine, sealed) {
                    Ok(unborn) => {
                        self.state().ready.push(unborn);
                        idle = Duration::ZERO;
                    }
                    Err(_) => idle = LONGEST,
                }
            }
        }
        let unwanted = {
            let mut state = self.state();
            state.runs = false;
            std::mem::take(&mut state.ready)
        };
        drop(unwanted);
    }
}
