//! A server, asked as Linux asks, and as nobody should.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::wire::kind;
use super::*;

/// A directory, what is beside it, and a server of it.
struct Trial {
    /// Holds `outside` and `shared`.
    above: TempDir,
    server: Server,
}

impl Trial {
    fn new(access: Access) -> Trial {
        let above = tempfile::tempdir().unwrap();
        let shared = above.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(above.path().join("outside"), "secret").unwrap();
        std::fs::write(shared.join("file"), "content").unwrap();
        std::fs::create_dir(shared.join("dir")).unwrap();
        symlink("../outside", shared.join("way out")).unwrap();
        symlink("/", shared.join("root")).unwrap();
        let directory = std::fs::File::open(&shared).unwrap().into();
        let mut trial = Trial { above, server: Server::new(directory, access).unwrap() };
        trial.ask(kind::VERSION, &[Part::Word(8192), Part::Name(b"9P2000.L")]).unwrap();
        trial.ask(kind::ATTACH, &[word(1), word(NOBODY), name(""), name(""), word(NOBODY)]).unwrap();
        trial
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.above.path().join("shared").join(name)
    }

    /// What came of a request: an error's number, or the reply.
    fn ask(&mut self, kind: u8, parts: &[Part<'_>]) -> Result<Vec<u8>, i32> {
        let mut writer = Writer::new(kind, 7);
        for part in parts {
            match part {
                Part::Byte(value) => writer.u8(*value),
                Part::Short(value) => writer.u16(*value),
                Part::Word(value) => writer.u32(*value),
                Part::Long(value) => writer.u64(*value),
                Part::Name(value) => writer.name(value),
                Part::Bytes(value) => value.iter().for_each(|byte| writer.u8(*byte)),
            }
        }
        let reply = self.server.answer(&writer.finish()).unwrap();
        assert_eq!(reply.len(), u32::from_le_bytes(reply[..4].try_into().unwrap()) as usize);
        assert_eq!(reply[5..7], [7, 0]);
        if reply[4] == kind::ERROR {
            return Err(i32::from_le_bytes(reply[7..11].try_into().unwrap()));
        }
        assert_eq!(reply[4], kind + 1);
        Ok(reply[7..].to_vec())
    }

    fn walk(&mut self, to: u32, names: &[&str]) -> Result<usize, i32> {
        let mut parts = vec![word(1), word(to), Part::Short(names.len() as u16)];
        parts.extend(names.iter().map(|it| name(it)));
        self.ask(kind::WALK, &parts).map(|reply| usize::from(reply[0]))
    }

    fn read(&mut self, handle: u32) -> Result<Vec<u8>, i32> {
        self.ask(kind::READ, &[word(handle), Part::Long(0), word(100_000)]).map(|reply| reply[4..].to_vec())
    }
}

#[derive(Debug, Clone)]
enum Part<'p> {
    Byte(u8),
    Short(u16),
    Word(u32),
    Long(u64),
    Name(&'p [u8]),
    Bytes(&'p [u8]),
}

fn word(value: u32) -> Part<'static> {
    Part::Word(value)
}

fn name(name: &str) -> Part<'_> {
    Part::Name(name.as_bytes())
}

const NOENT: i32 = 2;
const INVAL: i32 = 22;
const ROFS: i32 = 30;
const LOOP: i32 = 40;

#[test]
fn files_are_found_read_and_written() {
    let mut trial = Trial::new(Access::ReadWrite);
    assert_eq!(trial.walk(2, &["file"]), Ok(1));
    assert_eq!(trial.read(2), Err(9), "it is not open");
    trial.ask(kind::LOPEN, &[word(2), word(2)]).unwrap();
    assert_eq!(trial.read(2).unwrap(), b"content");
    trial.ask(kind::WRITE, &[word(2), Part::Long(3), word(3), Part::Bytes(b"CUT")]).unwrap();
    assert_eq!(std::fs::read(trial.path("file")).unwrap(), b"conCUTt");
    assert_eq!(trial.walk(3, &["dir", "none", "deeper"]), Ok(1), "as far as it goes");
    assert_eq!(trial.walk(3, &["none"]), Err(NOENT));
    assert_eq!(trial.ask(kind::CLUNK, &[word(3)]), Err(9), "there is no such handle");
    trial.ask(kind::CLUNK, &[word(2)]).unwrap();
    assert_eq!(trial.walk(2, &[]), Ok(0));
    trial.ask(kind::LOPEN, &[word(2), word(0)]).unwrap();
    let listed = trial.ask(kind::READDIR, &[word(2), Part::Long(0), word(8000)]).unwrap();
    for it in [&b"\x04\0file"[..], b"\x03\0dir", b"\x07\0way out", b"\x01\0.", b"\x02\0.."] {
        assert!(listed.windows(it.len()).any(|window| window == it));
    }
}

