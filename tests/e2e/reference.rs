//! The reference of the command line, `docs/reference/cli.md`: the help of every command, as the binary prints it.

use std::path::{Path, PathBuf};

use skep_tests::TestEnv;

fn help(env: &TestEnv, words: &[&str]) -> String {
    let mut command = env.command(words.iter().chain(&["--help"]));
    let output = command.env("COLUMNS", "100").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

fn reference(env: &TestEnv) -> String {
    let mut text = "# The command line\n\n\
        The help of every command. `SKEP_WRITE_REFERENCE=1 cargo test -p skep-tests reference` writes this file.\n"
        .to_owned();
    let mut section = |words: &[&str]| {
        let help = help(env, words);
        let title = std::iter::once("skep").chain(words.iter().copied()).collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
        text.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", lines.join("\n")));
        commands(&help)
    };
    for command in section(&[]) {
        for inner in section(&[&command]) {
            section(&[&command, &inner]);
        }
    }
    text
}

#[test]
fn the_reference_is_what_the_binary_says() {
    let env = TestEnv::empty();
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let said = reference(&env);
    if std::env::var_os("SKEP_WRITE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &said).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(said.lines()).find(|(a, b)| a != b);
    assert!(
        written == said,
        "docs/reference/cli.md is not what the binary says, first at {differs:?}; \
         'SKEP_WRITE_REFERENCE=1 cargo test -p skep-tests reference' writes it"
    );
}

/// What a shell gets to complete a word with: the protocol of bash's registration script.
fn completed(env: &TestEnv, words: &[&str]) -> Vec<String> {
    let index = words.len() - 1;
    let mut command = env.command(["--"].iter().chain(words));
    command.env("SKEP_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index.to_string());
    command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|it| it.trim().to_owned()).collect()
}

#[test]
fn shells_complete_the_names_of_cells_and_images() {
    const BUSYBOX: &str = "deb:busybox-static";
    let env = TestEnv::with(BUSYBOX);
    env.skep(["create", "--net", "none", "--name", "web", BUSYBOX, "--", "busybox", "true"]).ok();
    env.skep(["image", "tag", BUSYBOX, "tools"]).ok();
    for verb in ["stop", "rm", "logs", "why", "exec", "inspect"] {
        assert_eq!(completed(&env, &["skep", verb, "w"]), ["web"], "{verb}");
    }
    assert_eq!(completed(&env, &["skep", "image", "rm", "t"]), ["tools"]);
    assert_eq!(completed(&env, &["skep", "run", "t"]), ["tools"]);
    assert!(completed(&env, &["skep", "re"]).contains(&"rename".to_owned()));
}
