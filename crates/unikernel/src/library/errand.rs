//! An errand to every process of a cell: each stands still at its own next way out, and what is to be done is done to it. An
//! update is done to all of them before any goes on, or undone in all.
//!
//! The desk's thread runs the errand and decides; each process's own thread carries it out, and waits for the decision.
//! **No process waits longer than the errand may take**, and the errand ends in time whatever a guest does. What a process
//! does after that counts for none.

mod writing;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::library::ORDER;
use sys::Errno;

use super::plan::{Before, Order, Plan, plan};
use super::standing::{Pages, Standing};
use super::update::{Replaced, Update, describe};
use super::words::{Library, Updated};
use super::{Trouble, root};
use crate::family::Family;
use crate::files::File;
use crate::member::Member;
use crate::memory::Memory;

/// How long an errand may take: until every process stands still, and from then to its end.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for one in which all of a process's memory is written to a disk.
const PATIENCE_WRITING: Duration = Duration::from_secs(120);
/// How often processes that do not stand still are reminded.
const REMINDER: Duration = Duration::from_millis(3);

/// What is known of libraries beyond what the processes themselves know, and the errand under way.
#[derive(Default)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    changed: Condvar,
}

#[derive(Default)]
struct Books {
    /// Libraries that took another's place, by process, in the order in which they did.
    replaced: BTreeMap<u32, Vec<Replaced>>,
    errand: Option<Errand>,
    /// The versions of those that were put in other's places, by their builds.
    versions: BTreeMap<Vec<u8>, String>,
    /// How many processes wait for a decision.
    waiting: u32,
    /// How many errands there were.
    errands: u64,
}

#[derive(Clone)]
enum Purpose {
    List,
    /// The first process of the cell is written down.
    Core(Arc<std::fs::File>),
    Update(Arc<Update>),
}

struct Errand {
    /// Which one of the family's it is.
    number: u64,
    cell: u32,
    purpose: Purpose,
    visits: BTreeMap<u32, Visit>,
    decision: Option<Decision>,
    found: Vec<Library>,
    /// Why a process was not ready the last time.
    not_now: &'static str,
    path: Vec<u8>,
    /// When the last process stood still, and when the last went on.
    stood: Option<Instant>,
    went_on: Option<Instant>,
}

enum Visit {
    /// It shall stand still.
    Asked,
    /// Its guest does what comes first.
    Preparing(Box<Plan>),
    /// All is done, and it waits.
    Ready,
    /// Its guest does what comes last.
    Ending,
    /// It has the new library, or was listed.
    Done,
    /// It does not have the library, or is as it was.
    Unchanged,
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Commit,
    RollBack,
}

/// What a process does next.
enum Next {
    /// It goes on, until it is asked again.
    GoOn,
    /// It goes on, and comes again at its next system call.
    ComeAgain,
    CarryOut(Vec<Order>),
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The libraries of a cell's processes.
    pub(crate) fn list(&self, family: &Family, cell: u32) -> Result<Vec<Library>, String> {
        let mut errand = self.run(family, cell, Purpose::List)?;
        errand.found.sort_by_key(|it| it.process);
        Ok(errand.found)
    }

    /// Puts a library in the place of another in all processes of a cell that have it.
    pub(crate) fn update(&self, family: &Family, cell: u32, update: Update) -> Result<Updated, String> {
        let update = Arc::new(update);
        let errand = self.run(family, cell, Purpose::Update(update.clone()))?;
        let processes = errand.visits.values().filter(|it| matches!(it, Visit::Done)).count() as u32;
        if processes == 0 {
            return Err(format!("no process of the cell has {}", update.request.soname));
        }
        let took = errand.stood.zip(errand.went_on).map(|(stood, went_on)| went_on.saturating_duration_since(stood));
        let stood_still = took.unwrap_or_default().as_nanos() as u64;
        if !update.new.shape.build_id.is_empty() {
            let (build, version) = (update.new.shape.build_id.clone(), update.request.version.clone());
            self.books().versions.insert(build, version);
        }
        let replaced = root::replace(&errand.path, update.request.soname.as_bytes(), &update.bytes);
        Ok(Updated { processes, stood_still, root: replaced.err().unwrap_or_default() })
    }

