//! Record locks of processes. To the host all members are one process, and so it keeps no locks apart for them: a family
//! keeps its own account, by file, and holds for each an open file's lock of the host, in the way of everybody else.
//!
//! A part of a file that a process has locked is *carried* by the open file through which it was locked last; an open file
//! carries for several processes that share it, and what the host is told of it is the strongest of what it carries.
//! **The host's locks are what the account says**: each change is first made there, and taken back where the host refuses.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::Errno;

use crate::files::File;

/// A file by its device and number.
pub(crate) type Key = (u64, u64);

/// How strongly a part is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// The open file that carries a lock.
#[derive(Clone, Debug)]
pub(crate) struct Carrier(pub(crate) Arc<File>);

impl PartialEq for Carrier {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A lock that a process holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) owner: u32,
    pub(crate) kind: Kind,
    pub(crate) range: Range<u64>,
    pub(crate) carrier: Carrier,
}

/// What the host is to be told: that this open file locks the part so, or not at all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) carrier: Carrier,
    pub(crate) range: Range<u64>,
    pub(crate) kind: Option<Kind>,
}

/// Makes one of them so at the host.
pub(crate) type Host<'a> = &'a mut dyn FnMut(&Step) -> Result<(), Errno>;

/// The locks of a family.
#[derive(Default)]
pub(crate) struct Locks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<Key, Vec<Held>>,
    /// Who waits for whom.
    waiting: BTreeMap<u32, u32>,
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The first lock that is in the way of a process's.
fn in_the_way<'a>(held: &'a [Held], owner: u32, range: &Range<u64>, kind: Kind) -> Option<&'a Held> {
    let conflicts =
        |it: &&Held| it.owner != owner && overlap(&it.range, range) && (kind == Kind::Write || it.kind == Kind::Write);
    held.iter().filter(conflicts).min_by_key(|it| it.range.start)
}

/// What is held when a process has given up a part, and perhaps locked it anew.
fn changed(held: &[Held], owner: u32, range: &Range<u64>, new: Option<(Kind, &Carrier)>) -> Vec<Held> {
    let mut after = Vec::new();
    for it in held {
        if it.owner != owner || !overlap(&it.range, range) {
            after.push(it.clone());
            continue;
        }
        for rest in [it.range.start..range.start, range.end..it.range.end] {
            if rest.start < rest.end {
                after.push(Held { range: rest, ..it.clone() });
            }
        }
    }
    if let Some((kind, carrier)) = new {
        let mut whole = range.clone();
        // Neighbours of the same kind are one lock.
        after.retain(|it| {
            let joins = it.owner == owner
                && it.kind == kind
                && it.carrier == *carrier
                && it.range.start <= whole.end
                && whole.start <= it.range.end;
            if joins {
                whole = it.range.start.min(whole.start)..it.range.end.max(whole.end);
            }
            !joins
        });
        after.push(Held { owner, kind, range: whole, carrier: carrier.clone() });
    }
    after
}

/// What the host is to be told when one becomes the other: first what is given up, then what is taken.
fn steps(before: &[Held], after: &[Held], range: &Range<u64>) -> Vec<Step> {
    let mut edges: Vec<u64> = before.iter().chain(after).flat_map(|it| [it.range.start, it.range.end]).collect();
    edges.extend([range.start, range.end]);
    edges.retain(|it| (range.start..=range.end).contains(it));
    edges.sort_unstable();
    edges.dedup();
    let mut carriers: Vec<&Carrier> = Vec::new();
    for it in before.iter().chain(after) {
        if !carriers.contains(&&it.carrier) {
            carriers.push(&it.carrier);
        }
    }
    let strongest = |held: &[Held], carrier: &Carrier, part: &Range<u64>| {
        held.iter().filter(|it| it.carrier == *carrier && overlap(&it.range, part)).map(|it| it.kind).max()
    };
    let mut all: Vec<(bool, Step)> = Vec::new();
    for carrier in carriers {
        for part in edges.windows(2).map(|it| it[0]..it[1]) {
            let (old, new) = (strongest(before, carrier, &part), strongest(after, carrier, &part));
            if old == new {
                continue;
            }
            match all.last_mut() {
                Some((_, last)) if last.carrier == *carrier && last.range.end == part.start && last.kind == new => {
                    last.range.end = part.end;
                }
                _ => all.push((new > old, Step { carrier: carrier.clone(), range: part, kind: new })),
            }
        }
    }
    all.sort_by_key(|it| it.0);
    all.into_iter().map(|it| it.1).collect()
}

