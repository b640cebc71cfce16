//! Suites of the machine's own archive that its sources do not name: `@trixie` on a machine of bookworm.
//!
//! The archive, the keys and the components are those of the machine's sources; only the suite's name is another one.
//! Whatever apt then fetches it checks as it always does.

use std::fs;
use std::path::Path;

/// One line of sources, as apt reads it in either of its formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    options: String,
    uri: String,
    suite: String,
    components: String,
}

/// The machine's sources with that suite in place of the one that they name, for `sources.list`; nothing if there are none
/// of Debian's.
pub(crate) fn sources(etc: &Path, suite: &str) -> Option<String> {
    let is_plain = !suite.is_empty() && suite.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'.');
    let mut files = vec![etc.join("sources.list")];
    let parts = fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
    files.extend(parts.map(|it| it.path()));
    files.sort();
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<String> = files
        .iter()
        .flat_map(|path| match path.extension().and_then(|it| it.to_str()) {
            Some("list") => of_lines(&text(path)),
            Some("sources") => of_paragraphs(&text(path)),
            _ => Vec::new(),
        })
        .filter(|it| it.uri.trim_end_matches('/').ends_with("/debian") || it.uri.contains("/debian-security"))
        .map(|it| {
            let kind = it.suite.find(['-', '/']).map_or("", |at| &it.suite[at..]);
            format!("deb {} {} {suite}{kind} {}\n", it.options, it.uri, it.components)
        })
        .collect();
    lines.dedup();
    (is_plain && !lines.is_empty()).then(|| lines.concat())
}

/// Whether a line of [`sources`] is for that suite itself, and not for what follows it.
pub(crate) fn is_released(line: &str, suite: &str) -> bool {
    line.split_whitespace().any(|it| it == suite)
}

/// `deb [OPTIONS] URI SUITE COMPONENT…`.
fn of_lines(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
        let mut options = "";
        if rest.starts_with('[') {
            let end = rest.find(']')? + 1;
            (options, rest) = (rest.get(..end)?, rest.get(end..)?);
        }
        let mut words = rest.split_whitespace();
        let own = str::to_owned;
        let (uri, suite) = (words.next()?, words.next()?);
        let components = words.collect::<Vec<_>>().join(" ");
        Some(Entry { options: without_architecture(options), uri: own(uri), suite: own(suite), components })
    };
    text.lines().filter_map(entry).collect()
}

/// Paragraphs of fields.
fn of_paragraphs(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let mut lines = paragraph.lines().filter(|it| !it.starts_with('#'));
            let value = lines.find_map(|it| it.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim).unwrap_or_default()
        };
        let is_off = field("Enabled") == "no" || !field("Types").split_whitespace().any(|it| it == "deb");
        if is_off {
            continue;
        }
        let options = match field("Signed-By") {
            path if path.starts_with('/') => format!("[signed-by={path}]"),
            _ => String::new(),
        };
        for uri in field("URIs").split_whitespace() {
            for suite in field("Suites").split_whitespace() {
                let (uri, suite) = (uri.to_owned(), suite.to_owned());
                entries.push(Entry {
                    options: options.clone(),
                    uri,
                    suite,
                    components: field("Components").to_owned(),
                });
            }
        }
    }
    entries
}

/// Options that do not say for which processors the sources are.
fn without_architecture(options: &str) -> String {
    let kept: Vec<&str> = options
        .trim_matches(['[', ']'])
        .split_whitespace()
        .filter(|it| !it.starts_with("arch=") && !it.starts_with("arch+="))
        .collect();
    if kept.is_empty() { String::new() } else { format!("[{}]", kept.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_takes_the_place_of_the_one_there() {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        assert_eq!(sources(etc.path(), "trixie"), None);
        fs::write(
            etc.path().join("sources.list.d/debian.sources"),
            "Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
             Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://a/debian-security\nSuites: bookworm-security\n\
             Components: main\n\nEnabled: no\nTypes: deb\nURIs: http://b/debian\nSuites: sid\nComponents: main\n",
        )
        .unwrap();
        fs::write(
            etc.path().join("sources.list"),
            "# deb http://c/debian x main\ndeb [arch=amd64 trusted=yes] http://c/debian bookworm main contrib\n\
             deb http://d/ubuntu noble main\n",
        )
        .unwrap();
        let expected = "deb [trusted=yes] http://c/debian trixie main contrib\n\
                        deb [signed-by=/k.gpg] http://a/debian trixie main\n\
                        deb [signed-by=/k.gpg] http://a/debian trixie-updates main\n\
                        deb  http://a/debian-security trixie-security main\n";
        assert_eq!(sources(etc.path(), "trixie").as_deref(), Some(expected));
        assert_eq!(sources(etc.path(), "x main\ndeb"), None);
    }
}
