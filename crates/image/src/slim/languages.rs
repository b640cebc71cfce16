//! Rules of languages whose programs load modules by name while they run: a package of which something was used is kept
//! whole, and so is what a used module says that it imports. Whatever else a package is for (tests, documentation) is not.

use store::Kind;

use super::keeper::{Keeper, MAX_TEXT};
use super::{Reason, TreePath};
use crate::Result;

/// Keeps the packages of everything that was used.
pub(super) fn packages(keeper: &mut Keeper<'_>) -> Result<()> {
    let used: Vec<TreePath> = keeper.kept().keys().filter(|it| keeper.is_used(it)).cloned().collect();
    for path in &used {
        let Some(place) = Place::of(path.as_bytes()) else { continue };
        keep_package(keeper, path, &place);
        match place.language {
            Language::Python => python_imports(keeper, path, &place)?,
            Language::Perl => perl_imports(keeper, path, &place)?,
            Language::Ruby | Language::Node | Language::Java => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Perl,
    Ruby,
    Node,
    Java,
}

/// Where a module lies: the directory that its language searches, and its path from there.
#[derive(Debug, PartialEq, Eq)]
struct Place<'p> {
    language: Language,
    root: &'p [u8],
    inside: &'p [u8],
}

impl<'p> Place<'p> {
    fn of(path: &'p [u8]) -> Option<Self> {
        let at = |language, length: usize| {
            let (root, inside) = (path.get(..length)?, path.get(length + 1..)?);
            Some(Self { language, root, inside })
        };
        let names: Vec<&[u8]> = path.split(|it| *it == b'/').collect();
        // How long the path is up to and with the name at that place.
        let upto = |index: usize| names.iter().take(index + 1).map(|it| it.len() + 1).sum::<usize>() - 1;
        let position = |test: &dyn Fn(&[u8]) -> bool| names.iter().rposition(|it| test(it));
        if let Some(index) = position(&|it| it == b"site-packages" || it == b"dist-packages") {
            return at(Language::Python, upto(index));
        }
        if let Some(index) = position(&|it| it == b"node_modules") {
            return at(Language::Node, upto(index));
        }
        if path.starts_with(b"usr/share/nodejs/") {
            return at(Language::Node, upto(2));
        }
        if let Some(index) = position(&|it| it == b"gems" || it == b"rubygems-integration") {
            return at(Language::Ruby, upto(index));
        }
        if path.starts_with(b"usr/lib/jvm/") {
            return at(Language::Java, upto(2));
        }
        let versioned = |index: usize| names.get(index).is_some_and(|it| it.first().is_some_and(u8::is_ascii_digit));
        if let Some(index) = position(&|it| it == b"ruby" || it == b"vendor_ruby") {
            let index = if versioned(index + 1) { index + 1 } else { index };
            return at(Language::Ruby, upto(index));
        }
        if let Some(index) = position(&|it| it == b"perl" || it == b"perl5" || it == b"perl-base") {
            let index = if versioned(index + 1) { index + 1 } else { index };
            return at(Language::Perl, upto(index));
        }
        let index = position(&|it| it.starts_with(b"python3") || it.starts_with(b"python2"))?;
        (names.get(index.checked_sub(1)?) == Some(&&b"lib"[..])).then(|| at(Language::Python, upto(index)))?
    }

    /// The first name below the root.
    fn package(&self) -> &'p [u8] {
        self.inside.split(|it| *it == b'/').next().unwrap_or_default()
    }
}

/// What no running program needs of a package.
fn is_useless(path: &[u8]) -> bool {
    let name = path.rsplit(|it| *it == b'/').next().unwrap_or_default();
    let names: &[&[u8]] = &[b"test", b"tests", b"idle_test", b"doc", b"docs", b"man", b"legal", b"demo", b"src.zip"];
    names.contains(&name)
}

