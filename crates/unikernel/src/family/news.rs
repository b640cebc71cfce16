//! What is told of a family: who is in it, and what happens that nobody asked for.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::control::Word;
use crate::desk::Listener;
use crate::family::Family;

/// So many numbers of unknown calls are counted: Linux has some five hundred.
const MOST_UNKNOWN: usize = 1024;

impl Family {
    /// The processes that live.
    pub(crate) fn list(&self) -> Vec<Word> {
        let account = self.account();
        let alive = account.processes.iter().filter(|(_, it)| it.is_alive());
        alive
            .map(|(number, it)| Word::Process {
                number: *number,
                parent: it.parent,
                cell: it.cell,
                name: String::from_utf8_lossy(&it.name).into_owned(),
            })
            .collect()
    }

    /// The name of a process's program.
    pub(crate) fn name_of(&self, number: u32) -> Vec<u8> {
        self.with(number, |it| it.name.clone()).unwrap_or_default()
    }

    /// Whether somebody wants a process to end at once.
    pub(crate) fn is_killed(&self, number: u32) -> bool {
        self.with(number, |it| it.living().is_none_or(|it| it.handle.is_killed())).unwrap_or(true)
    }

    /// Tells somebody what nobody asks for, from now on.
    pub(crate) fn tell_news(&self, listener: Listener) {
        let unknown = self.unknown();
        unknown.into_iter().for_each(|(call, times)| listener.tell(&Word::Unknown { call, times }));
        self.news.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// A line of a library operating system's, which says something only when something is wrong.
    pub(crate) fn log(&self, text: &str) {
        crate::say(text);
    }

    /// Counts a call that nothing implements.
    pub(crate) fn note_unknown(&self, number: u32) {
        let times = {
            let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            if unknown.len() >= MOST_UNKNOWN && !unknown.contains_key(&number) {
                return;
            }
            let times = unknown.entry(number).or_default();
            *times += 1;
            *times
        };
        // The first time, and ever more seldom.
        if times.is_power_of_two() {
            let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            news.iter().for_each(|it| it.tell(&Word::Unknown { call: number, times }));
        }
    }

    /// Tells those who listen to the news what they are in the end.
    pub(crate) fn tell_last_news(&self) {
        for (call, times) in self.unknown() {
            let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            news.iter().for_each(|it| it.tell(&Word::Unknown { call, times }));
        }
        let (news, times) = (self.news.lock().unwrap_or_else(PoisonError::into_inner), self.traps());
        news.iter().for_each(|it| it.tell(&Word::Traps { times }));
    }

    /// How many system calls came by a trap so far.
    pub(crate) fn traps(&self) -> u64 {
        let mut traps = self.traps.load(Ordering::Relaxed);
        self.each_living(|_, it| traps += u64::from(it.port.traps.load(Ordering::Relaxed)));
        traps
    }

    /// Those counts.
    pub(crate) fn unknown(&self) -> BTreeMap<u32, u64> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod properties {
    use super::*;

    #[test]
    fn no_more_numbers_are_counted_than_the_most() {
        let family = Family::new(None, crate::link::Stack::Host, crate::patched::Copies::default(), None);
        (0..MOST_UNKNOWN as u32 * 2).for_each(|it| family.note_unknown(it));
        (0..9).for_each(|_| family.note_unknown(3));
        let unknown = family.unknown();
        assert_eq!((unknown.len(), unknown.get(&3)), (MOST_UNKNOWN, Some(&10)));
    }
}
