//! Where an image comes from: one grammar, read here and used by every verb.
//!
//! ```text
//! deb:PKG[,PKG…][@SUITE][/ARCH]          packages of the machine's own apt sources
//! host:PATH[,PATH…]                      a program of this machine with its libraries, and named files
//! oci:DIR[:TAG]                          an OCI image layout
//! oci-archive:FILE[:TAG]                 the same in a tar
//! docker-archive:FILE[:NAME]             what `docker save` writes
//! docker://REGISTRY/REPO[:TAG|@DIGEST]   a registry
//! NAME                                   an image of this machine's pool, by name or id
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::arch::Arch;
use crate::digest::Sha256;
use crate::parse::{ParseError, serde_as_text};

/// An image as a user names it: one already here, or where to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRef {
    /// Where to get it. It is stored under the source's own text.
    Source(Source),
    /// A name or an id (or a unique beginning of one) in the pool.
    Named(String),
}

/// Where to get an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian packages.
    Deb(DebSource),
    /// Programs of this machine.
    Host(HostSource),
    /// An OCI image layout in a directory.
    OciDir {
        /// The directory with `index.json`.
        dir: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// An OCI image layout in a tar.
    OciArchive {
        /// The tar.
        file: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// A docker archive.
    DockerArchive {
        /// The tar.
        file: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// A registry.
    Registry(Reference),
}

/// `PKG[,PKG…][@SUITE][/ARCH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebSource {
    /// The packages asked for, as typed; their dependencies come along.
    pub packages: Vec<String>,
    /// The suite to take them from; the machine's own when absent.
    pub suite: Option<String>,
    /// The processor; the machine's own when absent.
    pub arch: Option<Arch>,
}

/// `PATH[,PATH…]`: the first is the program, the others come along under their own names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSource {
    /// The program: an absolute path.
    pub program: PathBuf,
    /// Further files or directories: absolute paths.
    pub files: Vec<PathBuf>,
}

/// `REGISTRY/REPO[:TAG|@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host and optional port: `localhost:5000`.
    pub registry: String,
    /// Path inside: `library/nginx`.
    pub repository: String,
    /// The tag; `latest` when neither tag nor digest is given.
    pub tag: Option<String>,
    /// The exact manifest.
    pub digest: Option<Sha256>,
}

const FORMS: &str = "deb:PKG, host:/PATH, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://HOST/REPO, \
                     or the name of an image in the pool";