/// Makes the host's locks those; where it refuses, they are again what they were.
fn make_so(before: &[Held], after: &[Held], range: &Range<u64>, host: Host<'_>) -> Result<(), Errno> {
    let made = steps(before, after, range).iter().try_for_each(&mut *host);
    if made.is_err() {
        // What was taken is given up again, and what was given up, which was ours a moment ago, taken again.
        for step in steps(after, before, range) {
            let _ = host(&step);
        }
    }
    made
}

impl Locks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process locks a part of a file, or gives it up. Who is in the way is EAGAIN.
    pub(crate) fn set(
        &self,
        key: Key,
        (owner, carrier): (u32, &Carrier),
        range: &Range<u64>,
        kind: Option<Kind>,
        host: Host<'_>,
    ) -> Result<(), Errno> {
        let mut state = self.state();
        state.waiting.remove(&owner);
        let held = state.files.get(&key).map_or(&[][..], Vec::as_slice);
        if kind.is_some_and(|kind| in_the_way(held, owner, range, kind).is_some()) {
            return Err(Errno::AGAIN);
        }
        let after = changed(held, owner, range, kind.map(|kind| (kind, carrier)));
        // What is given up may split what is left; that much more there is room for.
        if kind.is_some() && after.len() > MOST {
            return Err(Errno::NOLCK);
        }
        make_so(held, &after, range, host)?;
        state.put(key, after);
        Ok(())
    }

    /// A process waits for a lock that another member has: EDEADLK if that one waits for it in turn.
    pub(crate) fn wait(&self, key: Key, owner: u32, range: &Range<u64>, kind: Kind) -> Result<(), Errno> {
        let mut state = self.state();
        let held = state.files.get(&key).map_or(&[][..], Vec::as_slice);
        // Else it is somebody else's, of whom nothing is known.
        let Some(holder) = in_the_way(held, owner, range, kind).map(|it| it.owner) else { return Ok(()) };
        let (mut next, mut seen) = (Some(holder), 0);
        while let Some(it) = next {
            if it == owner {
                return Err(Errno::DEADLK);
            }
            seen += 1;
            next = state.waiting.get(&it).copied().filter(|_| seen <= state.waiting.len());
        }
        state.waiting.insert(owner, holder);
        Ok(())
    }

    /// A process does not wait any more.
    pub(crate) fn wait_no_more(&self, owner: u32) {
        self.state().waiting.remove(&owner);
    }

    /// What is in the way of a lock; or the open file by which the host is to be asked, if that is another.
    pub(crate) fn look(&self, key: Key, owner: u32, range: &Range<u64>, kind: Kind) -> Result<Held, Option<Carrier>> {
        let state = self.state();
        let held = state.files.get(&key).map_or(&[][..], Vec::as_slice);
        match in_the_way(held, owner, range, kind) {
            Some(it) => Ok(it.clone()),
            None => {
                Err(held.iter().find(|it| it.owner == owner && overlap(&it.range, range)).map(|it| it.carrier.clone()))
            }
        }
    }

    /// Whether a process has any.
    pub(crate) fn has(&self, owner: u32) -> bool {
        self.state().files.values().flatten().any(|it| it.owner == owner)
    }

    /// A process gives up what it has of a file.
    pub(crate) fn give_up(&self, key: Key, owner: u32, host: Host<'_>) {
        const ALL: Range<u64> = 0..END;
        let mut state = self.state();
        let Some(held) = state.files.get(&key) else { return };
        let after = changed(held, owner, &ALL, None);
        // It is given up whatever the host says.
        let _ = make_so(held, &after, &ALL, host);
        state.put(key, after);
    }

    /// A process has ended.
    pub(crate) fn end(&self, owner: u32, host: Host<'_>) {
        let keys: Vec<Key> = {
            let mut state = self.state();
            state.waiting.remove(&owner);
            let own = state.files.iter().filter(|it| it.1.iter().any(|it| it.owner == owner));
            own.map(|it| *it.0).collect()
        };
        keys.into_iter().for_each(|key| self.give_up(key, owner, host));
    }
}

