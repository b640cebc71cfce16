//! Service units: what a package says about how its daemon runs.
//!
//! systemd.syntax(7), the part that a command in a cell needs. Unknown settings are passed over: most are about isolation,
//! which is the boundary's business here.

use std::collections::BTreeMap;

/// The `[Service]` section of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The command, its words with quotes taken off and variables filled in where the unit defines them.
    pub(crate) command: Vec<String>,
    /// `simple` when not told.
    pub(crate) kind: String,
    pub(crate) user: String,
    pub(crate) group: String,
    pub(crate) workdir: String,
    pub(crate) environment: BTreeMap<String, String>,
    /// Files with further variables; a `-` before means that they may be absent.
    pub(crate) environment_files: Vec<String>,
    /// Directories it wants, by the place they stand under: `/run`, `/var/lib`, `/var/cache`, `/var/log`.
    pub(crate) directories: Vec<(String, u32)>,
    pub(crate) kill_signal: String,
}

const PLACES: [(&str, &str); 4] = [
    ("RuntimeDirectory", "/run"),
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
];

impl Unit {
    /// Reads a unit file. `file` gives the content of an environment file of the image.
    pub(crate) fn read(text: &str, file: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut unit = Self::default();
        let mut modes: BTreeMap<&str, u32> = BTreeMap::new();
        let mut wanted: Vec<(&str, String)> = Vec::new();
        let mut command = String::new();
        for (name, value) in service_settings(text) {
            match name.as_str() {
                // A later command adds to a oneshot unit; a server has one. An empty one clears those before.
                "ExecStart" => command = value,
                "Type" => unit.kind = value,
                "User" => unit.user = value,
                "Group" => unit.group = value,
                "WorkingDirectory" => unit.workdir = value.trim_start_matches('-').to_owned(),
                "KillSignal" => unit.kill_signal = value,
                "Environment" => unit.environment.extend(words(&value).into_iter().filter_map(pair)),
                "EnvironmentFile" => unit.environment_files.push(value),
                _ => {
                    for (setting, place) in PLACES {
                        if name == setting {
                            wanted.extend(words(&value).into_iter().map(|directory| (place, directory)));
                        } else if name.strip_suffix("Mode") == Some(setting) {
                            modes.extend(u32::from_str_radix(&value, 8).ok().map(|mode| (place, mode)));
                        }
                    }
                }
            }
        }
        unit.directories = wanted
            .into_iter()
            .map(|(place, directory)| {
                let name = directory.split(':').next().unwrap_or_default().trim_matches('/').to_owned();
                (format!("{place}/{name}"), modes.get(place).copied().unwrap_or(0o755))
            })
            .collect();
        let mut variables = unit.environment.clone();
        for path in &unit.environment_files {
            if let Some(text) = file(path.trim_start_matches('-')) {
                variables.extend(environment_file(&text));
            }
        }
        unit.command = expand(&command, &variables);
        unit
    }
}

/// The settings of `[Service]` in order, continued lines joined, comments left out.
fn service_settings(text: &str) -> Vec<(String, String)> {
    let mut section = "";
    let mut settings = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            continue;
        }
        if section != "Service" || line.starts_with(['#', ';']) {
            continue;
        }
        let mut joined = line.to_owned();
        while let Some(open) = joined.strip_suffix('\\') {
            let next = lines.by_ref().map(str::trim).find(|line| !line.starts_with(['#', ';']));
            joined = format!("{open} {}", next.unwrap_or_default());
        }
        if let Some((name, value)) = joined.split_once('=') {
            settings.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    settings
}

/// Words with quotes and backslashes taken off.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', _) => word.get_or_insert_default().extend(letters.next()),
            (_, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (_, None) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

fn pair(text: String) -> Option<(String, String)> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// `NAME=value` lines as a shell would write them.
fn environment_file(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(|line| line.trim())
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), words(value).join(" ")))
        .collect()
}

/// systemd.service(5), "Command lines": prefixes before the path, `${VAR}` in place, `$VAR` alone splits into words, `%%`,
/// and specifiers, of which those about an instance are empty here.
fn expand(command: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let command = command.trim_start_matches(['-', '@', ':', '+', '!']);
    let value = |name: &str| variables.get(name).map(String::as_str).unwrap_or_default();
    let mut argv = Vec::new();
    for word in words(command) {
        match word.strip_prefix('$').filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')) {
            Some(name) => argv.extend(words(value(name))),
            None => argv.push(fill_in(&word, &value)),
        }
    }
    argv
}

fn fill_in<'a>(word: &str, value: &dyn Fn(&str) -> &'a str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '%']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let braced = from.strip_prefix("${").and_then(|inner| inner.split_once('}'));
        rest = if let Some((name, after)) = braced {
            out.push_str(value(name));
            after
        } else if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            after
        } else if let Some(after) = from.strip_prefix("%%") {
            out.push('%');
            after
        } else if let Some(after) = from.strip_prefix("%t") {
            out.push_str("/run");
            after
        } else if from.starts_with('%') {
            from.get(2..).unwrap_or_default()
        } else {
            out.push('$');
            from.get(1..).unwrap_or_default()
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_tells_how_its_daemon_runs() {
        let text = "[Unit]\nExecStart=/no\n[Service]\nType=notify\n# ExecStart=/no\nExecStart=-/usr/bin/redis-server \\\n  # note\n  \
                    /etc/redis.conf --supervised 'a b' ${X}y $OPTS $NONE 100%%\nUser=redis\nRuntimeDirectory=redis\n\
                    RuntimeDirectoryMode=2755\nStateDirectory=redis more\nEnvironment=\"X=1 2\" Z=3\nEnvironmentFile=-/etc/default/x\n\
                    WorkingDirectory=-/var/lib/redis\n[Install]\nUser=no\n";
        let unit =
            Unit::read(text, &|path| (path == "/etc/default/x").then(|| "OPTS=\"-a -b\"\n#OPTS=no\n".to_owned()));
        assert_eq!(
            unit.command,
            ["/usr/bin/redis-server", "/etc/redis.conf", "--supervised", "a b", "1 2y", "-a", "-b", "100%"]
        );
        assert_eq!(
            (unit.kind.as_str(), unit.user.as_str(), unit.workdir.as_str()),
            ("notify", "redis", "/var/lib/redis")
        );
        let directories: Vec<_> = unit.directories.iter().map(|(d, m)| (d.as_str(), *m)).collect();
        assert_eq!(directories, [("/run/redis", 0o2755), ("/var/lib/redis", 0o755), ("/var/lib/more", 0o755)]);
    }

    #[test]
    fn quotes_in_commands() {
        let text = "[Service]\nExecStart=/usr/sbin/nginx -g 'daemon on; master_process on;'\n";
        assert_eq!(Unit::read(text, &|_| None).command, ["/usr/sbin/nginx", "-g", "daemon on; master_process on;"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[ -~\\n\\\\é]{0,120}") {
            let _ = Unit::read(&format!("[Service]\nExecStart={text}"), &|_| Some(text.clone()));
        }
    }
}
