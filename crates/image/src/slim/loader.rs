//! Where the loader of a tree finds libraries, and which libraries a file names in its text.

use std::collections::BTreeSet;

use store::{Kind, Tree};

use super::TreePath;
use super::keeper::{Files, MAX_TEXT};
use crate::Result;
use crate::elf::Elf;

/// How deep configuration files may include each other.
const MAX_INCLUDES: usize = 8;

/// The search path of a tree's loader: what `ld.so.conf` names, then what loaders look into by themselves.
pub(super) struct Libraries {
    directories: Vec<Vec<u8>>,
}

impl Libraries {
    pub(super) fn of(tree: &Tree, files: &dyn Files) -> Result<Self> {
        let mut directories = Vec::new();
        include(tree, files, b"etc/ld.so.conf", 0, &mut directories)?;
        for base in ["lib", "usr/lib"] {
            let Some(real) = tree.resolve(base) else { continue };
            let triplets = tree.children(&real).filter(|(name, _)| contains(name, b"-linux-gnu"));
            directories.extend(triplets.map(|(name, _)| [base.as_bytes(), b"/", name].concat()));
        }
        let plain = ["lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib"];
        directories.extend(plain.iter().map(|it| it.as_bytes().to_vec()));
        Ok(Self { directories })
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = &[u8]> {
        self.directories.iter().map(Vec::as_slice)
    }

    /// Where a library that the file at `path` names is: the first place in the order of the loader. All variants of it
    /// for other processors (`glibc-hwcaps`) are left to what was observed.
    pub(super) fn find(&self, tree: &Tree, name: &[u8], path: &TreePath, elf: &Elf) -> Option<Vec<u8>> {
        let exists = |candidate: &Vec<u8>| {
            let real = tree.resolve(candidate)?;
            matches!(tree.get(real)?.node.kind, Kind::File(_)).then_some(())
        };
        if name.contains(&b'/') {
            return Some(name.to_vec()).filter(|it| exists(it).is_some());
        }
        let own = elf.runpath.iter().chain(&elf.rpath).map(|it| origin_filled(it, path.parent()));
        let places = own.chain(self.directories.iter().cloned());
        places.map(|dir| [dir.as_slice(), b"/", name].concat()).find(|it| exists(it).is_some())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|it| it == part)
}

/// A search directory with the directory of the file that names it filled in.
fn origin_filled(directory: &[u8], origin: &[u8]) -> Vec<u8> {
    for token in [&b"$ORIGIN"[..], b"${ORIGIN}"] {
        if let Some(rest) = directory.strip_prefix(token) {
            return [origin, rest].concat();
        }
    }
    directory.to_vec()
}

fn include(tree: &Tree, files: &dyn Files, file: &[u8], depth: usize, into: &mut Vec<Vec<u8>>) -> Result<()> {
    let Some(entry) = tree.resolve(file).and_then(|it| tree.get(it)) else { return Ok(()) };
    let Kind::File(content) = entry.node.kind else { return Ok(()) };
    let text = String::from_utf8_lossy(&files.beginning(&content, MAX_TEXT)?).into_owned();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        match line.strip_prefix("include").filter(|rest| rest.starts_with(char::is_whitespace)) {
            Some(pattern) if depth < MAX_INCLUDES => {
                for file in matching(tree, pattern.trim().as_bytes()) {
                    include(tree, files, &file, depth + 1, into)?;
                }
            }
            Some(_) => {}
            None if line.starts_with('/') => into.push(line.as_bytes().to_vec()),
            None => {}
        }
    }
    Ok(())
}

/// Files that match a pattern with one `*` in its last name.
fn matching(tree: &Tree, pattern: &[u8]) -> Vec<Vec<u8>> {
    let whole = TreePath::new(pattern);
    let name = whole.name();
    let Some(star) = name.iter().position(|it| *it == b'*') else { return vec![whole.as_bytes().to_vec()] };
    let (start, end) = (&name[..star], &name[star + 1..]);
    let Some(dir) = tree.resolve(whole.parent()) else { return Vec::new() };
    let fits = |name: &[u8]| name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end);
    let children = tree.children(&dir).filter(|(name, _)| fits(name));
    children.map(|(name, _)| [dir.as_slice(), b"/", name].concat()).collect()
}

/// Names of libraries in the text of a program: what it may load by itself. Found as runs of letters that begin with
/// `lib` and hold `.so`, absolute paths included.
pub(super) fn library_names(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    const END: &[u8] = b".so";
    let letter = |it: &u8| it.is_ascii_alphanumeric() || b"._+-/".contains(it);
    let mut names = BTreeSet::new();
    let mut from = 0;
    while let Some(at) = find(bytes.get(from..).unwrap_or_default(), END).map(|at| from + at) {
        from = at + END.len();
        let start = bytes[..at].iter().rposition(|it| !letter(it)).map_or(0, |it| it + 1);
        let version = bytes[from..].iter().take_while(|it| it.is_ascii_digit() || **it == b'.').count();
        let name = &bytes[start..from + version];
        let base = name.rsplit(|it| *it == b'/').next().unwrap_or_default();
        let is_plain =
            name.len() < 200 && base.starts_with(b"lib") && (name.starts_with(b"/") || !name.contains(&b'/'));
        // `libx.so` may be followed by a version that is put in later; the name as it stands is what can be looked for.
        if is_plain && bytes.get(from + version).is_none_or(|it| !letter(it)) {
            names.insert(name.to_vec());
        }
    }
    names
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|it| *it == first)?;
        if bytes.get(at..)?.starts_with(part) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_text() {
        let check = |text: &[u8], expected: &[&str]| {
            let names: Vec<_> = library_names(text).into_iter().map(|it| String::from_utf8(it).unwrap()).collect();
            assert_eq!(names, expected, "{}", text.escape_ascii());
        };
        check(b"\0libgcc_s.so.1\0", &["libgcc_s.so.1"]);
        check(b"\0/usr/lib/libx-2.so\0 libnss_%s.so.2", &["/usr/lib/libx-2.so"]);
        check(b"xlib.so\0lib/a.so\0libc.sox", &[]);
        check(b"libz.so.1.2", &["libz.so.1.2"]);
        check(b".so.so.so", &[]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_searched(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = library_names(&bytes);
        }
    }
}