#[test]
fn a_file_without_a_name_is_opened_once_more() {
    let mut trial = Trial::new(Access::ReadWrite);
    trial.walk(2, &["file"]).unwrap();
    trial.ask(kind::LOPEN, &[word(2), word(2)]).unwrap();
    std::fs::remove_file(trial.path("file")).unwrap();
    let again = |trial: &mut Trial, to, names: &[&str]| {
        let mut parts = vec![word(2), word(to), Part::Short(names.len() as u16)];
        parts.extend(names.iter().map(|it| name(it)));
        trial.ask(kind::WALK, &parts).map(drop)
    };
    again(&mut trial, 3, &[]).unwrap();
    trial.ask(kind::LOPEN, &[word(3), word(2)]).unwrap();
    trial.ask(kind::WRITE, &[word(3), Part::Long(0), word(3), Part::Bytes(b"CUT")]).unwrap();
    assert_eq!(trial.read(2).unwrap(), b"CUTtent");
    assert_eq!(again(&mut trial, 4, &[".."]), Err(9), "it is open");
    assert_eq!(again(&mut trial, 2, &[]), Err(9), "it would not be open any more");
    assert_eq!(trial.read(2).unwrap(), b"CUTtent");
}

#[test]
fn what_is_made_has_the_mode_that_was_asked_for() {
    let mut trial = Trial::new(Access::ReadWrite);
    trial.walk(2, &["dir"]).unwrap();
    trial.ask(kind::LCREATE, &[word(2), name("new"), word(2), word(0o666), word(NOBODY)]).unwrap();
    trial.ask(kind::WRITE, &[word(2), Part::Long(0), word(2), Part::Bytes(b"hi")]).unwrap();
    assert_eq!(std::fs::read(trial.path("dir/new")).unwrap(), b"hi");
    assert_eq!(std::fs::metadata(trial.path("dir/new")).unwrap().permissions().mode() & 0o7777, 0o666);
    trial.ask(kind::MKDIR, &[word(1), name("sub"), word(0o777), word(NOBODY)]).unwrap();
    assert_eq!(std::fs::metadata(trial.path("sub")).unwrap().permissions().mode() & 0o7777, 0o777);
    trial.ask(kind::RENAMEAT, &[word(1), name("file"), word(1), name("moved")]).unwrap();
    trial.ask(kind::UNLINKAT, &[word(1), name("sub"), word(0x200)]).unwrap();
    trial.ask(kind::LINK, &[word(1), word(2), name("linked")]).unwrap();
    assert_eq!(std::fs::metadata(trial.path("linked")).unwrap().nlink(), 2);
    trial.ask(kind::SYMLINK, &[word(1), name("short"), name("../anywhere"), word(NOBODY)]).unwrap();
    trial.walk(3, &["short"]).unwrap();
    assert_eq!(&trial.ask(kind::READLINK, &[word(3)]).unwrap()[2..], b"../anywhere");
    assert!(!trial.path("file").exists() && !trial.path("sub").exists() && trial.path("moved").exists());
    let mut set = vec![word(2), word(0x1 | 0x8 | 0x20 | 0x100), word(0o600), word(0), word(0), Part::Long(1)];
    set.extend([0, 0, 1_000_000, 5].map(Part::Long));
    trial.ask(kind::SETATTR, &set).unwrap();
    let now = std::fs::metadata(trial.path("linked")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.len(), now.mtime(), now.mtime_nsec()), (0o600, 1, 1_000_000, 5));
}

