//! What this crate knows about single packages: `data/packages.toml`, compiled in.

use serde::Deserialize;

use super::users::UserWish;
use crate::{Error, Result};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Known {
    script_only: Vec<String>,
    package: Vec<KnownPackage>,
}

/// What is known about one package, or about all whose names begin so.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct KnownPackage {
    pub(crate) name: String,
    pub(crate) users: Vec<UserWish>,
    pub(crate) dirs: Vec<Directory>,
    pub(crate) links: Vec<Link>,
    pub(crate) link_each: Vec<LinkEach>,
    pub(crate) copies: Vec<Copy>,
    pub(crate) files: Vec<File>,
    pub(crate) edits: Vec<Edit>,
    /// Further packages that its daemon needs to run.
    pub(crate) needs: Vec<String>,
    /// Dependencies that only extras beside its daemon use.
    pub(crate) unneeded: Vec<String>,
    /// Essential packages whose part it plays.
    pub(crate) replaces: Vec<String>,
    /// Of a package without a program of its own: the packages, of those it brings, whose daemon it stands for.
    pub(crate) stands_for: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) workdir: String,
    pub(crate) ports: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: String,
    /// Something that whoever runs the image should know.
    pub(crate) note: String,
}

/// A directory that must be there, or whose owner must be set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Directory {
    pub(crate) path: String,
    /// Permission bits; 0755 when absent.
    pub(crate) mode: Option<u32>,
    /// `root` when empty.
    pub(crate) owner: String,
    /// `root` when empty.
    pub(crate) group: String,
}

/// A symbolic link, made when its target exists or lies outside of the image (`/dev`), and nothing stands in its place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub(crate) path: String,
    pub(crate) target: String,
}

/// A link to each file of a directory with that ending, its name put behind `to`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkEach {
    pub(crate) dir: String,
    pub(crate) ending: String,
    pub(crate) to: String,
}

/// A file that a script copies into place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copy {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// A small file that must be there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A line of a configuration file that must read otherwise in a cell.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    pub(crate) path: String,
    pub(crate) line: String,
    pub(crate) to: String,
}

impl Known {
    /// Reads the file that was compiled in.
    pub(crate) fn load() -> Result<Self> {
        toml::from_str(include_str!("../../data/packages.toml"))
            .map_err(|error| Error::malformed("data/packages.toml", error.to_string()))
    }

    /// Whether a package does without that dependency: only configuration scripts use it, or only its extras do.
    pub(crate) fn is_needless(&self, owner: &str, name: &str) -> bool {
        self.script_only.iter().any(|known| known == name)
            || self.about(owner).flat_map(|known| &known.unneeded).any(|known| known == name)
    }

    /// What is known about that package.
    pub(crate) fn about(&self, name: &str) -> impl Iterator<Item = &KnownPackage> {
        self.package.iter().filter(move |known| match known.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => known.name == name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_well_formed() {
        let known = Known::load().unwrap();
        assert!(known.is_needless("nginx-common", "debconf") && known.is_needless("memcached", "perl"));
        assert!(!known.is_needless("nginx-common", "perl"));
        assert_eq!(known.about("libnginx-mod-http-echo").count(), 1);
        for package in &known.package {
            for path in package.links.iter().map(|link| &link.path).chain(package.dirs.iter().map(|dir| &dir.path)) {
                assert!(path.starts_with('/') && !path.contains(".."), "{}: {path}", package.name);
            }
            for edit in &package.edits {
                let read = crate::deb::unpack::READ.iter().any(|place| edit.path[1..].starts_with(place));
                assert!(read, "{}: {} is not read while it is unpacked", package.name, edit.path);
            }
            assert!(package.command.first().is_none_or(|program| program.starts_with('/')), "{}", package.name);
        }
    }
}
