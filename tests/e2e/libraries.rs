//! Libraries of running unikernel cells: listed, replaced while programs use them, and left alone when a rule is broken.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use skep_tests::{Run, TestEnv, can_run, unikernel_engines};

/// Two libraries: `wax` has no data; `bee` has a counter with a name, and one without.
const WAX: &str = "
#include <unistd.h>
int wax_version(void) { return VERSION; }
int wax_wait(int (*go_on)(void)) { while (!go_on()) usleep(10000); return VERSION; }
#ifndef LACKING
int wax_more(int it) { return it * VERSION; }
#endif
";
const BEE: &str = "
int bee_count = 5;
int bee_steps[4] = {1, 1, 1, 1};
int *bee_step = &bee_steps[0];
#ifdef HIDDEN
static int bee_hidden;
int bee_hide(void) { return ++bee_hidden; }
#else
int bee_hide(void) { return 0; }
#endif
int bee_next(void) { bee_step = &bee_steps[2]; bee_count += *bee_step; return bee_count * 10 + VERSION; }
";

/// Prints what both say, directly and through a pointer that it keeps in its heap; one thread is inside until a file is
/// there.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int wax_version(void), wax_wait(int (*)(void)), wax_more(int), bee_next(void), bee_hide(void);
static int go_on(void) { return access("/tmp/go", F_OK) == 0; }
static void *inside(void *it)
{
    printf("returned %d\n", wax_wait(go_on));
    fflush(stdout);
    return it;
}
int main(void)
{
    int (**held)(void) = malloc(sizeof *held);
    *held = wax_version;
    pthread_t thread;
    pthread_create(&thread, 0, inside, 0);
    /* One that nobody knows of but the child. */
    static int *volatile count;
    if (getenv("FAMILY") && fork() == 0 && getenv("HOLDS"))
        count = dlsym(RTLD_DEFAULT, "bee_count");
    for (;;) {
        int (*found)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "wax_version");
        printf("%d %d %d %d %d %d\n", wax_version(), (*held)(), found(), wax_more(1), bee_next(), bee_hide());
        fflush(stdout);
        usleep(20000);
    }
}
"#;

/// A program and its libraries, compiled.
struct Built {
    dir: tempfile::TempDir,
}

impl Built {
    fn new() -> Self {
        let built = Self { dir: tempfile::tempdir().unwrap() };
        let (wax, bee) = (built.library("wax", WAX, 1, "1.1", &[]), built.library("bee", BEE, 1, "1.1", &[]));
        let text = built.dir.path().join("program.c");
        std::fs::write(&text, PROGRAM).unwrap();
        cc(&["-O1", "-rdynamic", "-o"], &[&built.program(), &text, &wax, &bee], &rpath(&wax, &bee));
        built
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    fn image(&self) -> String {
        format!("host:{}", self.program().display())
    }

    /// Compiles one; gives its file by the name that others know it by.
    fn library(&self, name: &str, text: &str, version: u32, number: &str, options: &[&str]) -> PathBuf {
        let marks = options.concat().replace(|it: char| !it.is_ascii_alphanumeric(), "");
        let dir = self.dir.path().join(format!("{name}-{number}-{marks}"));
        std::fs::create_dir(&dir).unwrap();
        let (source, file) = (dir.join("it.c"), dir.join(format!("lib{name}.so.{number}")));
        std::fs::write(&source, text).unwrap();
        let own = [format!("-DVERSION={version}"), format!("-Wl,-soname,lib{name}.so.1")];
        let options: Vec<String> = own.into_iter().chain(options.iter().map(|it| (*it).to_owned())).collect();
        cc(&["-O1", "-shared", "-fPIC", "-o"], &[&file, &source], &options);
        let known = dir.join(format!("lib{name}.so.1"));
        std::os::unix::fs::symlink(file.file_name().unwrap(), &known).unwrap();
        known
    }
}

fn rpath(one: &Path, other: &Path) -> Vec<String> {
    [one, other].iter().map(|it| format!("-Wl,-rpath,{}", it.parent().unwrap().display())).collect()
}

fn cc(before: &[&str], files: &[&PathBuf], after: &[String]) {
    let status = Command::new("cc").args(before).args(files).args(after).status().unwrap();
    assert!(status.success());
}

fn digest(file: &Path) -> String {
    let out = Command::new("sha256sum").arg(file).output().unwrap().stdout;
    format!("sha256:{}", String::from_utf8(out).unwrap().split(' ').next().unwrap())
}

/// A running cell of the program.
struct Cell<'a> {
    env: &'a TestEnv,
    name: &'a str,
}

