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
