//! Making a member a second time: for itself, or for somebody outside.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::call;
use abi::port::Engine;
use sys::Errno;

use super::{Body, KILLED, Member};
use crate::calls::messages::Undo;
use crate::control::Word;
use crate::copying::{self, Exchange};
use crate::desk::{CopyOrder, Demand};
use crate::family::{Living, Origin};
use crate::guest::Handle;
use crate::kept::Kept;
use crate::kvm::{Guest, OfGuest};
use crate::memory::OfProcess;
use crate::port::Mapped;
use crate::tender::thread;
use crate::waits::Waits;
use crate::{clock, process};

impl Member {
    /// Makes the process a second time, for its own purposes or for somebody outside.
    pub(super) fn fork_for(&mut self, purpose: u64) -> Result<u64, Errno> {
        if purpose != call::FORK_AS_CELL {
            let number = self.family.number()?;
            return self.fork(number, Origin::Child(self.number), None);
        }
        let (order, old) = self.family.next_order(self.number).ok_or(Errno::AGAIN)?;
        let CopyOrder { streams, listener, outcome } = match order {
            Demand::Copy(order) => order,
            Demand::Keep(order) => {
                crate::identity::as_tender(|| crate::snapshot::carry_out(self, &order));
                return Ok(u64::from(self.number));
            }
        };
        let streams = copying::streams(streams);
        let told = listener.clone();
        let made = self.family.number().and_then(|number| {
            let exchange = Exchange::plan(&mut self.table, &old, &streams)?;
            outcome.is(number).ok_or(Errno::CANCELED)?;
            let streams = streams.each_ref().map(Arc::downgrade);
            let name = self.family.with(self.number, |it| it.name.clone()).unwrap_or_default();
            self.fork(number, Origin::Cell { streams, listener: Some(listener), name }, Some(&exchange))
        });
        if let Err(errno) = made {
            told.tell(&Word::Refused(errno));
        }
        made
    }

    fn fork(&mut self, number: u32, origin: Origin, exchange: Option<&Exchange>) -> Result<u64, Errno> {
        let again = |_| Errno::AGAIN;
        let engine = match &self.body {
            Body::Process(_) => Engine::Process,
            Body::Machine(..) => Engine::Kvm,
        };
        let shell = match &self.body {
            Body::Process(_) => None,
            Body::Machine(kvm, _) => kvm.shell(),
        };
        let made = || Ok(Arc::new(Mapped::new(engine).map_err(again)?));
        let port = shell.as_ref().map_or_else(made, |it| Ok(it.port.clone()))?;
        clock::write(&port.clock);
        port.stack.store(self.family.stack, Ordering::Relaxed);
        port.sealed.store(self.family.gate.code(), Ordering::Relaxed);
        let waits = Arc::new(Waits::new().map_err(again)?);
        let (mut table, cwd, umask) = (self.table.clone(), self.cwd.clone(), self.umask);
        crate::calls::tellers::be_of_another(&mut table)?;
        if let Some(exchange) = exchange {
            exchange.apply(&mut table);
            waits.copy(&self.living.waits, exchange)?;
            // Who sleeps for what the original is told of looks for it again.
            let told = self.family.futexes.cookies_of(self.number);
            let changes = self.family.changes.cookies_of(&self.living.waits);
            told.into_iter().chain(changes).for_each(|it| waits.give(it));
        }
        let (credentials, program) = (self.credentials.clone(), self.program.clone());
        self.family.libraries.inherit(self.number, number);
        let attached = self.attached.clone();
        let (family, lost) = (self.family.clone(), self.family.clone());
        let name = format!("member {number}");
        let begin = move |living: Living, body, memory| Self {
            number,
            family,
            living,
            body,
            memory,
            table,
            kept: Kept::default(),
            cwd,
            umask,
            credentials,
            program,
            boot: None,
            attached,
            undo: Undo::default(),
            waited: None,
            logged: 0,
        };
        let spawned = match &self.body {
            // The member makes the process and says which it is.
            Body::Process(socket) => {
                let (ours, theirs) = process::socket_pair().map_err(again)?;
                let living = Living { port, waits, handle: Arc::new(Handle::process(None)) };
                self.family.add(number, origin, living.clone());
                let sent = process::send(socket, &[living.port.file(), &theirs].map(AsFd::as_fd));
                drop(theirs);
                let spawned = thread(&name, move || match process::receive_word(&ours) {
                    Some(pid) => {
                        living.handle.set_pid(Some(pid));
                        begin(living, Body::Process(ours), Box::new(OfProcess(pid))).serve();
                    }
                    // It never came to be.
                    None => lost.end(number, KILLED),
                });
                sent.and(spawned.map_err(again))
            }
            Body::Machine(_, None) => Err(Errno::AGAIN),
            Body::Machine(kvm, Some(guest)) => {
                let seed = guest.seed().inspect_err(|e| self.family.log(&format!("fork: {e}"))).map_err(again)?;
                let living = Living { port, waits, handle: Arc::new(Handle::machine()) };
                self.family.add(number, origin, living.clone());
                let kvm = kvm.clone();
                thread(&name, move || {
                    living.port.answer(0, 0);
                    match Guest::grow(&kvm, seed, &living.port, shell) {
                        Ok(guest) => {
                            let memory = Box::new(OfGuest(guest.space()));
                            begin(living, Body::Machine(kvm, Some(Box::new(guest))), memory).serve();
                        }
                        Err(error) => {
                            lost.log(&format!("fork: {error}"));
                            lost.end(number, KILLED);
                        }
                    }
                })
                .map_err(again)
            }
        };
        if spawned.is_err() {
            self.family.end(number, KILLED);
            return Err(Errno::AGAIN);
        }
        Ok(u64::from(number))
    }
}
