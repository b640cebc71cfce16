//! Making an image of a source.

use std::path::{Path, PathBuf};

use model::{Arch, DebSource, ImageName, ImageRecord, ObjectId, Progress, Source, Span};
use store::Store;

use crate::limits::Limits;
use crate::oci::{local, registry};
use crate::{Error, Result, deb, host};

/// Whether Debian packages come with their security updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityUpdates {
    /// The newest version, from whichever of the machine's suites.
    #[default]
    Include,
    /// As released: security suites are passed over. For tests of scanners, and for comparing.
    LeaveOut,
}

/// How to fetch; a push goes by the same credentials, patience and cache.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// The processor; the source's own, or the machine's, when absent.
    pub arch: Option<Arch>,
    /// Whether Debian packages come with their security updates.
    pub security: SecurityUpdates,
    /// A further name to store the image under.
    pub name: Option<ImageName>,
    /// Where downloads are kept, so that a second fetch needs no network: lists of packages, packages, blobs.
    pub cache: PathBuf,
    /// How old the lists of packages may be before they are fetched again.
    pub refresh: Span,
    /// A directory to read in place of `/etc/apt`.
    pub apt: Option<PathBuf>,
    /// A file with credentials for registries, in place of docker's and podman's usual ones.
    pub credentials: Option<PathBuf>,
    /// How long a registry may be silent before a transfer is begun anew.
    pub stall: Span,
    /// Bounds on what is taken in.
    pub limits: Limits,
}

impl FetchOptions {
    /// The defaults, with downloads kept in that directory: all security updates, lists up to 12 hours old.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            arch: None,
            security: SecurityUpdates::default(),
            name: None,
            cache: cache.into(),
            refresh: Span::seconds(12 * 3600),
            apt: None,
            credentials: None,
            stall: Span::seconds(30),
            limits: Limits::default(),
        }
    }

    /// The processor to make the image for.
    pub(crate) fn arch_or(&self, of_source: Option<Arch>) -> Arch {
        self.arch.or(of_source).unwrap_or(Arch::HOST)
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }
}

/// An image that is now in the pool.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The name it is stored under.
    pub name: ImageName,
    /// Its id.
    pub id: ObjectId,
    /// All about it.
    pub record: ImageRecord,
    /// What whoever asked should know: what was left out, what is stale, what will not work by itself.
    pub notes: Vec<String>,
}

/// Makes the image of a source and keeps it in the pool, under the source's own text and the name in `options`. What the
/// names led to before stays in the pool until it is collected.
///
/// # Errors
/// Whatever keeps the image from being exactly what was asked for. The pool's names are then as they were.
pub fn fetch(store: &Store, source: &Source, options: &FetchOptions, progress: &dyn Progress) -> Result<Fetched> {
    match source {
        Source::Deb(wanted) => {
            let wanted = for_arch(wanted, options.arch)?;
            deb::build(store, &Source::Deb(wanted.clone()), &wanted, options, progress)
        }
        Source::Host(wanted) => host::build(store, source, wanted, options, progress),
        Source::OciDir { dir, tag } => local::from_directory(store, source, dir, tag.as_deref(), options, progress),
        Source::OciArchive { file, tag } => local::from_archive(store, source, file, tag.as_deref(), options, progress),
        Source::DockerArchive { file, tag } => {
            local::from_docker_archive(store, source, file, tag.as_deref(), options, progress)
        }
        Source::Registry(reference) => registry::pull(store, source, reference, options, progress),
    }
}

/// A source of packages with its processor in its text: under one name there is one image.
pub(crate) fn for_arch(wanted: &DebSource, asked: Option<Arch>) -> Result<DebSource> {
    match (wanted.arch, asked) {
        (Some(of_source), Some(asked)) if of_source != asked => Err(Error::Unsupported {
            what: format!("deb:{wanted}"),
            why: format!("it asks for {of_source}, and {asked} is asked for beside it"),
        }),
        (None, Some(asked)) if asked != Arch::HOST => Ok(DebSource { arch: Some(asked), ..wanted.clone() }),
        _ => Ok(wanted.clone()),
    }
}
