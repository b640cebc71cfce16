//! Posts in which anything may stand, carried out on files of all kinds.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;

use abi::post::Posts;
use proptest::prelude::*;

use super::*;
use crate::files::Waiting;

/// Memory of a guest: so many bytes from an address, each what its address says.
struct Bytes {
    at: u64,
    size: usize,
    /// The most that was asked for at once.
    most: AtomicUsize,
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

impl Memory for Bytes {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.most.fetch_max(into.len(), Ordering::Relaxed);
        let offset = at.checked_sub(self.at).ok_or(Errno::FAULT)?;
        let end = offset.checked_add(into.len() as u64).filter(|it| *it <= self.size as u64);
        end.ok_or(Errno::FAULT)?;
        into.iter_mut().zip(at..).for_each(|(place, at)| *place = byte(at));
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }
}

fn file(fd: impl Into<OwnedFd>) -> Arc<File> {
    File::new(fd.into(), Waiting::No, b"")
}

/// The two ends of a connection.
fn connection() -> [Arc<File>; 2] {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nodelay(true).unwrap();
    [file(near), file(listener.accept().unwrap().0)]
}

thread_local! {
    static CONNECTION: [Arc<File>; 2] = connection();
}

/// Looks at what has come to a stream, once that are so many bytes at least.
fn peek(from: &File, least: usize) -> Vec<u8> {
    let mut all = vec![0; 128 << 10];
    for _ in 0..200_000 {
        let come = rustix::net::recv(from, &mut all[..], RecvFlags::DONTWAIT | RecvFlags::PEEK).map_or(0, |it| it.0);
        if come >= least {
            all.truncate(come);
            return all;
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    panic!("{least} bytes never come");
}

/// Takes what has come, once that are so many bytes at least.
fn drain(from: &File, least: usize) -> Vec<u8> {
    let all = peek(from, least);
    take(from, all.len()).unwrap();
    all
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..64u64,
        any::<u64>(),
        0x1000..0x5000u64,
        i64::MAX as u64 - 2..i64::MAX as u64 + 3,
        u64::MAX - 2..=u64::MAX
    ]
}

/// Kind, length, how, where, offset.
fn words() -> impl Strategy<Value = (u32, u32, u32, u64, u64)> {
    let kind = prop_oneof![6 => 1..4u32, 1 => any::<u32>()];
    let length = prop_oneof![0..100u32, 0..0x1_0000u32, any::<u32>()];
    (kind, length, prop_oneof![0..3u32, any::<u32>()], number(), number())
}

fn put(post: &Post, (kind, length, how, at, offset): (u32, u32, u32, u64, u64)) {
    for (place, word) in [(&post.kind, kind), (&post.length, length), (&post.how, how)] {
        place.store(word, Ordering::Relaxed);
    }
    post.at.store(at, Ordering::Relaxed);
    post.offset.store(offset, Ordering::Relaxed);
}

fn posts() -> Posts {
    let post = || Post {
        kind: Default::default(),
        descriptor: Default::default(),
        length: Default::default(),
        how: Default::default(),
        at: Default::default(),
        offset: Default::default(),
    };
    Posts { count: Default::default(), reserved: 0, all: std::array::from_fn(|_| post()) }
}

proptest! {
    #[test]
    fn whatever_is_posted_is_bounded(words in words(), which in 0..4usize, come in 0..0x5000usize) {
        let all = posts();
        put(&all.all[0], words);
        let (kind, length, how, at, offset) = words;
        let wanted = Wanted::of(&all.all[0]);
        prop_assert_eq!(wanted.is_ok(), (1..4).contains(&kind));
        let Ok(wanted) = wanted else { return Ok(()) };
        if let Wanted::Send { broken, .. } = wanted {
            prop_assert_eq!(broken == Broken::Nothing, how & WITHOUT_SIGNAL != 0);
        }
        let memory = Bytes { at: 0x1000, size: 0x8000, most: AtomicUsize::new(0) };
        let longest = if kind == WRITE { LONGEST_WRITE } else { LONGEST };
        let length = (length as usize).min(longest);
        let readable = at >= 0x1000 && at.checked_add(length as u64).is_some_and(|end| end <= 0x9000);
        let bytes: Vec<u8> = if readable { (at..at + length as u64).map(byte).collect() } else { Vec::new() };

        let regular = rustix::fs::memfd_create("regular", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let [near, far] = CONNECTION.with(Clone::clone);
        rustix::net::send(&*far, &vec![7; come], SendFlags::NOSIGNAL).unwrap();
        peek(&near, come);
        let target = match which {
            0 => file(regular),
            1 => near.clone(),
            2 => file(std::fs::File::open("/dev/null").unwrap()),
            _ => file(rustix::pipe::pipe().unwrap().1),
        };
        let done = wanted.carry_out(&target, &memory);
        prop_assert!(memory.most.load(Ordering::Relaxed) <= longest);

        // The stream has what was sent and no more, and has lost what was taken and no more.
        let sends = if which == 1 && kind == SEND && readable { &bytes[..] } else { &[] };
        let takes = if which == 1 && kind == TAKE { length.min(come) } else { 0 };
        let (sent, left) = (drain(&far, sends.len()), drain(&near, 0));
        prop_assert!(sent == sends, "{} bytes were sent", sent.len());
        prop_assert_eq!(left.len(), come - takes);
        match kind {
            WRITE => prop_assert_eq!(target.take_late().is_some(), done.is_err() && readable),
            _ => prop_assert!(which == 1 || done == Err(Errno::INVAL)),
        }
        if which == 0 {
            let writes = kind == WRITE && readable && done.is_ok() && length > 0;
            let size = rustix::fs::fstat(&*target).unwrap().st_size as u64;
            prop_assert_eq!(size, if writes { offset + length as u64 } else { 0 });
        }
    }
}
