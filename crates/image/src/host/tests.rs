//! Programs of this machine: closures, links, scripts, and what is refused.

use std::path::{Path, PathBuf};

use store::{Kind, Store};

use super::*;

/// A pool, and a directory that stands for the machine's root.
struct Machine {
    dir: tempfile::TempDir,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("pool")).unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        Self { dir, store }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Puts a file of the real machine into this one, links resolved.
    fn bring(&self, from: &str, to: &str) -> &Self {
        let target = self.root().join(&to[1..]);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(std::fs::canonicalize(from).unwrap(), target).unwrap();
        self
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        use std::os::unix::fs::PermissionsExt;
        let target = self.root().join(&path[1..]);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(&target, bytes).unwrap();
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.root().join(&path[1..]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    fn build(&self, source: &str) -> Result<(Vec<String>, Fetched)> {
        let wanted: HostSource = source.parse().unwrap();
        let options = FetchOptions::new(self.dir.path().join("cache"));
        let fetched = build_from(&self.root(), &self.store, &Source::Host(wanted.clone()), &wanted, &options, &())?;
        let tree = self.store.reader()?.tree(&fetched.record.tree)?;
        let files = tree
            .walk()
            .filter(|(path, entry)| !path.starts_with(b"etc/") && !matches!(entry.node.kind, Kind::Directory));
        Ok((files.map(|(path, _)| String::from_utf8(path).unwrap()).collect(), fetched))
    }

    #[track_caller]
    fn fails(&self, source: &str, why: &str) {
        let error = self.build(source).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(self.store.refs().unwrap().is_empty());
    }
}

/// The loader and the C library of the real machine, by the paths that a program names.
fn loader() -> (String, String) {
    let bytes = std::fs::read("/bin/true").unwrap();
    let interpreter = String::from_utf8(elf::parse(&bytes).unwrap().interpreter.unwrap()).unwrap();
    let search = Search::of_machine(Path::new("/"));
    (interpreter, search.default_directory(64).join("libc.so.6").display().to_string())
}

#[test]
fn a_program_comes_with_its_closure_and_its_links() {
    let (interpreter, libc) = loader();
    let machine = Machine::new();
    machine.bring("/bin/true", "/usr/bin/true").bring(&interpreter, &interpreter).bring(&libc, "/usr/lib/libc.so.6");
    machine.link("/bin", "usr/bin").link("/usr/bin/yes-it-is", "../bin/./true").write("/data/sub/file", "x");
    machine.link("/data/dangling", "/nowhere");
    let (files, fetched) = machine.build("/bin/yes-it-is,/data").unwrap();
    for file in [
        "bin",
        "usr/bin/true",
        "usr/bin/yes-it-is",
        "usr/lib/libc.so.6",
        "data/sub/file",
        "data/dangling",
        &interpreter[1..],
    ] {
        assert!(files.iter().any(|found| found == file), "{file} in {files:?}");
    }
    assert_eq!(fetched.record.config.entrypoint, ["/bin/yes-it-is"]);
    assert_eq!(fetched.record.arch, Arch::HOST);
    let (_, again) = machine.build("/bin/yes-it-is,/data").unwrap();
    assert_eq!(again.id, fetched.id, "the same files, the same image");
}

#[test]
fn libraries_that_only_the_configuration_leads_to_are_linked_where_the_loader_looks() {
    let (interpreter, libc) = loader();
    let machine = Machine::new();
    machine.bring("/bin/true", "/bin/true").bring(&interpreter, &interpreter).bring(&libc, "/opt/lib/libc.so.6");
    machine
        .write("/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")
        .write("/etc/ld.so.conf.d/x.conf", "/opt/lib # x\n");
    machine.write("/usr/lib/placeholder", "");
    let (files, _) = machine.build("/bin/true").unwrap();
    assert!(
        files.contains(&"opt/lib/libc.so.6".to_owned()) && files.contains(&"usr/lib/libc.so.6".to_owned()),
        "{files:?}"
    );
}

#[test]
fn scripts_bring_their_interpreter() {
    let (interpreter, libc) = loader();
    let machine = Machine::new();
    machine.bring("/bin/true", "/usr/bin/env").bring("/bin/true", "/usr/bin/tool");
    machine.bring(&interpreter, &interpreter).bring(&libc, "/usr/lib/libc.so.6");
    machine.write("/run-me", "#!/usr/bin/env -S X=1 tool\n");
    let (files, fetched) = machine.build("/run-me").unwrap();
    assert!(files.contains(&"usr/bin/env".to_owned()) && files.contains(&"usr/bin/tool".to_owned()), "{files:?}");
    assert!(fetched.notes.iter().any(|note| note.contains("script")));
    machine.write("/run-me-not", "#!/usr/bin/env missing-tool\n");
    assert!(machine.build("/run-me-not").unwrap_err().to_string().contains("missing-tool"));
}

#[test]
fn what_cannot_run_is_said() {
    let (interpreter, libc) = loader();
    Machine::new().fails("/nope", "/nope not found");
    Machine::new().write("/text", "hello").fails("/text", "neither an ELF program nor a script");
    let machine = Machine::new();
    machine.write("/dir/x", "").fails("/dir", "not an executable file");
    machine.link("/a", "b").link("/b", "a").fails("/a", "circle");
    machine.fails("/dir/x/y", "not");
    let machine = Machine::new();
    machine
        .bring("/bin/true", "/bin/true")
        .fails("/bin/true", &format!("loader {interpreter}, which /bin/true needs, not found"));
    machine
        .bring(&interpreter, &interpreter)
        .fails("/bin/true", "library libc.so.6, which /bin/true needs, not found: looked in");
    // The name is there, for another processor.
    let mut foreign = std::fs::read(&libc).unwrap();
    foreign[18] ^= 0xff;
    machine.write("/usr/lib/libc.so.6", foreign).fails("/bin/true", "library libc.so.6");
    machine.bring("/bin/true", "/bin/cut");
    let whole = std::fs::read(machine.root().join("bin/cut")).unwrap();
    machine.write("/bin/cut", &whole[..100]).fails("/bin/cut", "ELF file");
}

#[test]
fn another_processor_than_asked_for_is_refused() {
    let machine = Machine::new();
    let options = FetchOptions { arch: Some(Arch::S390x), ..FetchOptions::new(machine.dir.path().join("cache")) };
    let wanted: HostSource = "/bin/true".parse().unwrap();
    let error = build(&machine.store, &Source::Host(wanted.clone()), &wanted, &options, &()).unwrap_err();
    assert!(error.to_string().contains("s390x was asked for"), "{error}");
}

#[test]
fn origin_is_where_the_file_is() {
    let found = search::expanded(
        &[b"$ORIGIN/../lib".to_vec(), b"${ORIGIN}".to_vec(), b"relative".to_vec()],
        Path::new("/a/b/c"),
    );
    assert_eq!(found, [b"/a/b/../lib".to_vec(), b"/a/b".to_vec()]);
}