impl Cell<'_> {
    fn lines(&self) -> Vec<Vec<u32>> {
        let text = self.env.skep(["logs", self.name]).ok();
        let numbers = |line: &str| line.split(' ').map(|it| it.parse().ok()).collect::<Option<Vec<u32>>>();
        text.lines().filter_map(numbers).collect()
    }

    fn latest(&self) -> Vec<u32> {
        self.lines().pop().unwrap_or_default()
    }

    fn update(&self, name: &str, file: &Path, options: &[&str]) -> Run {
        let image = format!("host:{}", file.display());
        self.env.skep(["lib", "update", self.name, &format!("lib{name}.so.1={image}")].iter().chain(options))
    }

    fn update_trusted(&self, name: &str, file: &Path, options: &[&str]) -> Run {
        let digest = digest(file);
        let trusted: Vec<&str> = ["--digest", &digest].iter().chain(options).copied().collect();
        self.update(name, file, &trusted)
    }

    /// The states of a library and its versions, process by process.
    fn states(&self, name: &str) -> Vec<(String, String)> {
        let all = self.env.skep(["lib", "ls", "--json", self.name]).json();
        let soname = format!("lib{name}.so.1");
        let text = |it: &serde_json::Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
        let of_name = all.iter().filter(|it| text(it, "soname") == soname);
        of_name.map(|it| (text(it, "version"), text(it, "state"))).collect()
    }
}

