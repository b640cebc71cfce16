//! The same program under `runc` and under us: what it sees of its confinement must be the same.

use std::path::Path;
use std::process::{Command, Stdio};

use model::Capability;

use crate::fixture::{Fixture, can_run, pipes, run};

/// What a program can see of what confines it, in a form that two runs can be compared in.
const LOOK: &str = "\
echo == status; grep -E '^(Uid|Gid|Groups|Umask|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
echo == place; pwd; hostname; id; echo $HOME $PATH; ls /sys/class/net
echo == devices; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done
echo == links; for d in fd stdin stdout stderr ptmx; do readlink /dev/$d; done
echo == mounts; grep -oE '^[^ ]+ (/|/proc|/dev|/dev/pts|/dev/shm|/dev/mqueue|/sys) [^ ]+ (ro|rw)[^ ]*' /proc/self/mounts | \
  awk '{ split($4, o, \",\"); f = o[1]; for (i in o) if (o[i] ~ /^no(suid|dev|exec)$/) n[o[i]] = 1; \
  print $2, ($2 == \"/\" ? \"root\" : $3), f, n[\"nosuid\"] n[\"nodev\"] n[\"noexec\"]; delete n }' | sort
echo == hidden; for f in kcore keys timer_list; do head -c 1 /proc/$f 2> /dev/null | wc -c; done; ls /sys/firmware | wc -l
echo == protected; for f in bus fs irq sys; do touch /proc/$f/x 2>&1 | grep -o 'Read-only file system'; done
";

/// `config.json` as our defaults are.
fn config(root: &Path) -> String {
    let names: Vec<String> = Capability::DEFAULT.iter().map(|it| format!("\"CAP_{it}\"")).collect();
    let set = format!("[{}]", names.join(","));
    let script = serde_json::to_string(LOOK).unwrap();
    let mount = |target: &str, kind: &str, options: &str| {
        format!(r#"{{"destination":"{target}","type":"{kind}","source":"{kind}","options":[{options}]}}"#)
    };
    let mounts = [
        mount("/proc", "proc", r#""nosuid","nodev","noexec""#),
        mount("/dev", "tmpfs", r#""nosuid","mode=755","size=65536k""#),
        mount("/dev/pts", "devpts", r#""nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5""#),
        mount("/dev/shm", "tmpfs", r#""nosuid","nodev","noexec","mode=1777","size=65536k""#),
        mount("/dev/mqueue", "mqueue", r#""nosuid","nodev","noexec""#),
        mount("/sys", "sysfs", r#""nosuid","nodev","noexec","ro""#),
    ];
    format!(
        r#"{{"ociVersion":"1.0.2","process":{{"user":{{"uid":0,"gid":0}},"args":["/bin/sh","-c",{script}],
        "env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","HOME=/root"],"cwd":"/","noNewPrivileges":true,
        "capabilities":{{"bounding":{set},"effective":{set},"permitted":{set}}}}},
        "root":{{"path":"{}"}},"hostname":"cell","mounts":[{}],"linux":{{"namespaces":[{{"type":"pid"}},{{"type":"network"}},
        {{"type":"ipc"}},{{"type":"uts"}},{{"type":"mount"}}],
        "seccomp":{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{{"names":["kexec_load"],"action":"SCMP_ACT_ERRNO"}}]}},
        "maskedPaths":["/proc/kcore","/proc/keys","/proc/timer_list","/sys/firmware"],
        "readonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys"]}}}}"#,
        root.display(),
        mounts.join(","),
    )
}

#[test]
fn a_cell_looks_like_a_container_of_runc() {
    if !can_run() {
        return;
    }
    if !Path::new("/usr/sbin/runc").exists() {
        println!("skipped: needs runc");
        return;
    }
    let fixture = Fixture::new();
    let ours = run(&fixture.plan(&["sh", "-c", LOOK]));
    let bundle = fixture.dir.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), config(&fixture.root())).unwrap();
    let name = format!("skep-test-{}", std::process::id());
    let theirs = Command::new("/usr/sbin/runc")
        .args(["--root", fixture.dir.path().join("runc").to_str().unwrap(), "run", "--bundle"])
        .args([bundle.to_str().unwrap(), &name])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let theirs = String::from_utf8_lossy(&theirs.stdout).into_owned();
    assert!(theirs.contains("== protected"), "{theirs}");
    assert_eq!(ours.stdout, theirs);
}

#[test]
fn exit_codes_are_those_of_runc() {
    if !can_run() || !Path::new("/usr/sbin/runc").exists() {
        return;
    }
    let fixture = Fixture::new();
    // As process 1, which it is under runc, a program does not die of its own signals; a child of it does.
    for (script, code) in
        [("exit 7", 7), ("sh -c 'kill -TERM $$'; exit $?", 143), ("sh -c 'kill -KILL $$'; exit $?", 137)]
    {
        let bundle = tempfile::tempdir().unwrap();
        let text = config(&fixture.root()).replace(&serde_json::to_string(LOOK).unwrap(), &format!("\"{script}\""));
        std::fs::write(bundle.path().join("config.json"), text).unwrap();
        let name = format!("skep-test-{}-{code}", std::process::id());
        let status = Command::new("/usr/sbin/runc")
            .args(["--root", fixture.dir.path().join("runc").to_str().unwrap(), "run", "--bundle"])
            .args([bundle.path().to_str().unwrap(), &name])
            .stdin(Stdio::null())
            .status()
            .unwrap();
        let ours = match fixture.shell(script).ended {
            container::Ended::Code(code) => i32::from(code),
            container::Ended::Signal(signal) => 128 + signal,
        };
        assert_eq!((Some(ours), Some(code)), (status.code(), Some(ours)), "{script}");
    }
    let (stdio, _streams) = pipes();
    let error = container::prepare(&fixture.plan(&["/absent"]), stdio).unwrap().start().unwrap_err();
    assert_eq!(error.step(), Some(model::StartStep::CommandNotFound));
}
