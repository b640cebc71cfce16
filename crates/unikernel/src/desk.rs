//! Where a family takes orders from outside: the tender's end of each [`crate::control`] connection, in one thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};
use sys::Errno;

use crate::control::{self, Order, Word};
use crate::family::Family;
use crate::library::{Update, read_request};
use crate::signals::Sender;
use crate::snapshot::KeepOrder;
use crate::start::Starter;

/// Somebody outside who wants to hear of something.
#[derive(Clone, Debug)]
pub(crate) struct Listener(Arc<OwnedFd>);

impl Listener {
    /// Tells it. One that does not listen, or too slowly, loses its connection.
    pub(crate) fn tell(&self, word: &Word) {
        if word.say(&self.0).is_err() {
            let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
        }
    }
}

/// An order for a copy of a cell, which its first process carries out itself.
pub(crate) struct CopyOrder {
    pub(crate) streams: [OwnedFd; 3],
    pub(crate) listener: Listener,
    pub(crate) outcome: Arc<Outcome>,
}

/// What a first process carries out itself, where it could be forked.
pub(crate) enum Demand {
    /// To be made again.
    Copy(CopyOrder),
    /// To be kept.
    Keep(KeepOrder),
}

impl Demand {
    pub(crate) fn listener(&self) -> &Listener {
        match self {
            Self::Copy(it) => &it.listener,
            Self::Keep(it) => &it.listener,
        }
    }
}

/// What became of an order.
#[derive(Default)]
pub(crate) struct Outcome(AtomicU32);

impl Outcome {
    /// Nobody wants it any more.
    const CANCELLED: u32 = u32::MAX;

