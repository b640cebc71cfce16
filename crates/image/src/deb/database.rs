//! dpkg's own account of what is installed, for an image that packages are installed into later: one with dpkg in it.
//!
//! Such an image is a system: nothing is left out of it, the essential packages are there, and each package is recorded as dpkg
//! would have recorded it, configured. What its scripts would have done is done declaratively, as in any other image; the
//! scripts themselves lie ready for whoever upgrades or removes it.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::control::paragraphs;
use super::unpack::Installed;

/// The package whose presence makes a system of an image.
pub(crate) const DPKG: &str = "dpkg";

/// Where the account is.
const PLACE: &str = "/var/lib/dpkg";

/// What dpkg executes itself.
const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

/// Directories that dpkg expects and does not make.
pub(crate) const DIRECTORIES: [&str; 4] =
    ["/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/var/lib/dpkg/triggers", "/var/lib/dpkg/alternatives"];

/// A file of the account: its path, its permission bits and its content.
pub(crate) type AccountFile = (String, u32, Vec<u8>);

/// The files of the account of those packages.
pub(crate) fn files<'p>(packages: impl Iterator<Item = &'p Installed>) -> Vec<AccountFile> {
    let mut files = Vec::new();
    let mut status = String::new();
    let mut triggers = Triggers::default();
    for package in packages {
        let stem = stem(package);
        status.push_str(&paragraph(package));
        status.push('\n');
        triggers.add(&stem, package.about.get("triggers").map(Vec::as_slice).unwrap_or_default());
        let mut info = |ending: &str, mode, bytes| files.push((format!("{PLACE}/info/{stem}.{ending}"), mode, bytes));
        for (ending, bytes) in &package.about {
            info(ending, if SCRIPTS.contains(&ending.as_str()) { 0o755 } else { 0o644 }, bytes.clone());
        }
        if !package.md5sums.is_empty() {
            info("md5sums", 0o644, package.md5sums.clone());
        }
        info("list", 0o644, list(&package.paths));
    }
    files.push((format!("{PLACE}/info/format"), 0o644, b"1\n".to_vec()));
    files.push((format!("{PLACE}/status"), 0o644, status.into_bytes()));
    files.push((format!("{PLACE}/available"), 0o644, Vec::new()));
    files.extend(triggers.files());
    files
}

/// What the names of a package's files begin with: several of the same name may be there only of packages that say so.
fn stem(package: &Installed) -> String {
    let field = |name| {
        let mut fields = paragraphs(&package.control).take(1).flat_map(|it| it.fields());
        fields.find(|(field, _)| *field == name).map(|(_, value)| value)
    };
    match (field("Multi-Arch"), field("Architecture")) {
        (Some("same"), Some(arch)) => format!("{}:{arch}", package.name),
        _ => package.name.clone(),
    }
}

/// A package's description with how it is.
fn paragraph(package: &Installed) -> String {
    let (first, rest) = package.control.split_once('\n').unwrap_or((&package.control, ""));
    let mut text = format!("{first}\nStatus: install ok installed\n{rest}");
    if !package.configuration.is_empty() {
        text.push_str("Conffiles:\n");
        for (path, sum) in &package.configuration {
            // Writing to a string does not fail.
            let _ = writeln!(text, " /{path} {}", sum.map(|byte| format!("{byte:02x}")).concat());
        }
    }
    text
}

/// The paths of a package's files, a line each; the root is written as `/.`.
fn list(paths: &[Vec<u8>]) -> Vec<u8> {
    let line = |path: &Vec<u8>| [&b"/"[..], if path.is_empty() { b"." } else { path.as_slice() }, b"\n"].concat();
    paths.iter().flat_map(line).collect()
}

/// Who is to be told of what: of changes below a path, or of something that others call by a name.
#[derive(Default)]
struct Triggers {
    paths: String,
    named: BTreeMap<String, String>,
}

impl Triggers {
    fn add(&mut self, stem: &str, declared: &[u8]) {
        for line in String::from_utf8_lossy(declared).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let ending = match words.next() {
                Some("interest" | "interest-await") => "",
                Some("interest-noawait") => "/noawait",
                _ => continue,
            };
            match words.next() {
                Some(path) if path.starts_with('/') => self.paths.push_str(&format!("{path} {stem}{ending}\n")),
                // A trigger's name is a file's.
                Some(name) if !name.contains('/') && !name.starts_with('.') => {
                    self.named.entry(name.to_owned()).or_default().push_str(&format!("{stem}{ending}\n"));
                }
                _ => {}
            }
        }
    }

    fn files(self) -> impl Iterator<Item = AccountFile> {
        let named = self.named.into_iter().chain([("File".to_owned(), self.paths)]);
        named.map(|(name, text)| (format!("{PLACE}/triggers/{name}"), 0o644, text.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_recorded_as_dpkg_does() {
        let about = [
            ("triggers", "interest-noawait /a/b # why\ninterest x\nactivate y\ninterest ../z\n"),
            ("postinst", "#!/bin/sh\n"),
        ];
        let package = Installed {
            name: "p".to_owned(),
            control: "Package: p\nArchitecture: arm64\nMulti-Arch: same\nVersion: 1\n".to_owned(),
            md5sums: b"sum  usr/f\n".to_vec(),
            about: about.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into(),
            paths: vec![Vec::new(), b"usr".to_vec(), b"usr/f".to_vec()],
            configuration: vec![("etc/p".to_owned(), [0x0a; 16])],
        };
        let found: BTreeMap<String, (u32, String)> = files([&package].into_iter())
            .into_iter()
            .map(|(path, mode, bytes)| (path, (mode, String::from_utf8(bytes).unwrap())))
            .collect();
        let text = |path: &str| found[&format!("/var/lib/dpkg/{path}")].1.as_str();
        assert_eq!(
            text("status"),
            format!(
                "Package: p\nStatus: install ok installed\nArchitecture: arm64\nMulti-Arch: same\nVersion: 1\n\
                 Conffiles:\n /etc/p {}\n\n",
                "0a".repeat(16)
            )
        );
        assert_eq!(text("info/p:arm64.list"), "/.\n/usr\n/usr/f\n");
        assert_eq!(text("info/p:arm64.md5sums"), "sum  usr/f\n");
        assert_eq!(found["/var/lib/dpkg/info/p:arm64.postinst"], (0o755, "#!/bin/sh\n".to_owned()));
        assert_eq!(text("triggers/File"), "/a/b p:arm64/noawait\n");
        assert_eq!(text("triggers/x"), "p:arm64\n");
        assert!(found.keys().all(|path| !path.contains("..")));
    }
}
