//! Copies of code in which system calls are jumps: a fresh cell has them, they are made once, and nobody reads them.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use skep_tests::{Run, TestEnv, can_run, unikernel_engines};

const BUSYBOX: &str = "deb:busybox-static";
const PYTHON: &str = "deb:python3-minimal";

/// A process makes its last call from a place that nothing is made of.
const FEW: u64 = 2;

/// Runs a program in a cell of its own. Gives its run, and how many of its calls came by a trap.
fn run(env: &TestEnv, engine: &str, image: &str, command: &[&str]) -> (Run, u64) {
    let begin = ["run", "--as", "unikernel", "--name", "cell", "--network", "none", image, "--"];
    let run = env.finish(env.command(begin.iter().chain(command)).env("SKEP_ENGINE", engine));
    let cells: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "cell"]).ok()).unwrap();
    let traps = cells[0]["record"]["traps"].as_u64().unwrap();
    env.skep(["rm", "-f", "cell"]).ok();
    (run, traps)
}

fn dir(env: &TestEnv) -> PathBuf {
    env.home().join("pool/patched")
}

/// The copies, and which file each is.
fn copies(env: &TestEnv) -> BTreeMap<PathBuf, u64> {
    let entries = std::fs::read_dir(dir(env)).unwrap().map(|it| it.unwrap());
    let files = entries.filter(|it| it.file_type().unwrap().is_file());
    files.map(|it| (it.path(), it.metadata().unwrap().ino())).collect()
}

#[test]
fn a_fresh_cell_traps_hardly_ever_and_a_second_one_makes_nothing_anew() {
    if !can_run(&["root"]) {
        return;
    }
    for (image, command, files) in [
        (PYTHON, &["python3", "-c", "import os, re; print(os.getpid())"][..], 2),
        (BUSYBOX, &["busybox", "echo", "1"], 1),
    ] {
        let env = TestEnv::with(image);
        let mut first = None;
        for engine in unikernel_engines().chain(unikernel_engines()) {
            let (run, traps) = run(&env, engine, image, command);
            assert_eq!((run.code, run.out.as_str()), (0, "1\n"), "{engine}: {}", run.err);
            assert!(traps <= FEW, "{engine}, {image}: {traps} traps");
            let there = copies(&env);
            assert_eq!(there.len(), files, "{there:?}");
            assert_eq!(*first.get_or_insert_with(|| there.clone()), there, "{engine}");
        }
        env.skep(["pool", "gc"]).ok();
        assert_eq!(Some(copies(&env)), first, "they are needed");
        env.skep(["image", "rm", image]).ok();
        env.skep(["pool", "gc"]).ok();
        assert!(copies(&env).is_empty(), "they are not");
    }
}

#[test]
fn processes_that_fork_and_execute_have_them_too() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let program = "\
import os, sys, threading
if len(sys.argv) > 1: sys.exit(int(sys.argv[1]))
ended = []
threads = [threading.Thread(target=lambda: ended.append(os.getppid())) for _ in range(3)]
[it.start() for it in threads]; [it.join() for it in threads]
for i in range(3):
    if os.fork() == 0: os.execv('/usr/bin/python3', ['python3', '-c', sys.orig_argv[2], str(i)])
print(len(ended), sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(3)))
";
    for engine in unikernel_engines() {
        let (run, traps) = run(&env, engine, PYTHON, &["python3", "-c", program]);
        assert_eq!((run.code, run.out.as_str()), (0, "3 [0, 1, 2]\n"), "{engine}: {}", run.err);
        assert!(traps <= 10 * FEW, "{engine}: {traps} traps");
    }
}

