//! The commands that README.md shows, run as they stand.

use skep_tests::{TestEnv, can_run};

/// Runs a command line as a shell would split it.
fn run(env: &TestEnv, line: &str) -> skep_tests::Run {
    env.skep(line.split_whitespace().skip(1).map(|word| word.trim_matches('\'')))
}

#[test]
fn the_sixty_second_block_works() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:nginx-light");
    run(&env, "skep run --rm host:/bin/ls -- /").ok();
    run(&env, "skep run -d -p 8080:80 --name web deb:nginx-light").ok();
    run(&env, "skep exec web -- nginx -v").ok();
    run(&env, "skep logs web").ok();
    run(&env, "skep stats web").ok();
    run(&env, "skep why web").ok();
    run(&env, "skep debug web --toolbox deb:strace,procps -- ps ax").ok();
    run(&env, "skep stop web").ok();
    run(&env, "skep rm web").ok();
    run(&env, "skep image export deb:nginx-light oci-archive:web.tar").ok();
}

#[test]
fn the_other_boundary_works() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:redis-server");
    run(&env, "skep run -d --as unikernel --name r -p 6390:6379 deb:redis-server").ok();
    // Who forks a program that is starting still has as many that start, of which one gets the port.
    let begun = std::time::Instant::now();
    while !run(&env, "skep exec r -- redis-cli ping").out.contains("PONG") {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "redis does not answer");
    }
    run(&env, "skep fork r -n 5").ok();
    assert!(run(&env, "skep tree").ok().contains("r-5"));
    assert!(run(&env, "skep lib ls r").ok().contains("libc.so.6"));
    run(&env, "skep rm -f r r-1 r-2 r-3 r-4 r-5").ok();
    run(&env, "skep compare -n 2 --port 6379 deb:redis-server").ok();
}

#[test]
fn other_processors_work() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:nginx-light/arm64");
    let line = "skep run --rm --arch riscv64 deb:busybox-static@trixie -- uname -m";
    assert_eq!(run(&env, line).ok(), "riscv64\n");
    run(&env, "skep run -d --name fw --arch arm64 -p 8082:80 deb:nginx-light").ok();
    let answers = || std::process::Command::new("curl").args(["-fsS", "localhost:8082"]).output().unwrap();
    let begun = std::time::Instant::now();
    while !String::from_utf8_lossy(&answers().stdout).contains("nginx") {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "nginx does not answer");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    run(&env, "skep exec fw -- nginx -v").ok();
    run(&env, "skep fork fw -n 2").ok();
    assert!(run(&env, "skep exec fw-2 -- nginx -v").err.contains("nginx version"));
    run(&env, "skep rm -f fw fw-1 fw-2").ok();
}