impl State {
    fn put(&mut self, key: Key, held: Vec<Held>) {
        if held.is_empty() {
            self.files.remove(&key);
        } else {
            self.files.insert(key, held);
        }
    }
}

/// The most locks that a family has of a file: each change looks through all of them.
const MOST: usize = 1024;

/// No file is longer.
pub(crate) const END: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (1, 2);

    fn carriers<const N: usize>() -> [Carrier; N] {
        let file = || rustix::fs::memfd_create("f", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        [(); N].map(|()| Carrier(File::new(file(), crate::files::Waiting::Yes, b"f")))
    }

    /// A host that others use, too: it says no to any lock there.
    fn told(refuses: Range<u64>) -> impl FnMut(&Step) -> Result<(), Errno> {
        move |step| if step.kind.is_some() && overlap(&step.range, &refuses) { Err(Errno::AGAIN) } else { Ok(()) }
    }

    fn all(locks: &Locks) -> Vec<(u32, Kind, Range<u64>)> {
        let state = locks.state();
        state.files.values().flatten().map(|it| (it.owner, it.kind, it.range.clone())).collect()
    }

    #[test]
    fn members_are_in_each_others_way_and_nobody_in_his_own() {
        let [one, other] = carriers();
        let locks = Locks::default();
        let mut host = told(0..0);
        let mut set = |owner, carrier, range, kind| locks.set(KEY, (owner, carrier), &range, kind, &mut host);
        set(1, &one, 0..10, Some(Kind::Write)).unwrap();
        assert_eq!(set(2, &one, 5..6, Some(Kind::Read)), Err(Errno::AGAIN));
        assert_eq!(set(2, &other, 9..20, Some(Kind::Write)), Err(Errno::AGAIN));
        set(1, &other, 2..4, Some(Kind::Read)).unwrap();
        set(2, &other, 3..4, Some(Kind::Read)).unwrap();
        set(2, &one, 10..12, Some(Kind::Write)).unwrap();
        set(1, &one, 0..END, None).unwrap();
        assert_eq!(all(&locks), [(2, Kind::Read, 3..4), (2, Kind::Write, 10..12)]);
        assert!(locks.has(2) && !locks.has(1));
    }

    #[test]
    fn a_shared_open_file_keeps_what_others_have_of_it() {
        let [shared] = carriers();
        let held = |owner, kind, range| Held { owner, kind, range, carrier: shared.clone() };
        let before = [held(1, Kind::Read, 0..10), held(2, Kind::Read, 5..20)];
        let after = changed(&before, 1, &(0..END), None);
        let told = steps(&before, &after, &(0..END));
        assert_eq!(told, [Step { carrier: shared.clone(), range: 0..5, kind: None }]);
        let [other] = carriers();
        // What moves to another open file is given up by the first one before.
        let after = changed(&before[..1], 1, &(0..10), Some((Kind::Write, &other)));
        let told = steps(&before[..1], &after, &(0..10));
        assert_eq!(told.iter().map(|it| it.kind).collect::<Vec<_>>(), [None, Some(Kind::Write)]);
    }

    #[test]
    fn what_the_host_refuses_is_not_held() {
        let [one] = carriers();
        let locks = Locks::default();
        locks.set(KEY, (1, &one), &(0..5), Some(Kind::Read), &mut told(0..0)).unwrap();
        let refused = locks.set(KEY, (1, &one), &(0..50), Some(Kind::Write), &mut told(20..30));
        assert_eq!(refused, Err(Errno::AGAIN));
        assert_eq!(all(&locks), [(1, Kind::Read, 0..5)]);
    }

    #[test]
    fn who_waits_for_whom_waits_for_it_is_told() {
        let [one] = carriers();
        let locks = Locks::default();
        let mut host = told(0..0);
        locks.set(KEY, (1, &one), &(0..1), Some(Kind::Write), &mut host).unwrap();
        locks.set(KEY, (2, &one), &(1..2), Some(Kind::Write), &mut host).unwrap();
        locks.wait(KEY, 1, &(1..2), Kind::Write).unwrap();
        assert_eq!(locks.wait(KEY, 2, &(0..1), Kind::Write), Err(Errno::DEADLK));
        locks.wait_no_more(1);
        locks.wait(KEY, 2, &(0..1), Kind::Write).unwrap();
        locks.end(1, &mut host);
        assert_eq!(all(&locks), [(2, Kind::Write, 1..2)]);
    }
}
