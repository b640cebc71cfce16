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
