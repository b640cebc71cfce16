//! The reference of the command line, `docs/reference/cli.md`: the help of every command, as the binary prints it.

use std::collections::{BTreeMap, BTreeSet};
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

/// Who answers a system call of a unikernel's programs.
fn who_answers(sources: &CallSources, name: &str, number: u32) -> &'static str {
    if sources.guest.contains(&number) {
        "the library operating system"
    } else if sources.tender.contains(name) {
        "the tender"
    } else {
        "ENOSYS"
    }
}

/// What the sources say of system calls.
struct CallSources {
    /// Every call of the processor: number and name.
    all: BTreeMap<u32, String>,
    guest: BTreeSet<u32>,
    tender: BTreeSet<String>,
}

/// The words of a text that stand behind that prefix.
fn words_behind<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(prefix).skip(1).map(|it| it.split(|it: char| !it.is_ascii_alphanumeric() && it != '_').next().unwrap())
}

impl CallSources {
    fn read(root: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        // Rows of the table: name, number, number of the older processor, rule.
        let table = text("crates/container/src/seccomp/table.rs");
        let all = table.lines().filter_map(|line| {
            let (name, rest) = line.trim().strip_prefix("(\"")?.split_once("\", ")?;
            Some((rest.split_once(',')?.0.parse().ok()?, name.to_owned()))
        });
        let mut numbers = BTreeMap::new();
        let list = text("guest/libos/src/number.rs").replace('\n', " ");
        for pair in list.split(',') {
            if let Some((name, number)) = pair.split_once('=')
                && let Ok(number) = number.trim().parse::<u32>()
            {
                numbers.insert(name.split_whitespace().last().unwrap_or_default().to_owned(), number);
            }
        }
        let calls = text("guest/libos/src/syscall.rs");
        let begin = calls.find("fn answer(").unwrap();
        let end = begin + calls[begin..].find("\n}\n").unwrap();
        let arms = calls[begin..end].lines().filter(|line| !line.contains("Err(ENOSYS)"));
        let guest = arms.flat_map(|line| words_behind(line, "number::")).filter_map(|it| numbers.get(it).copied());
        let mut tender = BTreeSet::new();
        for entry in std::fs::read_dir(root.join("crates/unikernel/src/calls")).unwrap() {
            let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap();
            tender.extend(words_behind(code, "libc::SYS_").map(str::to_owned));
        }
        Self { all: all.collect(), guest: guest.collect(), tender }
    }

    fn page(&self) -> String {
        let mut text = "# System calls of unikernels\n\n\
            Who answers each call of x86-64. `SKEP_WRITE_REFERENCE=1 cargo test -p skep-tests reference` writes this file.\n\n\
            What the *library operating system* answers costs no more than a function; the *tender* looks at the cell's files,\n\
            sockets and processes, often by the same call of the host. A call that is answered may still know less than Linux's:\n\
            [SPECIFICATION.md](../../SPECIFICATION.md) has the limits. `ENOSYS` is what a program gets where it would on a kernel\n\
            that is too old; `skep why` counts those that were made.\n"
            .to_owned();
        let counted = |who: &str| self.all.iter().filter(|it| who_answers(self, it.1, *it.0) == who).count();
        let (guest, tender) = (counted("the library operating system"), counted("the tender"));
        text.push_str(&format!(
            "\nOf {} calls {guest} are answered by the library operating system and {tender} by the tender.\n\n\
             | number | call | answered by |\n|---|---|---|\n",
            self.all.len()
        ));
        for (number, name) in &self.all {
            text.push_str(&format!("| {number} | `{name}` | {} |\n", who_answers(self, name, *number)));
        }
        text
    }
}

#[test]
fn the_reference_of_system_calls_is_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (path, said) = (root.join("docs/reference/system-calls.md"), CallSources::read(&root).page());
    if std::env::var_os("SKEP_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &said).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(said.lines()).find(|(a, b)| a != b);
    assert!(
        written == said,
        "docs/reference/system-calls.md is not what the sources say, first at {differs:?}; \
         'SKEP_WRITE_REFERENCE=1 cargo test -p skep-tests reference' writes it"
    );
    // What the conformance cases rest on is there.
    for call in ["read", "rt_sigqueueinfo", "timer_create", "signalfd4", "mq_notify", "splice"] {
        assert!(!said.contains(&format!("`{call}` | ENOSYS")), "{call}");
    }
}