    /// Runs an errand to its end.
    fn run(&self, family: &Family, cell: u32, purpose: Purpose) -> Result<Errand, String> {
        let patience = if matches!(purpose, Purpose::Core(_)) { PATIENCE_WRITING } else { PATIENCE };
        let deadline = Instant::now() + patience;
        let mut books = self.books();
        books.errands += 1;
        books.errand = Some(Errand {
            number: books.errands,
            cell,
            purpose,
            visits: BTreeMap::new(),
            decision: None,
            found: Vec::new(),
            not_now: "it does not come to where it could stand still",
            path: Vec::new(),
            stood: None,
            went_on: None,
        });
        drop(books);
        let mut failure = self.gather(family, cell, deadline);
        let mut books = self.books();
        if let Some(errand) = &mut books.errand {
            errand.decision.get_or_insert(if failure.is_none() { Decision::Commit } else { Decision::RollBack });
            // It may have been decided by whoever came last, in the moment in which the time was over.
            if errand.decision == Some(Decision::Commit) {
                failure = None;
            }
        }
        self.changed.notify_all();
        let end = Instant::now() + PATIENCE;
        loop {
            let living: Vec<u32> = family.in_cell(cell).into_iter().map(|it| it.0).collect();
            let under_way = |errand: &Errand| {
                let open = |it: &Visit| matches!(it, Visit::Preparing(_) | Visit::Ready | Visit::Ending);
                errand.visits.iter().any(|(number, it)| living.contains(number) && open(it))
            };
            let waits = books.waiting > 0 || books.errand.as_ref().is_some_and(under_way);
            if !waits || Instant::now() > end {
                break;
            }
            books = self.changed.wait_timeout(books, REMINDER).unwrap_or_else(PoisonError::into_inner).0;
        }
        let errand = books.errand.take();
        drop(books);
        for (_, living) in family.in_cell(cell) {
            living.port.libraries.store(0, Ordering::SeqCst);
        }
        match (failure, errand) {
            (Some(why), _) => Err(why),
            (None, Some(errand)) => errand.failure().map_or(Ok(errand), Err),
            (None, None) => Err("it was interrupted".to_owned()),
        }
    }

    /// Has every process of the cell come, and waits until all have. Says why not.
    fn gather(&self, family: &Family, cell: u32, deadline: Instant) -> Option<String> {
        loop {
            let living = family.in_cell(cell);
            if living.is_empty() {
                return Some("the cell has no process".to_owned());
            }
            let mut books = self.books();
            let errand = books.errand.as_mut()?;
            if errand.decision.is_some() {
                return None;
            }
            errand.visits.retain(|number, _| living.iter().any(|it| it.0 == *number));
            if let Some(why) = errand.failure() {
                return Some(why);
            }
            let mut missing = None;
            for (number, living) in &living {
                let visit = errand.visits.entry(*number).or_insert(Visit::Asked);
                if matches!(visit, Visit::Asked) {
                    living.port.libraries.store(1, Ordering::SeqCst);
                    living.tap();
                }
                if matches!(visit, Visit::Asked | Visit::Preparing(_)) {
                    missing = Some(*number);
                }
            }
            let number = missing?;
            if Instant::now() > deadline {
                return Some(format!("process {number}: {}", errand.not_now));
            }
            drop(self.changed.wait_timeout(books, REMINDER));
        }
    }

    /// A process stands still: what it does next.
    fn visit(&self, number: u32, result: u64, stood: &Stood<'_>, family: &Family) -> Next {
        let (errand_number, purpose, visit) = {
            let mut books = self.books();
            let Some(errand) = &mut books.errand else { return Next::GoOn };
            let purpose = errand.purpose.clone();
            let Some(visit) = errand.visits.get_mut(&number) else { return Next::GoOn };
            let visit = std::mem::replace(visit, Visit::Asked);
            (errand.number, purpose, visit)
        };
        let &Stood { memory, report, words } = stood;
        let (visit, next) = match visit {
            Visit::Asked => match &purpose {
                Purpose::List => self.listed(number, memory, report, words),
                Purpose::Core(file) => self.written(number, file, *stood, family),
                Purpose::Update(update) => self.planned(number, update, memory, report, words),
            },
            Visit::Preparing(plan) => self.changed_by(number, &purpose, *plan, result, memory, family),
            Visit::Ending => (Visit::Done, Next::GoOn),
            other => (other, Next::GoOn),
        };
        let mut books = self.books();
        // Whoever comes too late has come for another.
        if let Some(errand) = books.errand.as_mut().filter(|it| it.number == errand_number) {
            if matches!(visit, Visit::Done) {
                errand.went_on = Some(Instant::now());
            }
            errand.visits.insert(number, visit);
        }
        self.changed.notify_all();
        next
    }

