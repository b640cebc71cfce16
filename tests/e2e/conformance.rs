//! System calls behave as the host's: a program of some twenty-four hundred cases runs in a container, and in guests of both
//! engines, and prints a line for each. What the container prints is right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use skep_tests::{TestEnv, can_run};

const IMAGE: &str = "deb:busybox-static";

/// Cases that may differ, by how their names begin, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("process_files/waitid(P_PIDFD, by_clone3", "a container's filter has no clone3"),
    ("process_files/child > 0 && info.si_pid", "a container's filter has no clone3"),
    ("proc/", "files of /proc are few"),
    ("devices/", "which devices there are is the cell's affair"),
    ("fifo_waits/now() - begin > 80000000", "who opens a fifo to read waits when reading"),
    ("spawning/posix_spawn(&child, \"missing\"", "a child of vfork has memory of its own, so its error is lost"),
    ("system/", "limits, priorities and adoption are accepted and have no effect"),
    ("times/usage", "the processor's time is kept for the family as a whole"),
    ("times/t.tms_c", "the processor's time is kept for the family as a whole"),
    ("watches/", "how many instances there may be is the machine's affair"),
    ("sockets/s >= 0", "a cell may be without IPv6"),
    ("faults/try(read_there)", "what lies behind a file's end is zero in a guest with page tables"),
    ("memory/worked(any(PAGE, PROT_READ, MAP_PRIVATE, 5", "a directory cannot be mapped; the error is another"),
    ("sharing/d[0]", "whether a private mapping sees later writes is unspecified"),
    ("threads/syscall(SYS_tkill, 0", "no thread has the number 0; the error is another"),
];

/// The program, built for any Linux.
fn build(env: &TestEnv) -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/conformance");
    let program = env.scratch().join("conformance");
    let names = [
        "main",
        "files",
        "streams",
        "connections",
        "again",
        "memory",
        "processes",
        "signals",
        "threads",
        "ipc",
        "further",
    ];
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-w", "-static", "-pthread", "-o"]).arg(&program);
    cc.args(names.map(|it| sources.join(format!("{it}.c"))));
    match cc.status() {
        Ok(status) => assert!(status.success(), "the cases do not compile"),
        Err(_) => return None,
    }
    Some(program)
}

fn lines(env: &TestEnv, program: &Path, boundary: &str, engine: &str) -> BTreeMap<(String, u32), String> {
    let volume = format!("{}:/conformance:ro", program.display());
    let room = env.scratch().join(format!("room-{boundary}-{engine}"));
    std::fs::create_dir_all(&room).unwrap();
    let room = format!("{}:/tmp", room.display());
    let run = ["run", "--rm", "--as", boundary, "-v", &volume, "-v", &room, IMAGE, "--", "/conformance"];
    let mut command = env.command(run);
    let out = env.finish(command.env("SKEP_ENGINE", engine)).ok();
    let mut lines = BTreeMap::new();
    for line in out.lines() {
        let Some((name, result)) = line.rsplit_once(": ") else { continue };
        let before = (0..).find(|it| !lines.contains_key(&(name.to_owned(), *it))).unwrap();
        lines.insert((name.to_owned(), before), result.to_owned());
    }
    lines
}

/// The groups that need nobody but the process itself, over the network's sockets: in a guest, they are of its own stack.
fn check_stack(engine: &str, needs: &[&str]) {
    if !can_run(needs) {
        return;
    }
    let env = TestEnv::with(IMAGE);
    let Some(program) = build(&env) else { return };
    let volume = format!("{}:/conformance:ro", program.display());
    let run = |with: &[&str]| {
        let run = [&["run", "--rm", "--net", "none", "-v", &volume], with].concat();
        let groups = [IMAGE, "--", "/conformance", "inward", "udp", "readiness"];
        env.finish(env.command(run.iter().chain(&groups)).env("SKEP_ENGINE", engine)).ok()
    };
    let right = run(&["--as", "container"]);
    let found = run(&["--as", "unikernel", "--net-stack", "guest"]);
    let complaints: Vec<_> = right.lines().zip(found.lines()).filter(|(one, other)| one != other).collect();
    assert!(complaints.is_empty(), "{engine}: on the host, and here:\n{complaints:#?}");
    assert_eq!(right.lines().count(), found.lines().count(), "{engine}");
    assert!(right.lines().count() > 200, "only {} cases were compared", right.lines().count());
}