fn keep_package(keeper: &mut Keeper<'_>, path: &TreePath, place: &Place<'_>) {
    let reason = Reason::Module(path.clone());
    let package = [place.root, b"/", place.package()].concat();
    match place.language {
        Language::Java => return keep_java(keeper, place, &reason),
        Language::Perl => {
            // A module may bring a directory of the same name, and a part in C.
            let stem = place.inside.strip_suffix(b".pm").unwrap_or(place.inside);
            for dir in [stem.to_vec(), [b"auto/", stem].concat()] {
                keeper.want_below(&[place.root, b"/", &dir].concat(), &reason, |it| !is_useless(it));
            }
            if place.inside.starts_with(b"unicore/") {
                keeper.want_below(&[place.root, b"/unicore"].concat(), &reason, |_| true);
            }
            return;
        }
        Language::Ruby => {
            let stem = package.strip_suffix(b".rb").unwrap_or(&package).to_vec();
            keeper.want(&[&stem[..], b".rb"].concat(), reason.clone());
            keeper.want_below(&stem, &reason, |it| !is_useless(it));
            return;
        }
        Language::Node if place.package().starts_with(b"@") => {
            let scoped: Vec<&[u8]> = place.inside.split(|it| *it == b'/').take(2).collect();
            keeper.want_below(&[place.root, b"/", &scoped.join(&b'/')].concat(), &reason, |it| !is_useless(it));
            return;
        }
        Language::Python | Language::Node => {}
    }
    let containers: &[&[u8]] = &[b"__pycache__", b"lib-dynload", b"dist-packages", b"site-packages"];
    if !containers.contains(&place.package()) {
        keeper.want_below(&package, &reason, |it| !is_useless(it));
    }
}

/// A runtime's settings and the libraries that it loads by computed names; its archive of classes was seen in use.
fn keep_java(keeper: &mut Keeper<'_>, place: &Place<'_>, reason: &Reason) {
    const LIBRARIES: &[&str] = &[
        "java",
        "jimage",
        "zip",
        "net",
        "nio",
        "verify",
        "extnet",
        "management",
        "management_ext",
        "prefs",
        "jaas",
        "syslookup",
        "jsvml",
        "instrument",
    ];
    let home = [place.root, b"/", place.package()].concat();
    for dir in [&b"/conf"[..], b"/lib/security", b"/lib/jfr"] {
        keeper.want_below(&[&home[..], dir].concat(), reason, |_| true);
    }
    for name in ["jvm.cfg", "tzdb.dat", "psfontj2d.properties", "currency.data", "jspawnhelper", "modules"] {
        keeper.want(&[&home[..], b"/lib/", name.as_bytes()].concat(), reason.clone());
    }
    for name in LIBRARIES {
        keeper.want(&[&home[..], format!("/lib/lib{name}.so").as_bytes()].concat(), reason.clone());
    }
}

/// Where a module of that name would lie, below any root that something of the language was used in.
fn want_module(keeper: &mut Keeper<'_>, roots: &[Vec<u8>], stem: &str, endings: &[&str], reason: &Reason) {
    for root in roots {
        for ending in endings {
            let path = [root.as_slice(), b"/", stem.as_bytes(), ending.as_bytes()].concat();
            if matches!(
                keeper.tree.resolve(&path).and_then(|it| keeper.tree.get(it)).map(|it| &it.node.kind),
                Some(Kind::File(_))
            ) {
                keeper.want(&path, reason.clone());
            }
        }
    }
}

/// What a used module of Python says that it imports: the modules themselves, without what they import in turn.
fn python_imports(keeper: &mut Keeper<'_>, path: &TreePath, place: &Place<'_>) -> Result<()> {
    let source = if let Some(cached) = path.name().strip_suffix(b".pyc") {
        // `__pycache__/name.cpython-311.pyc` stands for `name.py`.
        let stem = cached.split(|it| *it == b'.').next().unwrap_or_default();
        let dir = path.parent().strip_suffix(b"/__pycache__").unwrap_or(path.parent());
        let source = [dir, b"/", stem, b".py"].concat();
        keeper.want(&source, Reason::Module(path.clone()));
        source
    } else if path.name().ends_with(b".py") {
        path.as_bytes().to_vec()
    } else {
        return Ok(());
    };
    let text = keeper.read(&source, MAX_TEXT)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let reason = Reason::Imported(TreePath::new(&source));
    let mut roots = vec![place.root.to_vec()];
    roots.push([place.root, b"/lib-dynload"].concat());
    for module in text.lines().flat_map(python_names) {
        let stem = module.replace('.', "/");
        want_module(keeper, &roots, &stem, &[".py", "/__init__.py"], &reason);
        let prefix = format!("{module}.");
        let dynamic = [place.root, b"/lib-dynload"].concat();
        let found: Vec<Vec<u8>> = keeper
            .tree
            .children(&dynamic)
            .filter(|(name, _)| name.starts_with(prefix.as_bytes()))
            .map(|(name, _)| [dynamic.as_slice(), b"/", name].concat())
            .collect();
        for path in found {
            keeper.want(&path, reason.clone());
        }
    }
    Ok(())
}