#[test]
fn no_name_leads_out() {
    let mut trial = Trial::new(Access::ReadWrite);
    for bad in ["..", ".", "", "a/b", "/", "dir/..", "../outside", "file\0"] {
        assert_eq!(trial.walk(2, &[bad]), Err(INVAL), "{bad:?}");
        let made = trial.ask(kind::MKDIR, &[word(1), name(bad), word(0o777), word(NOBODY)]);
        assert_eq!(made, Err(INVAL), "{bad:?}");
        assert!(trial.ask(kind::UNLINKAT, &[word(1), name(bad), word(0)]).is_err());
        assert!(trial.ask(kind::RENAMEAT, &[word(1), name("file"), word(1), name(bad)]).is_err());
    }
    // A link is what it is; nothing lies behind it.
    assert_eq!(trial.walk(2, &["root", "etc"]), Ok(1));
    assert_eq!(trial.walk(2, &["way out"]), Ok(1));
    assert_eq!(trial.ask(kind::LOPEN, &[word(2), word(0)]), Err(LOOP));
    assert!(trial.ask(kind::LCREATE, &[word(2), name("x"), word(2), word(0o666), word(0)]).is_err());
    let made = trial.ask(kind::LCREATE, &[word(1), name("way out"), word(2), word(0o666), word(NOBODY)]);
    assert_eq!(made, Err(LOOP));
    assert_eq!(std::fs::read(trial.above.path().join("outside")).unwrap(), b"secret");
}

#[test]
fn devices_and_pipes_are_not_opened() {
    let mut trial = Trial::new(Access::ReadWrite);
    let make = |kind: u32| [word(1), name("node"), word(kind | 0o666), word(1), word(3), word(NOBODY)];
    assert_eq!(trial.ask(kind::MKNOD, &make(0o020_000)), Err(1), "a device is the host's");
    assert_eq!(trial.ask(kind::MKNOD, &make(0o060_000)), Err(1));
    trial.ask(kind::MKNOD, &make(0o010_000)).unwrap();
    trial.walk(2, &["node"]).unwrap();
    // Were it opened, nothing here would ever end.
    assert_eq!(trial.ask(kind::LOPEN, &[word(2), word(0)]), Err(13));
    assert_eq!(trial.ask(kind::LCREATE, &[word(1), name("node"), word(1), word(0o666), word(0)]), Err(13));
}

#[test]
fn a_share_for_reading_stays_as_it_is() {
    let mut trial = Trial::new(Access::ReadOnly);
    trial.walk(2, &["file"]).unwrap();
    assert_eq!(trial.ask(kind::LOPEN, &[word(2), word(1)]), Err(ROFS));
    assert_eq!(trial.ask(kind::LOPEN, &[word(2), word(0o1000)]), Err(ROFS));
    assert_eq!(trial.ask(kind::MKDIR, &[word(1), name("x"), word(0o777), word(0)]), Err(ROFS));
    assert_eq!(trial.ask(kind::LCREATE, &[word(1), name("x"), word(2), word(0o666), word(0)]), Err(ROFS));
    assert_eq!(trial.ask(kind::UNLINKAT, &[word(1), name("file"), word(0)]), Err(ROFS));
    assert_eq!(trial.ask(kind::RENAMEAT, &[word(1), name("file"), word(1), name("x")]), Err(ROFS));
    trial.ask(kind::LOPEN, &[word(2), word(0)]).unwrap();
    assert_eq!(trial.read(2).unwrap(), b"content");
    assert_eq!(trial.ask(kind::WRITE, &[word(2), Part::Long(0), word(1), Part::Bytes(b"x")]), Err(ROFS));
}

#[test]
fn attributes_that_the_host_acts_upon_are_not_a_guests() {
    let mut trial = Trial::new(Access::ReadWrite);
    trial.walk(2, &["file"]).unwrap();
    for bad in ["trusted.overlay.opaque", "security.selinux", "system.other"] {
        assert_eq!(trial.ask(kind::XATTRCREATE, &[word(2), name(bad), Part::Long(1), word(0)]), Err(95), "{bad}");
        assert_eq!(trial.ask(kind::XATTRWALK, &[word(2), word(3), name(bad)]), Err(61), "{bad}");
    }
    let huge = [word(2), name("user.x"), Part::Long(u64::MAX), word(0)];
    assert_eq!(trial.ask(kind::XATTRCREATE, &huge), Err(28));
    trial.ask(kind::XATTRCREATE, &[word(2), name("user.x"), Part::Long(2), word(0)]).unwrap();
    trial.ask(kind::WRITE, &[word(2), Part::Long(0), word(2), Part::Bytes(b"ok")]).unwrap();
    assert!(trial.ask(kind::WRITE, &[word(2), Part::Long(2), word(1), Part::Bytes(b"!")]).is_err());
    match trial.ask(kind::CLUNK, &[word(2)]) {
        Ok(_) => {
            trial.walk(2, &["file"]).unwrap();
            trial.ask(kind::XATTRWALK, &[word(2), word(3), name("user.x")]).unwrap();
            assert_eq!(trial.read(3).unwrap(), b"ok");
            trial.ask(kind::XATTRWALK, &[word(2), word(4), name("")]).unwrap();
            assert_eq!(trial.read(4).unwrap(), b"user.x\0");
        }
        // Not every file system has any.
        Err(errno) => assert_eq!(errno, 95),
    }
}