#[test]
fn sockets_of_a_virtual_machines_own_stack_are_the_hosts() {
    check_stack("kvm", &["root", "kvm", "cc"]);
}

#[test]
fn sockets_of_a_confined_processs_own_stack_are_the_hosts() {
    check_stack("process", &["root", "cc"]);
}

/// The groups about what cells can share, in cells that others may join.
fn check_shared(engine: &str, needs: &[&str]) {
    if !can_run(needs) {
        return;
    }
    let env = TestEnv::with(IMAGE);
    let Some(program) = build(&env) else { return };
    let volume = format!("{}:/conformance:ro", program.display());
    let run = |boundary: &str| {
        let run = ["run", "--rm", "--net", "none", "--ipc", "shareable", "-v", &volume, "--as", boundary];
        let groups =
            [IMAGE, "--", "/conformance", "segments", "shared_words", "messages", "semaphores", "message_queues"];
        env.finish(env.command(run.iter().chain(&groups)).env("SKEP_ENGINE", engine)).ok()
    };
    let (right, found) = (run("container"), run("unikernel"));
    // To the host, the tender makes them all.
    let differs = |it: &(&str, &str)| it.0 != it.1 && !it.0.starts_with("segments/ds.shm_cpid");
    let complaints: Vec<_> = right.lines().zip(found.lines()).filter(differs).collect();
    assert!(complaints.is_empty(), "{engine}: on the host, and here:\n{complaints:#?}");
    assert_eq!(right.lines().count(), found.lines().count(), "{engine}");
    assert!(right.contains("segments/") && right.contains("shared_words/"), "{right}");
}

#[test]
fn what_a_virtual_machine_shares_with_others_is_as_the_hosts() {
    check_shared("kvm", &["root", "kvm", "cc"]);
}

#[test]
fn what_a_confined_process_shares_with_others_is_as_the_hosts() {
    check_shared("process", &["root", "cc"]);
}

fn check(engine: &str, needs: &[&str]) {
    if !can_run(needs) {
        return;
    }
    let env = TestEnv::with(IMAGE);
    let Some(program) = build(&env) else { return };
    let right = lines(&env, &program, "container", "kvm");
    let found = lines(&env, &program, "unikernel", engine);
    let ended: Vec<_> = right.iter().filter(|(name, end)| name.0.ends_with("/END") && *end != "0").collect();
    assert!(ended.is_empty(), "the host itself fails: {ended:?}");
    let may_differ = |name: &str| DIFFERENT.iter().any(|it| name.starts_with(it.0));
    let compared = right.iter().filter(|(name, _)| !may_differ(&name.0));
    let (mut count, mut complaints) = (0, Vec::new());
    for (name, result) in compared {
        count += 1;
        if found.get(name) != Some(result) {
            complaints.push(format!("{} (#{}): {result} on the host, {:?} here", name.0, name.1, found.get(name)));
        }
    }
    assert!(complaints.is_empty(), "{} of {count} cases differ:\n{}", complaints.len(), complaints.join("\n"));
    assert!(count > 1000, "only {count} cases were compared");
}

#[test]
fn system_calls_of_a_virtual_machine_are_the_hosts() {
    check("kvm", &["root", "kvm", "cc"]);
}

#[test]
fn system_calls_of_a_confined_process_are_the_hosts() {
    check("process", &["root", "cc"]);
}