/// The modules that a line of Python imports.
fn python_names(line: &str) -> Vec<String> {
    let line = line.trim().split('#').next().unwrap_or_default();
    let plain = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    let first = |it: &str| it.split_whitespace().next().unwrap_or_default().to_owned();
    let names: Vec<String> = match (line.strip_prefix("import "), line.strip_prefix("from ")) {
        (Some(rest), _) => rest.split(',').map(first).collect(),
        (_, Some(rest)) => vec![first(rest)],
        _ => Vec::new(),
    };
    names.into_iter().filter(|it| plain(it) && !it.starts_with('.')).collect()
}

/// What a used module of Perl says that it uses, wherever a used module was found.
fn perl_imports(keeper: &mut Keeper<'_>, path: &TreePath, place: &Place<'_>) -> Result<()> {
    let text = keeper.read(path.as_bytes(), MAX_TEXT)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let reason = Reason::Imported(path.clone());
    let roots = [place.root.to_vec()];
    for line in text.lines().take_while(|it| *it != "__END__") {
        let Some(rest) = line.trim().strip_prefix("use ").or(line.trim().strip_prefix("require ")) else { continue };
        let name =
            rest.split(|it: char| !it.is_ascii_alphanumeric() && it != '_' && it != ':').next().unwrap_or_default();
        if name.starts_with(|it: char| it.is_ascii_alphabetic()) {
            want_module(keeper, &roots, &name.replace("::", "/"), &[".pm"], &reason);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_placed() {
        let check = |path: &str, expected: Option<(Language, &str, &str)>| {
            let place = Place::of(path.as_bytes()).map(|it| (it.language, it.root.to_vec(), it.package().to_vec()));
            let expected =
                expected.map(|(it, root, package)| (it, root.as_bytes().to_vec(), package.as_bytes().to_vec()));
            assert_eq!(place, expected, "{path}");
        };
        check("usr/lib/python3.11/json/decoder.py", Some((Language::Python, "usr/lib/python3.11", "json")));
        check("usr/lib/python3/dist-packages/x/y.py", Some((Language::Python, "usr/lib/python3/dist-packages", "x")));
        check("usr/share/python3/debpython/x.py", None);
        check("usr/share/perl/5.36.0/strict.pm", Some((Language::Perl, "usr/share/perl/5.36.0", "strict.pm")));
        check(
            "usr/lib/x86_64-linux-gnu/perl-base/POSIX.pm",
            Some((Language::Perl, "usr/lib/x86_64-linux-gnu/perl-base", "POSIX.pm")),
        );
        check("usr/lib/ruby/3.1.0/json/common.rb", Some((Language::Ruby, "usr/lib/ruby/3.1.0", "json")));
        check("app/node_modules/a/b.js", Some((Language::Node, "app/node_modules", "a")));
        check("usr/lib/jvm/java-17/lib/modules", Some((Language::Java, "usr/lib/jvm", "java-17")));
        check("usr/bin/python3.11", None);
        check("usr/lib/python3.11", None);
    }

    #[test]
    fn imports_are_read() {
        let check = |line: &str, expected: &[&str]| assert_eq!(python_names(line), expected, "{line}");
        check("import os, sys as s", &["os", "sys"]);
        check("    from a.b import c  # why", &["a.b"]);
        check("from . import x", &[]);
        check("important = 1", &[]);
        check("import *", &[]);
    }
}