#[test]
fn a_new_session_has_nothing_of_the_old_one() {
    let mut trial = Trial::new(Access::ReadWrite);
    let version = trial.ask(kind::VERSION, &[word(u32::MAX), name("9P2000.L")]).unwrap();
    assert_eq!(version[..4], MOST_BYTES.to_le_bytes());
    assert_eq!(trial.walk(2, &["file"]), Err(9));
    let old = trial.ask(kind::VERSION, &[word(8192), name("9P2000")]).unwrap();
    assert_eq!(&old[6..], b"unknown");
    assert_eq!(trial.ask(kind::VERSION, &[word(10), name("9P2000.L")]), Err(INVAL));
    assert_eq!(trial.ask(200, &[]), Err(95));
    assert!(trial.server.answer(&[9, 0, 0, 0, 100, 0, 0]).is_none(), "it is not of the length that it says");
    assert!(trial.server.answer(&[]).is_none());
}

/// A server for the same guest, in another directory.
fn copy(trial: &Trial, prepare: impl Fn(&std::path::Path)) -> Trial {
    let above = tempfile::tempdir().unwrap();
    let shared = above.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(above.path().join("outside"), "secret").unwrap();
    prepare(&shared);
    let directory = std::fs::File::open(&shared).unwrap().into();
    let mut server = Server::new(directory, trial.server.access).unwrap();
    server.restore(trial.server.save().unwrap()).unwrap();
    Trial { above, server }
}

/// Its state, in an order.
fn data_of(server: &Server) -> Vec<String> {
    let state = server.save().unwrap();
    let mut handles: Vec<String> = state["handles"].as_array().unwrap().iter().map(ToString::to_string).collect();
    handles.sort();
    handles
}

#[test]
fn handles_lead_to_the_same_in_another_directory() {
    let mut trial = Trial::new(Access::ReadWrite);
    let identity =
        |it: &mut Trial, handle| it.ask(kind::GETATTR, &[word(handle), Part::Long(0)]).unwrap()[8..21].to_vec();
    trial.walk(2, &["file"]).unwrap();
    trial.ask(kind::LOPEN, &[word(2), word(2)]).unwrap();
    trial.walk(3, &["dir"]).unwrap();
    trial.ask(kind::LOPEN, &[word(3), word(0)]).unwrap();
    trial.walk(4, &["way out"]).unwrap();
    // A file that is open and has no name any more.
    trial.walk(5, &["dir"]).unwrap();
    trial.ask(kind::LCREATE, &[word(5), name("gone"), word(2), word(0o640), word(NOBODY)]).unwrap();
    trial.ask(kind::WRITE, &[word(5), Part::Long(0), word(4), Part::Bytes(b"kept")]).unwrap();
    trial.ask(kind::UNLINKAT, &[word(3), name("gone"), word(0)]).unwrap();
    let times = std::fs::metadata(trial.path("file")).unwrap().modified().unwrap();
    let before = identity(&mut trial, 2);

    let mut other = copy(&trial, |shared| {
        std::fs::create_dir(shared.join("dir")).unwrap();
        std::fs::write(shared.join("file"), "CONTENT").unwrap();
        std::fs::File::open(shared.join("file")).unwrap().set_modified(times).unwrap();
        symlink("../outside", shared.join("way out")).unwrap();
    });
    assert_eq!(data_of(&other.server), data_of(&trial.server));
    assert_eq!(other.read(2).unwrap(), b"CONTENT");
    assert_eq!(identity(&mut other, 2), before, "its guest knows it by the number that it had");
    other.walk(6, &["file"]).unwrap();
    assert_eq!(identity(&mut other, 6), before);
    other.ask(kind::WRITE, &[word(2), Part::Long(0), word(1), Part::Bytes(b"!")]).unwrap();
    assert_eq!(std::fs::read(other.path("file")).unwrap(), b"!ONTENT");
    assert_eq!(std::fs::read(trial.path("file")).unwrap(), b"content");
    assert!(other.ask(kind::READDIR, &[word(3), Part::Long(0), word(8000)]).is_ok());
    assert_eq!(&other.ask(kind::READLINK, &[word(4)]).unwrap()[2..], b"../outside");
    assert_eq!(other.read(5).unwrap(), b"kept");
    other.ask(kind::WRITE, &[word(5), Part::Long(4), word(1), Part::Bytes(b"!")]).unwrap();
    assert_eq!((other.read(5).unwrap(), trial.read(5).unwrap()), (b"kept!".to_vec(), b"kept".to_vec()));
    assert_eq!(std::fs::read_dir(other.path("")).unwrap().count(), 3, "it has no name there either");
}

