//! What an epoll instance holds. The kernel does not say, and it is needed for a copy of the process, and to know of whom
//! an event tells.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

use crate::files::File;

/// `struct epoll_event`, packed as on this processor: the events, then the program's own number.
pub(crate) const EVENT: usize = 12;

/// The files of a set.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    /// By the host's descriptor.
    files: BTreeMap<RawFd, Interest>,
    /// By the program's number; nothing where several have it.
    by_number: BTreeMap<u64, Option<RawFd>>,
}

/// A file of a set.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    pub(crate) file: Weak<File>,
    /// The descriptor by which it was added.
    pub(crate) descriptor: u64,
    /// What is to be told.
    pub(crate) events: u32,
    /// What the program wants to hear with it.
    pub(crate) number: u64,
}

impl Interest {
    /// By an event as the program gave it; nothing if that is too short.
    pub(crate) fn new(file: &Arc<File>, descriptor: u64, event: &[u8]) -> Option<Self> {
        let (events, number) = read_event(event)?;
        Some(Self { file: Arc::downgrade(file), descriptor, events, number })
    }
}

/// The events, and the program's number.
pub(crate) fn read_event(event: &[u8]) -> Option<(u32, u64)> {
    let (events, rest) = event.split_first_chunk::<4>()?;
    let number = rest.first_chunk::<8>()?;
    Some((u32::from_ne_bytes(*events), u64::from_ne_bytes(*number)))
}

impl Interests {
    /// It is in the set, by that descriptor of the host's, instead of what was there.
    pub(crate) fn put(&mut self, host: RawFd, interest: Interest) {
        self.remove(host);
        let number = interest.number;
        // A file that was closed has left the set without a word, and its number is given to the next.
        let is_others = |files: &BTreeMap<RawFd, Interest>, other: RawFd| {
            files.get(&other).is_some_and(|it| it.number == number && it.file.strong_count() > 0)
        };
        let is_taken = match self.by_number.get(&number) {
            None => false,
            Some(Some(other)) => is_others(&self.files, *other),
            Some(None) => self.files.keys().any(|other| is_others(&self.files, *other)),
        };
        self.by_number.insert(number, (!is_taken).then_some(host));
        self.files.insert(host, interest);
    }

    /// It is in the set no more.
    pub(crate) fn remove(&mut self, host: RawFd) {
        let Some(interest) = self.files.remove(&host) else { return };
        let is_nobodys = match self.by_number.get(&interest.number) {
            Some(None) => !self.files.values().any(|it| it.number == interest.number),
            Some(Some(other)) => *other == host,
            None => false,
        };
        if is_nobodys {
            self.by_number.remove(&interest.number);
        }
    }

    /// Whom an event with that number tells of, if that is one only.
    pub(crate) fn by_number(&self, number: u64) -> Option<&Interest> {
        self.files.get(self.by_number.get(&number)?.as_ref()?)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Interest> {
        self.files.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<File> {
        let end = rustix::pipe::pipe().unwrap().0;
        File::new(end, crate::files::Waiting::No, b"pipe")
    }

    #[test]
    fn a_number_that_several_have_tells_of_nobody() {
        let files = [(); 3].map(|()| file());
        let interest = |at: usize, number: u64| Interest {
            file: Arc::downgrade(&files[at]),
            descriptor: number,
            events: 1,
            number,
        };
        let mut set = Interests::default();
        set.put(10, interest(0, 1));
        set.put(11, interest(1, 2));
        assert_eq!(set.by_number(1).map(|it| it.descriptor), Some(1));
        set.put(12, interest(2, 1));
        assert!(set.by_number(1).is_none());
        // Changed to another.
        set.put(11, interest(1, 3));
        assert!(set.by_number(2).is_none());
        assert_eq!(set.by_number(3).map(|it| it.descriptor), Some(3));
        set.remove(11);
        assert!(set.by_number(3).is_none());
        assert_eq!(set.iter().count(), 2);
    }

    #[test]
    fn the_number_of_a_file_that_was_closed_is_the_next_ones() {
        let (first, second, third) = (file(), file(), file());
        let interest =
            |file: &Arc<File>, descriptor| Interest { file: Arc::downgrade(file), descriptor, events: 1, number: 7 };
        let mut set = Interests::default();
        set.put(10, interest(&first, 1));
        drop(first);
        set.put(11, interest(&second, 2));
        assert_eq!(set.by_number(7).map(|it| it.descriptor), Some(2));
        let both = file();
        set.put(12, interest(&both, 3));
        assert!(set.by_number(7).is_none());
        drop((second, both));
        set.put(13, interest(&third, 4));
        assert_eq!(set.by_number(7).map(|it| it.descriptor), Some(4));
    }

    #[test]
    fn an_event_is_twelve_bytes() {
        let bytes = [&5u32.to_ne_bytes()[..], &9u64.to_ne_bytes()].concat();
        assert_eq!(read_event(&bytes), Some((5, 9)));
        assert_eq!(bytes.len(), EVENT);
        assert_eq!(read_event(&bytes[..11]), None);
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Put {
            host: RawFd,
            number: u64,
        },
        Remove {
            host: RawFd,
        },
        /// The host closes the file, of which the set does not hear.
        Close {
            host: RawFd,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let (host, number) = (0..6, prop_oneof![0..4u64, any::<u64>()]);
        prop_oneof![
            3 => (host.clone(), number).prop_map(|(host, number)| Step::Put { host, number }),
            1 => host.clone().prop_map(|host| Step::Remove { host }),
            1 => host.prop_map(|host| Step::Close { host }),
        ]
    }

    proptest! {
        #[test]
        fn an_event_tells_of_one_or_of_nobody(steps in prop::collection::vec(step(), 0..40)) {
            let null = || File::new(std::fs::File::open("/dev/null").unwrap().into(), crate::files::Waiting::No, b"");
            let mut set = Interests::default();
            let mut files: BTreeMap<RawFd, (Arc<File>, u64)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put { host, number } => {
                        let file = null();
                        let event = [&1u32.to_ne_bytes()[..], &number.to_ne_bytes()].concat();
                        set.put(host, Interest::new(&file, host as u64, &event).unwrap());
                        files.insert(host, (file, number));
                    }
                    Step::Remove { host } => {
                        set.remove(host);
                        files.remove(&host);
                    }
                    Step::Close { host } => drop(files.remove(&host)),
                }
                // What it knows of numbers is no more than what it knows of files.
                prop_assert!(set.by_number.len() <= set.files.len() && set.files.len() <= 6);
                for (host, (file, number)) in &files {
                    let Some(found) = set.by_number(*number) else { continue };
                    let alone = files.values().filter(|it| it.1 == *number).count() == 1;
                    prop_assert!(alone, "{number} is that of several");
                    prop_assert_eq!(found.descriptor, *host as u64);
                    prop_assert!(std::ptr::eq(found.file.as_ptr(), Arc::as_ptr(file)));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_as_events(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for event in bytes.chunks(EVENT) {
                prop_assert_eq!(read_event(event).is_some(), event.len() == EVENT);
            }
        }
    }
}
