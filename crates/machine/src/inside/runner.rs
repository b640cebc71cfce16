//! The thread that a machine runs on, and how it is had to stand still. A debugger at it is served by that thread, so whoever
//! wants it frozen waits until the debugger lets it go on.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use dbt::Translations;

use crate::error::{Error, Result};
use crate::machine::gdb::Door;
use crate::machine::{End, Frozen, Machine};
use crate::watch::Interrupter;

/// A machine that runs.
pub(super) struct Runner {
    ready: Receiver<Interrupter>,
    interrupter: OnceCell<Interrupter>,
    orders: Sender<Order>,
    ended: Receiver<Result<End>>,
}

/// Somebody wants to have what the machine is, and goes on when he lets it.
struct Order {
    frozen: Sender<Result<Frozen>>,
    go_on: Receiver<()>,
}

/// A machine that stands still, until this is dropped.
pub(super) struct Standing {
    _go_on: Sender<()>,
}

impl Runner {
    /// Makes a machine and has it run, with what others have translated. Debuggers come in by that door.
    pub(super) fn begin(
        door: Arc<Door>,
        translations: Option<Arc<Translations>>,
        make: impl FnOnce() -> Result<Machine> + Send + 'static,
    ) -> Runner {
        let make = move || {
            let mut machine = make()?;
            if let Some(translations) = translations {
                machine.share(translations);
            }
            Ok(machine)
        };
        let ((tell, ready), (orders, hear), (over, ended)) = (mpsc::channel(), mpsc::channel(), mpsc::channel());
        thread::spawn(move || over.send(make().and_then(|machine| run(machine, &door, &tell, &hear))));
        Runner { ready, interrupter: OnceCell::new(), orders, ended }
    }

    /// What the machine is now.
    pub(super) fn freeze(&self) -> Result<(Frozen, Standing)> {
        let gone = || Error::Unkept { why: "the machine has just ended".into() };
        let interrupter = match self.interrupter.get() {
            Some(it) => it,
            None => {
                let it = self.ready.recv().map_err(|_| gone())?;
                self.interrupter.get_or_init(|| it)
            }
        };
        let ((frozen, hear), (standing, go_on)) = (mpsc::channel(), mpsc::channel());
        self.orders.send(Order { frozen, go_on }).map_err(|_| gone())?;
        interrupter.interrupt();
        let frozen = hear.recv().map_err(|_| gone())??;
        Ok((frozen, Standing { _go_on: standing }))
    }

    /// How the machine ended, if it does soon.
    pub(super) fn ended(&self, most: Duration) -> std::result::Result<Result<End>, RecvTimeoutError> {
        self.ended.recv_timeout(most)
    }
}

fn run(mut machine: Machine, door: &Door, tell: &Sender<Interrupter>, orders: &Receiver<Order>) -> Result<End> {
    let _ = tell.send(machine.interrupter());
    let given = Cell::new(None);
    let is_wanted = || {
        let order = given.take().or_else(|| orders.try_recv().ok());
        let is_wanted = order.is_some();
        given.set(order);
        is_wanted
    };
    loop {
        if let Some(end) = machine.run_with(door, is_wanted) {
            return machine.failure().map_or(Ok(end), |why| Err(Error::Native { why }));
        }
        if let Some(Order { frozen, go_on }) = given.take() {
            let _ = frozen.send(machine.freeze());
            // Nobody sends anything: it goes on when nobody could any more.
            let _ = go_on.recv();
        }
    }
}