#[test]
fn what_is_not_there_any_more_is_stale() {
    const STALE: i32 = 116;
    let mut trial = Trial::new(Access::ReadWrite);
    trial.walk(2, &["file"]).unwrap();
    trial.ask(kind::LOPEN, &[word(2), word(0)]).unwrap();
    trial.walk(3, &["dir"]).unwrap();
    // A link in the place of a file, and nothing in the place of a directory.
    let mut other = copy(&trial, |shared| symlink("../outside", shared.join("file")).unwrap());
    assert_eq!((other.read(2), other.walk(4, &[])), (Err(STALE), Ok(0)));
    assert_eq!(other.ask(kind::GETATTR, &[word(3), Part::Long(0)]), Err(STALE));
    let (attach, taken) = (kind::ATTACH, [word(3), word(NOBODY), name(""), name(""), word(NOBODY)]);
    assert_eq!(other.ask(attach, &taken), Err(9), "the number is taken");
    other.ask(kind::CLUNK, &[word(3)]).unwrap();
    assert!(other.ask(attach, &taken).is_ok());
}

#[test]
fn a_state_that_leads_out_leads_nowhere() {
    let mut trial = Trial::new(Access::ReadWrite);
    trial.walk(2, &["file"]).unwrap();
    let hex = |it: &str| it.bytes().map(|it| format!("{it:02x}")).collect::<String>();
    for path in ["../outside", "/etc/passwd", "root/etc", "way out", "dir/../../outside"] {
        let state = trial.server.save().unwrap().to_string().replace(&hex("file"), &hex(path));
        let directory = std::fs::File::open(trial.path("")).unwrap().into();
        let mut server = Server::new(directory, Access::ReadWrite).unwrap();
        server.restore(serde_json::from_str(&state).unwrap()).unwrap();
        let mut other = Trial { above: tempfile::tempdir().unwrap(), server };
        assert!(other.ask(kind::LOPEN, &[word(2), word(0)]).is_err(), "{path}");
    }
}

fn message() -> impl Strategy<Value = (u8, Vec<Part<'static>>)> {
    let names = ["file", "dir", "way out", "root", "..", "/", "new", "user.x", ""];
    let part = prop_oneof![
        4 => (0..6u32).prop_map(Part::Word),
        2 => prop::sample::select(names.to_vec()).prop_map(|it| Part::Name(it.as_bytes())),
        1 => any::<u32>().prop_map(Part::Word),
        1 => any::<u64>().prop_map(Part::Long),
        1 => (0..4u16).prop_map(Part::Short),
        1 => any::<u8>().prop_map(Part::Byte),
    ];
    ((8..124u8).prop_map(|kind| kind & !1), prop::collection::vec(part, 0..9))
}

proptest! {
    /// Whatever is asked, in whatever order: there is an answer of bounded size, and nothing outside is touched.
    #[test]
    fn random_messages_harm_nobody(messages in prop::collection::vec(message(), 1..40)) {
        let mut trial = Trial::new(Access::ReadWrite);
        for (kind, parts) in messages {
            if kind == kind::VERSION { continue }
            let _ = trial.ask(kind, &parts);
        }
        prop_assert_eq!(std::fs::read(trial.above.path().join("outside")).unwrap(), b"secret");
        prop_assert_eq!(std::fs::read_dir(trial.above.path()).unwrap().count(), 2);
    }

    #[test]
    fn random_bytes_harm_nobody(kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut trial = Trial::new(Access::ReadWrite);
        let mut message = vec![0, 0, 0, 0, kind, 1, 0];
        message.extend(bytes);
        let size = message.len() as u32;
        message[..4].copy_from_slice(&size.to_le_bytes());
        prop_assert!(trial.server.answer(&message).unwrap().len() <= MOST_BYTES as usize);
    }
}