#[test]
fn a_damaged_copy_is_noticed_and_made_again() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let command = ["python3", "-c", "print(7)"];
    for engine in unikernel_engines() {
        let _ = run(&env, engine, PYTHON, &command);
        let before = copies(&env);
        let whole: Vec<Vec<u8>> = before.keys().map(|it| std::fs::read(it).unwrap()).collect();
        for path in before.keys() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
            // All of it, so that a program that executed any of it would be seen to.
            let length = std::fs::metadata(path).unwrap().len();
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .write_all_at(&vec![0xcc; length as usize], 0)
                .unwrap();
        }
        let (run, traps) = run(&env, engine, PYTHON, &command);
        assert_eq!((run.code, run.out.as_str()), (0, "7\n"), "{engine}: {}", run.err);
        assert!(traps <= FEW, "{engine}: {traps} traps");
        let after: Vec<Vec<u8>> = copies(&env).keys().map(|it| std::fs::read(it).unwrap()).collect();
        assert!(after == whole, "{engine}");
        assert_ne!(copies(&env), before, "{engine}: who has the old ones open keeps them");
    }
}

#[test]
fn without_room_for_them_calls_trap_and_are_answered() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    std::fs::write(dir(&env), "in the way").unwrap();
    for engine in unikernel_engines() {
        let (run, traps) = run(&env, engine, PYTHON, &["python3", "-c", "print(7)"]);
        assert_eq!((run.code, run.out.as_str()), (0, "7\n"), "{engine}: {}", run.err);
        assert!(traps > 10 * FEW, "{engine}: {traps} traps");
    }
}

#[test]
fn whoever_reads_a_file_finds_its_own_bytes() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let program = "\
import zlib
for path in ['/lib/x86_64-linux-gnu/libc.so.6', '/lib64/ld-linux-x86-64.so.2']:
    print(zlib.crc32(open(path, 'rb').read()))
";
    let container = ["run", "--rm", "--network", "none", PYTHON, "--", "python3", "-c", program];
    let expected = env.skep(container).ok();
    assert_eq!(expected.lines().count(), 2, "{expected}");
    for engine in unikernel_engines() {
        let (run, traps) = run(&env, engine, PYTHON, &["python3", "-c", program]);
        assert_eq!((run.code, run.out), (0, expected.clone()), "{engine}: {}", run.err);
        assert!(traps <= FEW, "{engine}: {traps} traps");
    }
}

#[test]
fn a_library_that_a_cell_has_written_to_is_executed_as_it_is() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    // Each process begins with a library that looks as before, as old as before.
    let program = "\
import os, sys
path = os.path.realpath('/lib/x86_64-linux-gnu/libc.so.6')
old = os.stat(path)
with open(path, 'r+b') as file:
    file.seek(64); byte = file.read(1); file.seek(64); file.write(byte)
os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
print(os.stat(path).st_mtime_ns == old.st_mtime_ns, flush=True)
os.execv('/usr/bin/python3', ['python3', '-c', 'print(8)'])
";
    for engine in unikernel_engines() {
        let (run, traps) = run(&env, engine, PYTHON, &["python3", "-c", program]);
        assert_eq!((run.code, run.out.as_str()), (0, "True\n8\n"), "{engine}: {}", run.err);
        assert!(traps > 5 * FEW, "{engine}: {traps} traps");
    }
}

#[test]
fn a_sealed_appliance_goes_on_with_them() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    // A call that it makes only once nobody may write into its code any more.
    let program = "\
import os, time
print('warm', flush=True)
time.sleep(2)
for _ in range(1000): os.sched_yield()
print('end', flush=True)
";
    let build = ["image", "build", "--as", "unikernel", "-t", "app", "--warm-until", "log warm", PYTHON, "--"];
    env.skep(build.iter().chain(&["python3", "-c", program])).ok();
    let out = env.skep(["run", "--name", "cell", "--network", "none", "app"]).ok();
    assert!(out.ends_with("end\n"), "{out}");
    let cells: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "cell"]).ok()).unwrap();
    let traps = cells[0]["record"]["traps"].as_u64().unwrap();
    assert!(traps <= FEW, "{traps} traps");
}
