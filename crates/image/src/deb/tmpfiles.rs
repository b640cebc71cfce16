//! tmpfiles.d(5): the directories, links and files that packages want to exist.

/// One line, as far as an image has use for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A directory with its mode and owners; empty names mean root.
    Directory { path: String, mode: u32, user: String, group: String },
    /// A symbolic link.
    Link { path: String, target: String },
    /// A file with its text.
    File { path: String, mode: u32, user: String, group: String, text: String },
}

/// Reads a file of such lines. Lines that clean up, set attributes or wait for boot are passed over.
pub(crate) fn read(text: &str) -> Vec<Wish> {
    text.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<Wish> {
    let text = text.trim();
    if text.starts_with('#') {
        return None;
    }
    let words = super::unit::words(text);
    let word = |at: usize| words.get(at).map(String::as_str).filter(|word| *word != "-").unwrap_or_default().to_owned();
    let kind = word(0);
    // `!` marks lines for boot only; a cell has a boot, and no systemd to act at it.
    let kind = kind.trim_end_matches(['!', '-', '=', '~', '^', '+']);
    let path = word(1).replace("/var/run/", "/run/");
    if !path.starts_with('/') || path.contains('%') || path.contains("/../") {
        return None;
    }
    let path = path.trim_end_matches('/').to_owned();
    let mode =
        |default: u32| u32::from_str_radix(word(2).trim_start_matches(['~', ':']), 8).unwrap_or(default) & 0o7777;
    let (user, group) = (word(3).trim_start_matches(':').to_owned(), word(4).trim_start_matches(':').to_owned());
    let argument = words.get(6..).unwrap_or_default().join(" ");
    match kind {
        "d" | "D" | "v" | "q" | "Q" => Some(Wish::Directory { path, mode: mode(0o755), user, group }),
        "L" if !argument.is_empty() => Some(Wish::Link { path, target: argument }),
        "f" | "F" => Some(Wish::File { path, mode: mode(0o644), user, group, text: argument }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "# note\nd /run/haproxy 2775 haproxy haproxy -\nd /var/run/x\nL+ /etc/mtab - - - - ../proc/self/mounts\n\
                    f /run/motd 0644 root root - \"hello\"\nx /tmp/*\nd /run/%u\nd relative\nz /dev/x 0600\n";
        let dir = |path: &str, mode, owner: &str| Wish::Directory {
            path: path.to_owned(),
            mode,
            user: owner.to_owned(),
            group: owner.to_owned(),
        };
        let found = read(text);
        assert_eq!(found[0], dir("/run/haproxy", 0o2775, "haproxy"));
        assert_eq!(found[1], dir("/run/x", 0o755, ""));
        assert_eq!(found[2], Wish::Link { path: "/etc/mtab".to_owned(), target: "../proc/self/mounts".to_owned() });
        assert!(matches!(&found[3], Wish::File { text, .. } if text == "hello"));
        assert_eq!(found.len(), 4);
    }
}
