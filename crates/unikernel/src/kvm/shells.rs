//! Machines that are made ahead, so that whoever needs one does not wait for it.
//!
//! A shell is a machine with its processor and with addresses for its first memory, its files and its port, where there is
//! nothing yet. Making one takes the kernel half a millisecond and more; filling one is a few mappings. They are made by a
//! thread that has nothing else to do, and only for a family in which machines are wanted: **none before the first was,
//! and none once nobody wanted one for a while**. A machine is not used twice: what its processor was in the middle of
//! would have to be undone, and closing one is nobody's haste.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use abi::layout::kvm::WINDOW;
use vm::{Host, Machine, Room, Window};

use super::first::{Coming, First, Machines};
use super::{Beginning, WINDOW_STEP, failed};
use crate::error::Result;
use crate::port::Mapped;
use crate::tender::thread;

/// A machine without content.
pub(crate) struct Shell {
    pub(super) machine: Machine,
    pub(super) room: Arc<Room>,
    pub(super) window: Arc<Window>,
    pub(crate) port: Arc<Mapped>,
}

impl Shell {
    pub(super) fn new(host: &Host) -> Result<Self> {
        let port = Arc::new(Mapped::new(abi::port::Engine::Kvm)?);
        let room = super::room(&port)?;
        let window = Arc::new(Window::new(WINDOW_STEP).map_err(failed)?);
        let mut machine = Machine::new(host).map_err(failed)?;
        machine.add(0, room.clone()).map_err(failed)?;
        machine.add(WINDOW, window.clone()).map_err(failed)?;
        Ok(Self { machine, room, window, port })
    }
}

/// Makes machines of a family.
pub(crate) struct Kvm {
    host: Arc<Host>,
    /// The family's first machine, until it is used.
    first: Mutex<Option<Coming>>,
    shells: Arc<Shells>,
}

struct Shells {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Vec<Shell>,
    /// Whether there is a thread that makes more.
    runs: bool,
}

/// How often it is looked whether there are enough.
const LOOK: Duration = Duration::from_millis(5);

/// So many are kept ready.
const READY: usize = 2;

/// Nobody wanted one for so long: the family has settled.
const LONGEST: Duration = Duration::from_secs(5);

impl Shells {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes shells as long as they are wanted. **It looks by itself**: being woken would take the processor from whoever
    /// has just taken one, who is in haste.
    fn serve(&self, host: &Host) {
        let mut idle = Duration::ZERO;
        while idle < LONGEST {
            std::thread::sleep(LOOK);
            idle += LOOK;
            while self.state().ready.len() < READY {
                idle = Duration::ZERO;
                match Shell::new(host) {
                    Ok(shell) => self.state().ready.push(shell),
                    // There is none to be had ahead: whoever wants one will hear why.
                    Err(_) => idle = LONGEST,
                }
                if idle == LONGEST {
                    break;
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

impl Kvm {
    pub(crate) fn new(Machines { host, first }: Machines) -> Self {
        let shells = Shells { state: Mutex::default() };
        Self { host, first: Mutex::new(first), shells: Arc::new(shells) }
    }

    /// A machine with the library operating system in it: the one that was made ahead, if nobody has it, or a new one.
    pub(super) fn first(&self) -> Result<First> {
        let coming = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        coming.map_or_else(|| First::new(&self.host, Beginning::Program), Coming::wait)
    }

    /// The machine that was made ahead for a snapshot, if nobody has it.
    pub(crate) fn empty(&self) -> Result<Option<Shell>> {
        let coming = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(match coming.map(Coming::wait).transpose()? {
            Some(First::Empty(shell)) => Some(shell),
            Some(First::Asking { .. }) | None => None,
        })
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// A machine that is ready, if there is one. From here on there will be.
    pub(crate) fn shell(&self) -> Option<Shell> {
        let mut state = self.shells.state();
        let shell = state.ready.pop();
        if !state.runs {
            let (shells, host) = (self.shells.clone(), self.host.clone());
            state.runs = thread("shells", move || shells.serve(&host)).is_ok();
        }
        shell
    }
}
