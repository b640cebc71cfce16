//! Images whose packages configured themselves, in a build cell.

use std::process::Stdio;
use std::time::Duration;

use skep_tests::{TestEnv, can_run};

/// A package whose configuration script makes a key and a certificate, which no declaration could.
const PACKAGE: &str = "deb:ssl-cert";

const SHOW: [&str; 6] = ["openssl", "x509", "-noout", "-subject", "-in", "/etc/ssl/certs/ssl-cert-snakeoil.pem"];

fn run(env: &TestEnv, options: &[&str], command: &[&str]) -> skep_tests::Run {
    let args = ["run", "--rm", "--net", "none"];
    env.skep(args.iter().chain(options).chain(&[PACKAGE, "--"]).chain(command))
}

/// The build cell, once it runs.
fn build_cell(env: &TestEnv, child: &mut std::process::Child) -> String {
    loop {
        let running = env.skep(["ps", "-q", "--filter", "label=skep.build", "--filter", "state=running"]).ok();
        if let Some(id) = running.lines().next() {
            return id.to_owned();
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before its build cell ran");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cells(env: &TestEnv) -> String {
    env.skep(["ps", "-aq"]).ok()
}

#[test]
fn scripts_run_in_a_build_cell_that_never_stays() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PACKAGE);
    assert_ne!(run(&env, &[], &SHOW).code, 0, "nobody has made the certificate");
    let before = env.skep(["image", "ls", "-q"]).ok();

    // A build that fails says so, with what was printed last, and leaves no cell and no image.
    let pull = ["image", "pull", "--configure", PACKAGE];
    let mut child = env.command(pull).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let cell = build_cell(&env, &mut child);
    env.skep(["kill", &cell]).ok();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("running the configuration scripts of deb:ssl-cert failed"), "{error}");
    assert_eq!((cells(&env), env.skep(["image", "ls", "-q"]).ok()), (String::new(), before));

    // One whose builder is gone is taken away by the next: no process with number 1 began that early.
    let orphan = ["create", "--net", "none", "--label", "skep.build=1:0", PACKAGE, "--", "openssl", "version"];
    env.skep(orphan).ok();
    assert_ne!(cells(&env), "");

    // An unconfigured image does not pass for a configured one, and a configured one is not made twice.
    let certificate = run(&env, &["--configure"], &SHOW).ok();
    assert!(certificate.starts_with("subject="), "{certificate}");
    assert_eq!(cells(&env), "");
    assert_eq!(run(&env, &["--configure"], &SHOW).err, "");
    let key = ["stat", "-c", "%a %U:%G", "/etc/ssl/private/ssl-cert-snakeoil.key"];
    assert_eq!(run(&env, &[], &key).ok(), "640 root:ssl-cert\n");
    let left = ["sh", "-c", "ls -d /debs /usr/sbin/policy-rc.d /etc/machine-id /var/log/dpkg.log 2>/dev/null | wc -l"];
    assert_eq!(run(&env, &[], &left).ok(), "0\n", "what only the build cell needed is gone");
    assert_eq!(run(&env, &[], &["dpkg", "--audit"]).ok(), "");
}

#[test]
fn what_cannot_be_configured_is_refused() {
    let env = TestEnv::empty();
    let error = env.skep(["image", "pull", "--configure", "host:/bin/ls"]).fails(2);
    assert!(error.contains("--configure is for deb: images"), "{error}");
    let error = env.skep(["image", "pull", "--configure", "--arch", "riscv64", PACKAGE]).fails(5);
    assert!(error.contains("riscv64"), "{error}");
}
