//! What the binary says: help, errors, hints, exit codes.

use skep_tests::TestEnv;

#[test]
fn mistakes_are_told_in_a_line_with_the_next_step() {
    let env = TestEnv::empty();
    let check = |args: &[&str], code: i32, error: &str| {
        let said = env.skep(args).fails(code);
        assert_eq!(env.stable(&said), error, "{args:?}");
    };
    check(
        &["run", "nginx"],
        3,
        "error: no image is called 'nginx'\n\
         hint: 'deb:nginx' is the Debian package of that name; 'skep image ls' lists the images here\n",
    );
    check(&["stop", "web"], 3, "error: no cell is called 'web'\nhint: 'skep ps -a' lists the cells there are\n");
    check(
        &["image", "push", "a", "oci:b"],
        2,
        "error: 'oci:b' is not a registry\n\
         hint: like docker://localhost:5000/web:v1; 'skep image export' writes files\n",
    );
    check(
        &["kill", "-s", "NOPE", "x"],
        2,
        "error: 'NOPE' is not a signal\nhint: give a name like TERM, or a number from 1 to 64\n",
    );
    check(
        &["logs", "--since", "soon", "x"],
        3,
        "error: no cell is called 'x'\nhint: 'skep ps -a' lists the cells there are\n",
    );
    check(
        &["events", "--cell", "web"],
        3,
        "error: no cell is called 'web'\nhint: 'skep ps -a' lists the cells there are\n",
    );
    check(
        &["cp", "web:/x", "-"],
        2,
        "error: cp copies files, not streams\n\
         hint: 'skep exec CELL cat PATH' prints a file; './-' is a file of that name\n",
    );
    let bad_name = env.skep(["image", "tag", "a", "b c"]).fails(2);
    assert!(bad_name.contains("'b c' is not an image name"), "{bad_name}");
    let no_unit = env.skep(["run", "-m", "64", "x"]).fails(2);
    assert!(no_unit.contains("'64' is not a memory limit: expected at least 1m"), "{no_unit}");
    assert!(env.skep(["run", "-m", "lots", "x"]).fails(2).contains("'lots' is not a size"));
    assert!(env.skep(["frobnicate"]).fails(2).contains("unrecognized subcommand"));
}

#[test]
fn quiet_when_there_is_nothing_and_json_when_asked() {
    let env = TestEnv::empty();
    assert_eq!(env.skep(["ps", "-q"]).ok(), "");
    assert_eq!(env.skep(["ps", "--json"]).ok(), "");
    assert_eq!(env.skep(["image", "ls", "-q"]).ok(), "");
    assert_eq!(env.skep(["events"]).ok(), "");
    assert!(env.skep(["version"]).ok().starts_with("skep "));
    assert!(env.skep(["man"]).ok().contains(".TH skep"));
    assert!(env.skep(["completions", "bash"]).ok().contains("SKEP_COMPLETE"));
    assert!(env.skep(["completions", "tcsh"]).fails(2).contains("bash"));
}

#[test]
fn help_names_every_command() {
    let help = TestEnv::empty().skep(["--help"]).ok();
    let verbs = "run create start stop kill rm ps inspect logs exec cp attach wait pause resume set rename top stats \
                 events why doctor image pool completions man version";
    for verb in verbs.split_whitespace() {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))),
            "{verb} is missing:\n{help}"
        );
    }
}