    /// It is that process; nothing if nobody wants it any more.
    pub(crate) fn is(&self, number: u32) -> Option<()> {
        self.0.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).ok().map(drop)
    }

    fn number(&self) -> Option<u32> {
        Some(self.0.load(Ordering::SeqCst)).filter(|it| ![0, Self::CANCELLED].contains(it))
    }

    fn cancel(&self) {
        let _ = self.0.compare_exchange(0, Self::CANCELLED, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// A connection.
struct Caller {
    line: Arc<OwnedFd>,
    /// The process that it is about, once there is one.
    process: Arc<Outcome>,
}

/// The most that connections have at once.
const MOST_CALLERS: usize = 8 << 10;

/// Serves whoever calls, for as long as the tender lives.
pub(crate) fn serve(listener: &OwnedFd, family: &Arc<Family>, starter: &Starter) {
    let mut callers: Vec<Caller> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
        fds.extend(callers.iter().map(|it| PollFd::new(&*it.line, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let ready: Vec<bool> = fds.iter().map(|it| !it.revents().is_empty()).collect();
        drop(fds);
        let mut which = ready.iter().skip(1);
        callers.retain_mut(|it| {
            let stays = which.next() != Some(&true) || it.hear(family, starter).is_some();
            if !stays {
                it.hang_up(family);
            }
            stays
        });
        if ready.first() == Some(&true)
            && let Ok(line) = accept_with(listener, SocketFlags::CLOEXEC)
            && control::never_wait(&line).is_ok()
            && callers.len() < MOST_CALLERS
        {
            callers.push(Caller { line: Arc::new(line), process: Arc::default() });
        }
    }
}

impl Caller {
    /// Hears one record; nothing when the connection has ended.
    fn hear(&mut self, family: &Arc<Family>, starter: &Starter) -> Option<()> {
        let mut bytes = [0; 64];
        let (length, descriptors) = match sys::socket::receive(&*self.line, &mut bytes) {
            Ok((0, _)) => return None,
            Ok(received) => received,
            Err(Errno::AGAIN) => return Some(()),
            Err(_) => return None,
        };
        let listener = || Listener(self.line.clone());
        match (Order::of(&bytes[..length])?, descriptors) {
            (Order::Run { cell }, [Some(stdin), Some(stdout), Some(stderr), Some(command)]) => {
                let command = control::read_command(&command)?;
                if family.gate.is_closed() {
                    family.log("the cell is sealed: no further program runs in it");
                    listener().tell(&Word::Refused(Errno::PERM));
                    return None;
                }
                match starter.run(family, command, [stdin, stdout, stderr], cell, listener()) {
                    Ok(number) => self.process.is(number)?,
                    Err(error) => {
                        family.log(&format!("a further program did not start: {error}"));
                        listener().tell(&Word::Refused(Errno::AGAIN));
                    }
                }
            }
            (Order::Copy { cell }, [Some(stdin), Some(stdout), Some(stderr), None]) => {
                let outcome = self.process.clone();
                let order = CopyOrder { streams: [stdin, stdout, stderr], listener: listener(), outcome };
                if let Err(errno) = family.order(cell, Demand::Copy(order)) {
                    listener().tell(&Word::Refused(errno));
                }
            }
            (Order::Another, [Some(stdin), Some(stdout), Some(stderr), None]) => {
                match starter.another(family, [stdin, stdout, stderr], listener()) {
                    Ok(number) => {
                        self.process.is(number)?;
                        listener().tell(&Word::Started { number });
                    }
                    Err(error) => {
                        family.log(&format!("another cell did not begin: {error}"));
                        listener().tell(&Word::Refused(Errno::AGAIN));
                    }
                }
            }
            (Order::Keep { cell }, [Some(state), Some(bytes), None, None]) => {
                let order = KeepOrder { state, bytes, listener: listener() };
                if let Err(errno) = family.order(cell, Demand::Keep(order)) {
                    listener().tell(&Word::Refused(errno));
                }
            }
            (Order::Signal(signal), _) => {
                if let Some(number) = self.process.number() {
                    let _ = family.kill(Sender::OUTSIDE, number as i32, signal);
                }
            }
            (Order::Key(signal), _) => {
                if let Some(number) = self.process.number() {
                    family.signal_foreground(number, signal);
                }
            }
            (Order::News, _) => family.tell_news(listener()),
            (Order::List, _) => {
                family.list().iter().for_each(|word| self.say(word));
                return None;
            }
            (Order::Libraries { cell }, _) => {
                match family.libraries.list(family, cell) {
                    Ok(all) => all.into_iter().for_each(|it| self.say(&Word::Library(it))),
                    Err(why) => self.say(&Word::Unchanged(why)),
                }
                return None;
            }
            (Order::Join, _) => {
                let told = match &family.board {
                    Some(board) => Word::Joined.say_with(&*self.line, &[board.file()]),
                    None => Word::Refused(Errno::PERM).say(&*self.line),
                };
                return told.ok().filter(|()| false);
            }
            (Order::Core { cell }, [Some(file), None, None, None]) => {
                let written = family.libraries.write_core(family, cell, file);
                self.say(&written.map_or_else(|why| Word::Unkept { why }, |()| Word::Kept));
                return None;
            }
            (Order::Update { cell }, [Some(file), Some(request), None, None]) => {
                if family.gate.is_code_fixed() {
                    self.say(&Word::Unchanged("the cell is sealed, and takes no new code".to_owned()));
                    return None;
                }
                let update = Update::read(&file, read_request(&request)?);
                let updated = update.and_then(|it| family.libraries.update(family, cell, it));
                self.say(&updated.map_or_else(Word::Unchanged, Word::Updated));
                return None;
            }
            _ => return None,
        }
        Some(())
    }

    /// Tells it, when there is room.
    fn say(&self, word: &Word) {
        while word.say(&*self.line) == Err(Errno::AGAIN) && self.can_take_more() {}
    }

    /// Waits until there is room for another word; a caller that reads none for long gets no more.
    fn can_take_more(&self) -> bool {
        let patience = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&*self.line, PollFlags::OUT)], Some(&patience)).is_ok_and(|it| it > 0)
    }

    /// Nobody will hear of the process any more, or may send it a signal.
    fn hang_up(&self, family: &Family) {
        const SIGKILL: i32 = 9;
        self.process.cancel();
        if let Some(number) = self.process.number() {
            let _ = family.kill(Sender::OUTSIDE, number as i32, SIGKILL);
        }
    }
}