    fn planned(&self, number: u32, update: &Update, memory: &dyn Memory, report: u64, words: u64) -> (Visit, Next) {
        let arrived = Instant::now();
        let before = self.books().replaced.get(&number).cloned().unwrap_or_default();
        let latest = |anchor: u64| {
            let it = before.iter().rev().find(|it| it.anchor == anchor)?;
            let update = it.update.as_ref()?;
            Some(Before { base: it.base, dynamic: it.base + update.new.shape.dynamic, file: &update.bytes })
        };
        let pages = Pages::new(memory);
        let standing = Standing::read(&pages, report, words).map_err(Trouble::from);
        let made = standing.and_then(|it| plan(&it, &update.new, &update.request, latest, root::read));
        match made {
            Ok(None) => (Visit::Unchanged, Next::GoOn),
            Ok(Some(plan)) => {
                if let Some(errand) = &mut self.books().errand {
                    errand.stood = Some(errand.stood.map_or(arrived, |it| it.max(arrived)));
                    errand.path.clone_from(&plan.path);
                }
                let orders = plan.prepare.clone();
                (Visit::Preparing(Box::new(plan)), Next::CarryOut(orders))
            }
            Err(why) => self.put_off(why),
        }
    }

    /// It cannot be now, or not at all.
    fn put_off(&self, why: Trouble) -> (Visit, Next) {
        let (why, next) = match why {
            Trouble::Refused(why) => return (Visit::Failed(why), Next::GoOn),
            Trouble::NotNow(why) => (why, Next::GoOn),
            Trouble::NotHere(why) => (why, Next::ComeAgain),
        };
        if let Some(errand) = &mut self.books().errand {
            errand.not_now = why;
        }
        (Visit::Asked, next)
    }

    /// The guest has made everything ready to be changed, or not.
    fn changed_by(
        &self,
        number: u32,
        purpose: &Purpose,
        plan: Plan,
        result: u64,
        memory: &dyn Memory,
        family: &Family,
    ) -> (Visit, Next) {
        /// EEXIST: what was to be free is not, and not ours to remove.
        const TAKEN: u64 = -17i64 as u64;
        let Purpose::Update(update) = purpose else { return (Visit::Unchanged, Next::GoOn) };
        if result != 0 {
            let undo = if result == TAKEN { Vec::new() } else { plan.roll_back };
            let next = if undo.is_empty() { Next::GoOn } else { Next::CarryOut(undo) };
            return (Visit::Failed(format!("its guest could not map it (error {})", result.wrapping_neg())), next);
        }
        let mut undo = Vec::new();
        if write_all(memory, &plan.writes, &mut undo).is_err() {
            take_back(memory, &undo);
            return (Visit::Failed("its memory could not be written".to_owned()), Next::CarryOut(plan.roll_back));
        }
        if self.decision(number, family) == Decision::RollBack {
            take_back(memory, &undo);
            return (Visit::Unchanged, Next::CarryOut(plan.roll_back));
        }
        let mut books = self.books();
        let all = books.replaced.entry(number).or_default();
        all.iter_mut().filter(|it| it.anchor == plan.anchor).for_each(|it| it.update = None);
        all.push(Replaced {
            version: update.request.version.clone(),
            update: Some(update.clone()),
            anchor: plan.anchor,
            base: plan.base,
            old: plan.old,
        });
        drop(books);
        match plan.commit.is_empty() {
            true => (Visit::Done, Next::GoOn),
            false => (Visit::Ending, Next::CarryOut(plan.commit)),
        }
    }