impl FromStr for ImageRef {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        const SCHEMES: [&str; 6] = ["deb:", "host:", "oci:", "oci-archive:", "docker-archive:", "docker://"];
        if SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
            return text.parse().map(Self::Source);
        }
        let name: crate::name::ImageName = text.parse().map_err(|_| ParseError::new("image", text, FORMS))?;
        Ok(Self::Named(name.as_str().to_owned()))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => source.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl FromStr for Source {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("source of images", text, FORMS);
        if let Some(reference) = text.strip_prefix("docker://") {
            return reference.parse().map(Self::Registry);
        }
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
        if rest.is_empty() || rest.contains(|c: char| c.is_control()) {
            return Err(wrong());
        }
        match scheme {
            "deb" => rest.parse().map(Self::Deb),
            "host" => rest.parse().map(Self::Host),
            "oci" => split_tag(rest).map(|(dir, tag)| Self::OciDir { dir, tag }).ok_or_else(wrong),
            "oci-archive" => split_tag(rest).map(|(file, tag)| Self::OciArchive { file, tag }).ok_or_else(wrong),
            "docker-archive" => split_tag(rest).map(|(file, tag)| Self::DockerArchive { file, tag }).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// `PATH[:TAG]`: a tag holds no slash, so a colon before a later slash belongs to the path.
fn split_tag(text: &str) -> Option<(PathBuf, Option<String>)> {
    match text.split_once(':') {
        Some((path, tag)) if !path.is_empty() && !tag.is_empty() => Some((path.into(), Some(tag.to_owned()))),
        Some(_) => None,
        None => Some((text.into(), None)),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |f: &mut fmt::Formatter<'_>, scheme, path: &PathBuf, tag: &Option<String>| {
            write!(f, "{scheme}:{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Self::Deb(source) => write!(f, "deb:{source}"),
            Self::Host(source) => write!(f, "host:{source}"),
            Self::OciDir { dir, tag } => tagged(f, "oci", dir, tag),
            Self::OciArchive { file, tag } => tagged(f, "oci-archive", file, tag),
            Self::DockerArchive { file, tag } => tagged(f, "docker-archive", file, tag),
            Self::Registry(reference) => write!(f, "docker://{reference}"),
        }
    }
}

impl FromStr for DebSource {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("list of Debian packages", text, "PKG[,PKG…][@SUITE][/ARCH], like nginx-light");
        let (rest, arch) = match text.split_once('/') {
            Some((rest, arch)) => (rest, Some(arch.parse()?)),
            None => (text, None),
        };
        let (packages, suite) = match rest.split_once('@') {
            Some((packages, suite)) => (packages, Some(suite.to_owned())),
            None => (rest, None),
        };
        // Debian Policy 5.6.1: at least two characters, lower-case letters, digits and `+-.`, the first alphanumeric.
        let package = |name: &str| {
            name.len() >= 2
                && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
                && name.as_bytes()[0].is_ascii_alphanumeric()
        };
        let word = |name: &str| {
            name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        let packages: Vec<String> = packages.split(',').map(str::to_owned).collect();
        if packages.iter().all(|name| package(name)) && suite.as_deref().is_none_or(word) {
            Ok(Self { packages, suite, arch })
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for DebSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.packages.join(","))?;
        self.suite.as_ref().map_or(Ok(()), |suite| write!(f, "@{suite}"))?;
        self.arch.map_or(Ok(()), |arch| write!(f, "/{arch}"))
    }
}

impl FromStr for HostSource {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut paths = text.split(',').map(PathBuf::from);
        let wrong =
            || ParseError::new("program of this machine", text, "absolute paths, like /bin/ls or /bin/ls,/etc/passwd");
        if !text.split(',').all(|path| path.starts_with('/')) {
            return Err(wrong());
        }
        Ok(Self { program: paths.next().ok_or_else(wrong)?, files: paths.collect() })
    }
}

impl fmt::Display for HostSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.files.iter().try_for_each(|file| write!(f, ",{}", file.display()))
    }
}

impl FromStr for Reference {
    type Err = ParseError;
    /// The grammar of the OCI distribution specification: lower-case path components joined by `/`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("registry reference", text, "HOST[:PORT]/REPOSITORY[:TAG|@sha256:…]");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, path) = rest.split_once('/').ok_or_else(wrong)?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let host = registry.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
        let component = |part: &str| {
            part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
                && part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        };
        let word = |tag: &str| {
            (1..=128).contains(&tag.len())
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
                && !tag.starts_with(['.', '-'])
        };
        if registry.is_empty() || !host || !repository.split('/').all(component) || !tag.is_none_or(word) {
            return Err(wrong());
        }
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

serde_as_text!(ImageRef);
serde_as_text!(Source);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_prints_as_it_was_written() {
        let digest = format!("docker://localhost:5000/a/b@sha256:{}", "0a".repeat(32));
        let texts = [
            "deb:nginx-light",
            "deb:redis-server,python3-minimal@bookworm/arm64",
            "deb:libstdc++6",
            "host:/bin/ls",
            "host:/bin/ls,/etc/passwd",
            "oci:dir:v1",
            "oci:/a/b",
            "oci-archive:b.tar",
            "docker-archive:b.tar:web:v1",
            "docker://localhost:5000/library/nginx:1.25",
            &digest,
            "web:v2",
            "3fa09c",
        ];
        for text in texts {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let wrong = [
            "",
            "deb:",
            "deb:a b",
            "deb:Nginx",
            "deb:x,",
            "deb:nginx/vax",
            "deb:nginx@",
            "host:ls",
            "host:/a,b",
            "oci:",
            "oci:x:",
            "docker://",
            "docker://host",
            "docker://host/Repo",
            "docker://host/../etc",
            "docker://host/a:b:c",
            "docker://host/a@sha256:12",
            "two words",
        ];
        for text in wrong {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_printing_is_stable(text in "(deb|host|oci|docker)?:?[ -~]{0,30}") {
            if let Ok(parsed) = text.parse::<ImageRef>() {
                let printed = parsed.to_string();
                proptest::prop_assert_eq!(printed.parse::<ImageRef>(), Ok(parsed));
            }
        }
    }
}
