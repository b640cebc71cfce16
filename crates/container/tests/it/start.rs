//! Programs run, end, and say how.

use container::Ended;

use crate::fixture::{Fixture, can_run, pipes, process, start};

#[test]
fn exit_codes_and_signals_are_the_programs() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let check = |script: &str, ended| {
        let outcome = fixture.shell(script);
        assert_eq!(outcome.ended, ended, "{script}: {outcome:?}");
    };
    check("exit 0", Ended::Code(0));
    check("exit 3", Ended::Code(3));
    check("kill -TERM $$", Ended::Signal(15));
    check("kill -KILL $$", Ended::Signal(9));
}

#[test]
fn a_program_prints_and_reads() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let (mut running, cgroup, mut streams) = start(&fixture.plan(&["cat"]));
    streams.send(b"in and out");
    assert_eq!(streams.finish(&mut running).stdout, "in and out");
    cgroup.remove().unwrap();
    let outcome = fixture.shell("echo out; echo err >&2; cat; hostname; pwd; id; echo $HOME");
    assert_eq!(outcome.stdout, "out\ncell\n/\nuid=0(root) gid=0(root)\n/root\n", "{outcome:?}");
    assert_eq!(outcome.stderr, "err\n");
}

#[test]
fn exec_runs_beside_the_program() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let (mut running, cgroup, streams) = start(&fixture.plan(&["sleep", "100"]));
    let (stdio, exec_streams) = pipes();
    let target = container::Target { pid: running.pid, cgroup: &cgroup };
    let plan = fixture.plan(&[]);
    let mut second = container::exec(&target, &process(&["sh", "-c", "ps; exit 7"]), &plan.security, stdio).unwrap();
    let outcome = exec_streams.finish(&mut second);
    assert_eq!(outcome.ended, Ended::Code(7));
    assert!(outcome.stdout.contains("sleep 100"), "{outcome:?}");
    sys::process::send_signal(&running.pidfd, 15).unwrap();
    assert_eq!(streams.finish(&mut running).ended, Ended::Signal(15));
    cgroup.remove().unwrap();
}

#[test]
fn a_mebibyte_goes_through_and_orphans_are_reaped() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let (mut running, cgroup, mut streams) = start(&fixture.plan(&["wc", "-c"]));
    streams.send(&vec![b'x'; 1 << 20]);
    assert_eq!(streams.finish(&mut running).stdout, "1048576\n");
    cgroup.remove().unwrap();
    // The inner shells end before their children, which process 1 inherits and must reap.
    let script = "for i in 1 2 3 4 5; do sh -c 'sleep 0.05 & sleep 0.05 &'; done; sleep 0.3; ps -o stat,args; \
                  head -c 1048576 /dev/zero | tail -c 1048576 | wc -c";
    let outcome = fixture.shell(script);
    assert!(!outcome.stdout.contains('Z') && outcome.stdout.ends_with("1048576\n"), "{outcome:?}");
}

#[test]
fn a_program_that_is_process_1_itself_behaves_the_same() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "echo $$; exit 5"]);
    plan.init = model::Init::Program;
    let outcome = crate::fixture::run(&plan);
    assert_eq!((outcome.ended, outcome.stdout.as_str()), (Ended::Code(5), "1\n"));
}

#[test]
fn signals_reach_the_program_through_init() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let script = "trap 'echo usr1; exit 6' USR1; echo ready; while true; do sleep 0.01; done";
    let (mut running, cgroup, mut streams) = start(&fixture.plan(&["sh", "-c", script]));
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut streams.stdout, &mut ready).unwrap();
    sys::process::send_signal(&running.pidfd, 10).unwrap();
    let outcome = streams.finish(&mut running);
    assert_eq!((outcome.ended, outcome.stdout.as_str()), (Ended::Code(6), "usr1\n"));
    cgroup.remove().unwrap();
}