    /// Waits until it is decided what becomes of all.
    fn decision(&self, number: u32, family: &Family) -> Decision {
        let end = Instant::now() + 2 * PATIENCE;
        let cell = self.books().errand.as_ref().map(|it| it.cell);
        let living = cell.map(|it| family.in_cell(it)).unwrap_or_default();
        let mut books = self.books();
        if let Some(errand) = &mut books.errand {
            errand.visits.insert(number, Visit::Ready);
            // Whoever comes last need not wait to be told.
            if errand.decision.is_none() && errand.failure().is_none() && living.iter().all(|it| errand.is_ready(it.0))
            {
                errand.decision = Some(Decision::Commit);
            }
        }
        books.waiting += 1;
        self.changed.notify_all();
        let decision = loop {
            match &books.errand {
                Some(Errand { decision: Some(decision), .. }) => break *decision,
                Some(_) if Instant::now() < end => {}
                _ => break Decision::RollBack,
            }
            books = self.changed.wait_timeout(books, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        };
        books.waiting -= 1;
        decision
    }

    fn fail(&self, number: u32, why: &str) {
        if let Some(errand) = &mut self.books().errand {
            errand.visits.insert(number, Visit::Failed(why.to_owned()));
        }
        self.changed.notify_all();
    }

    fn listed(&self, number: u32, memory: &dyn Memory, report: u64, words: u64) -> (Visit, Next) {
        let pages = Pages::new(memory);
        let standing = Standing::read(&pages, report, words).map_err(Trouble::from);
        let found = standing.and_then(|standing| {
            let (before, versions) = {
                let books = self.books();
                (books.replaced.get(&number).cloned().unwrap_or_default(), books.versions.clone())
            };
            let modules = standing.modules()?;
            let libraries = modules.iter().filter(|it| !it.path.is_empty() && !it.linked.soname().is_empty());
            Ok(libraries.flat_map(|it| describe(number, it, &standing, &before, &versions)).collect::<Vec<_>>())
        });
        match found {
            Ok(found) => {
                if let Some(errand) = &mut self.books().errand {
                    errand.found.extend(found);
                }
                (Visit::Done, Next::GoOn)
            }
            Err(why) => self.put_off(why),
        }
    }

    /// A process was made from another, and has what that has.
    pub(crate) fn inherit(&self, parent: u32, child: u32) {
        let mut books = self.books();
        if let Some(replaced) = books.replaced.get(&parent).cloned() {
            books.replaced.insert(child, replaced);
        }
    }

    /// A process has become another program, or has ended.
    pub(crate) fn forget(&self, number: u32) {
        self.books().replaced.remove(&number);
    }

    /// The file of the library that a process is to map.
    pub(crate) fn file(&self, number: u32) -> Result<Arc<File>, Errno> {
        let books = self.books();
        let errand = books.errand.as_ref().filter(|it| matches!(it.visits.get(&number), Some(Visit::Preparing(_))));
        match errand.map(|it| &it.purpose) {
            Some(Purpose::Update(update)) => Ok(update.file.clone()),
            _ => Err(Errno::BADF),
        }
    }
}

impl Errand {
    /// Whether a process is as far as it comes before it is decided what becomes of all.
    fn is_ready(&self, number: u32) -> bool {
        matches!(self.visits.get(&number), Some(Visit::Ready | Visit::Unchanged | Visit::Done))
    }

    fn failure(&self) -> Option<String> {
        let failed = |(number, it): (&u32, &Visit)| match it {
            Visit::Failed(why) => Some(format!("process {number}: {why}")),
            _ => None,
        };
        self.visits.iter().find_map(failed)
    }
}

/// Writes all of it, and notes what was there.
fn write_all(memory: &dyn Memory, writes: &[(u64, Vec<u8>)], undo: &mut Vec<(u64, Vec<u8>)>) -> Result<(), Errno> {
    for (at, bytes) in writes {
        undo.push((*at, memory.bytes(*at, bytes.len())?));
        memory.write(*at, bytes)?;
    }
    Ok(())
}

fn take_back(memory: &dyn Memory, undo: &[(u64, Vec<u8>)]) {
    for (at, bytes) in undo.iter().rev() {
        // What could be written a moment ago still can be; if the guest sees to it that it cannot, that is its own affair.
        let _ = memory.write(*at, bytes);
    }
}

/// Where a process that stands still has its report.
#[derive(Clone, Copy)]
struct Stood<'a> {
    memory: &'a dyn Memory,
    report: u64,
    words: u64,
}

impl Member {
    /// [`abi::library::VISIT`].
    pub(crate) fn stand_still(&mut self, [result, report, words, into, room, _]: [u64; 6]) -> Result<u64, Errno> {
        let family = self.family.clone();
        let memory = &*self.memory;
        let (orders, again) =
            match family.libraries.visit(self.number, result, &Stood { memory, report, words }, &family) {
                Next::CarryOut(orders) => (orders, 1),
                Next::ComeAgain => (Vec::new(), 1),
                Next::GoOn => (Vec::new(), 0),
            };
        let bytes: Vec<u8> = orders.iter().flatten().flat_map(|it| it.to_ne_bytes()).collect();
        let fits = orders.len() as u64 * ORDER as u64 <= room;
        if !fits || memory.write(into, &bytes).is_err() {
            family.libraries.fail(self.number, "its guest takes no orders");
            self.living.port.libraries.store(0, Ordering::SeqCst);
            return Ok(0);
        }
        self.living.port.libraries.store(again, Ordering::SeqCst);
        Ok(orders.len() as u64)
    }
}