#[track_caller]
fn until(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does that on each engine that there is here, with a cell of the program.
fn with_cell(built: &Built, options: &[&str], check: impl Fn(&Cell<'_>)) {
    let env = TestEnv::with(&built.image());
    for engine in unikernel_engines() {
        let begin = ["run", "-d", "--as", "unikernel", "--network", "none", "--name", engine];
        let args = begin.iter().chain(options).copied().map(str::to_owned).chain([built.image()]);
        env.finish(env.command(args).env("SKEP_ENGINE", engine)).ok();
        let cell = Cell { env: &env, name: engine };
        until("it runs", || !cell.lines().is_empty());
        check(&cell);
        env.skep(["rm", "-f", engine]).ok();
    }
}

fn can() -> bool {
    can_run(&["root", "cc"])
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(version, state)| ((*version).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn whoever_holds_the_old_one_reaches_the_new_one_and_whoever_is_inside_comes_back() {
    if !can() {
        return;
    }
    let built = Built::new();
    let newer = built.library("wax", WAX, 2, "1.2", &[]);
    let newest = built.library("wax", WAX, 3, "1.10", &[]);
    with_cell(&built, &[], |cell| {
        assert_eq!(cell.latest()[..4], [1, 1, 1, 1]);
        assert_eq!(cell.states("wax"), pairs(&[("so 1.1", "current")]));
        let said = cell.update_trusted("wax", &newer, &[]).ok();
        assert!(said.contains("libwax.so.1 so 1.2 in 1 process"), "{said}");
        until("the new one is used", || cell.latest()[..4] == [2, 2, 2, 2]);
        assert_eq!(cell.states("wax"), pairs(&[("so 1.2", "current"), ("so 1.1", "in use")]));
        // Once more, over what the first left.
        cell.update_trusted("wax", &newest, &[]).ok();
        until("the newest one is used", || cell.latest()[..4] == [3, 3, 3, 3]);
        let go = built.dir.path().join("go");
        std::fs::write(&go, "").unwrap();
        cell.env.skep(["cp", go.to_str().unwrap(), &format!("{}:/tmp/go", cell.name)]).ok();
        let returned = || cell.env.skep(["logs", cell.name]).ok().contains("returned 1\n");
        until("who was inside came back to the old one", returned);
        let all = pairs(&[("so 1.10", "current"), ("so 1.2", "replaced"), ("so 1.1", "replaced")]);
        until("nobody is inside", || cell.states("wax") == all);
        // A program that is executed later has the newest one from its start.
        let program = built.program();
        let args = ["exec", "-d", cell.name, program.to_str().unwrap()];
        cell.env.skep(args).ok();
        until("it is there", || cell.states("wax").len() == 4);
        assert_eq!(cell.states("wax").last(), Some(&("so 1.10".to_owned(), "current".to_owned())));
    });
}

#[test]
fn all_processes_of_a_cell_get_it() {
    if !can() {
        return;
    }
    let built = Built::new();
    let newer = built.library("wax", WAX, 2, "1.2", &[]);
    with_cell(&built, &["-e", "FAMILY=1"], |cell| {
        until("both run", || cell.states("wax").len() == 2);
        let said = cell.update_trusted("wax", &newer, &[]).ok();
        assert!(said.contains("in 2 processes"), "{said}");
        until("both use it", || {
            let lines = cell.lines();
            lines.iter().rev().take(6).all(|it| it[..4] == [2, 2, 2, 2]) && lines.len() > 6
        });
        let mut current = cell.states("wax");
        current.retain(|it| it.1 == "current");
        assert_eq!(current, pairs(&[("so 1.2", "current"), ("so 1.2", "current")]));
    });
}

#[test]
fn when_one_process_cannot_be_changed_none_is() {
    if !can() {
        return;
    }
    let built = Built::new();
    let newer = built.library("bee", BEE, 2, "1.2", &[]);
    let wax = built.library("wax", WAX, 2, "1.2", &[]);
    with_cell(&built, &["-e", "FAMILY=1", "-e", "HOLDS=1"], |cell| {
        until("both run", || cell.states("bee").len() == 2);
        let said = cell.update_trusted("bee", &newer, &[]).fails(1);
        assert!(said.contains("the program keeps a pointer to data or code"), "{said}");
        assert_eq!(cell.states("bee"), pairs(&[("so 1.1", "current"), ("so 1.1", "current")]));
        let lines = cell.lines().len();
        until("both go on", || cell.lines().len() > lines + 20);
        assert!(cell.lines().iter().all(|it| it[4] % 10 == 1), "both count as before");
        // Each counts by itself, without a gap.
        let mut counted: Vec<u32> = cell.lines().iter().map(|it| it[4] / 10).collect();
        counted.sort_unstable();
        counted.dedup();
        assert!(counted.windows(2).all(|it| it[1] == it[0] + 1), "{counted:?}");
        assert!(cell.update_trusted("wax", &wax, &[]).ok().contains("in 2 processes"));
        until("both use it", || cell.lines().iter().rev().take(6).all(|it| it[..4] == [2, 2, 2, 2]));
    });
}

#[test]
fn data_with_a_name_goes_along() {
    if !can() {
        return;
    }
    let built = Built::new();
    let newer = built.library("bee", BEE, 2, "1.2", &[]);
    with_cell(&built, &[], |cell| {
        until("it counted", || cell.latest()[4] > 200);
        cell.update_trusted("bee", &newer, &[]).ok();
        until("the new one is used", || cell.latest()[4] % 10 == 2);
        let counted: Vec<u32> = cell.lines().iter().map(|it| it[4] / 10).collect();
        assert!(counted.windows(2).all(|it| it[1] == it[0] + 1), "nothing is lost, nothing comes twice: {counted:?}");
    });
}

#[test]
fn data_without_a_name_is_a_refusal_or_begins_afresh() {
    if !can() {
        return;
    }
    let built = Built::new();
    let hiding = built.library("bee", BEE, 2, "1.2", &["-DHIDDEN"]);
    let newer = built.library("bee", BEE, 3, "1.3", &["-DHIDDEN"]);
    with_cell(&built, &[], |cell| {
        cell.update_trusted("bee", &hiding, &[]).ok();
        until("it hides something", || cell.latest()[5] > 3);
        let said = cell.update_trusted("bee", &newer, &[]).fails(1);
        assert!(said.contains("have no name") && said.contains("--fresh-data"), "{said}");
        let before = cell.latest();
        until("it goes on as before", || cell.latest()[5] > before[5] + 2);
        assert_eq!(cell.latest()[4] % 10, 2);
        cell.update_trusted("bee", &newer, &["--fresh-data"]).ok();
        until("the new one is used", || cell.latest()[4] % 10 == 3);
        let latest = cell.latest();
        assert!(latest[5] < before[5] + 3 && latest[4] / 10 > before[4] / 10, "{before:?} {latest:?}");
    });
}

#[test]
fn a_rule_that_is_broken_changes_nothing() {
    if !can() {
        return;
    }
    let built = Built::new();
    let newer = built.library("wax", WAX, 2, "1.2", &[]);
    let older = built.library("wax", WAX, 9, "1.0", &[]);
    let lacking = built.library("wax", WAX, 9, "1.3", &["-DLACKING"]);
    let other = built.library("wax", WAX, 9, "1.4", &["-Wl,-soname,libhoney.so.1"]);
    let threads = built.library("wax", &format!("__thread int wax_own;{WAX}"), 9, "1.5", &[]);
    let begins = "__attribute__((constructor)) static void wax_begin(void) { write(1, \"\", 0); }";
    let begins = built.library("wax", &format!("{WAX}{begins}"), 9, "1.6", &[]);
    let needing = "int wax_absent(void); int wax_need(void) { return wax_absent(); }";
    let needing = built.library("wax", &format!("{WAX}{needing}"), 9, "1.7", &[]);
    let cut = built.library("wax", WAX, 9, "1.8", &[]);
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(cut.with_file_name("libwax.so.1.8"), &bytes[..bytes.len() / 2]).unwrap();
    with_cell(&built, &[], |cell| {
        let unsigned = cell.update("wax", &newer, &[]).fails(4);
        assert!(unsigned.contains("no signature") && unsigned.contains("--digest"), "{unsigned}");
        let wrong = cell.update("wax", &newer, &["--digest", &digest(&older)]).fails(4);
        assert!(wrong.contains(&digest(&newer)), "{wrong}");
        let check = |file: &Path, code: i32, why: &str| {
            let said = cell.update_trusted("wax", file, &[]).fails(code);
            assert!(said.contains(why), "{said}");
        };
        check(&older, 4, "version so 1.0 is older than so 1.1");
        check(&lacking, 1, "needs 'wax_more', which the new one lacks");
        check(&other, 1, "its own name is 'libhoney.so.1'");
        check(&threads, 1, "for each thread");
        check(&begins, 1, "at its beginning");
        check(&needing, 1, "needs 'wax_absent', which nobody has");
        check(&cut, 1, "libwax.so.1");
        let image = format!("libnone.so.1={}", built.image());
        assert!(cell.env.skep(["lib", "update", cell.name, &image]).fails(3).contains("no process"));
        let image = format!("libwax.so.1=host:{}", built.program().display());
        let bee = built.dir.path().join("bee-1.1-/libbee.so.1");
        let missing = cell.update("wax", &bee, &[]).fails(3);
        assert!(missing.contains("the image has none"), "{image}: {missing}");
        cell.env.skep(["pause", cell.name]).ok();
        assert!(cell.update_trusted("wax", &newer, &[]).fails(4).contains("skep resume"));
        cell.env.skep(["resume", cell.name]).ok();
        let lines = cell.lines().len();
        until("it goes on", || cell.lines().len() > lines + 5);
        assert_eq!(cell.latest()[..4], [1, 1, 1, 1]);
        assert_eq!(cell.states("wax"), pairs(&[("so 1.1", "current")]));
        // It was not worn out by all that.
        cell.update_trusted("wax", &newer, &[]).ok();
        until("the new one is used", || cell.latest()[..4] == [2, 2, 2, 2]);
    });
}

#[test]
fn a_container_says_who_can() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:busybox-static");
    env.skep(["run", "-d", "--network", "none", "--name", "c", "deb:busybox-static", "--", "busybox", "sleep", "99"])
        .ok();
    let said = env.skep(["lib", "ls", "c"]).fails(5);
    assert!(said.contains("cannot lib") && said.contains("--as unikernel"), "{said}");
    env.skep(["rm", "-f", "c"]).ok();
}

/// Debian's own build, which its package vouches for, under a program that never stops using it.
#[test]
fn zlib_is_replaced_while_python_uses_it() {
    if !can_run(&["root"]) {
        return;
    }
    const PYTHON: &str = "deb:python3-minimal";
    const PROGRAM: &str = "\
import threading, zlib
text = bytes(range(256)) * 200
def work():
    stream = zlib.compressobj(); parts = []
    for i in range(1 << 30):
        assert zlib.decompress(zlib.compress(text)) == text
        parts.append(stream.compress(text))
        if i % 50 == 49:
            parts.append(stream.flush()); assert zlib.decompress(b''.join(parts)) == text * len(parts[:-1])
            stream = zlib.compressobj(); parts = []
            print(i, flush=True)
for _ in range(3): threading.Thread(target=work).start()
";
    let env = TestEnv::with(PYTHON);
    env.pull("deb:zlib1g");
    for engine in unikernel_engines() {
        let args = ["run", "-d", "--as", "unikernel", "--network", "none", "--name", engine, PYTHON, "--", "python3"];
        env.finish(env.command(args.iter().chain(&["-c", PROGRAM])).env("SKEP_ENGINE", engine)).ok();
        let printed = || env.skep(["logs", engine]).ok().lines().count();
        until("it runs", || printed() > 3);
        for _ in 0..5 {
            env.skep(["lib", "update", engine, "libz.so.1=deb:zlib1g"]).ok();
            let before = printed();
            until("it goes on", || printed() > before + 3);
        }
        let all = env.skep(["lib", "ls", engine]).ok();
        assert_eq!(all.lines().filter(|it| it.contains("libz.so.1")).count(), 6, "{all}");
        env.skep(["rm", "-f", engine]).ok();
    }
}
