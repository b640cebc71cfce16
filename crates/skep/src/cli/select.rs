//! From what was typed to what is meant: images, cells, signals, environment variables.

use std::str::FromStr;

use engine::{Cell, Engine};
use image::{FetchOptions, Fetched, SecurityUpdates};
use model::{Arch, ByteSize, ImageName, ImageRecord, ImageRef, ObjectId, ParseError, Source};

use crate::error::{CommandError, Kind, Result};
use crate::output::{Reporter, note};

/// When to get an image that has a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pull {
    Always,
    Missing,
    Never,
}

impl FromStr for Pull {
    type Err = ParseError;
    fn from_str(text: &str) -> std::result::Result<Self, ParseError> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => Err(ParseError::new("pull policy", text, "always, missing or never")),
        }
    }
}

/// Whether packages' own scripts are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scripts {
    Run,
    Skip,
}

/// How an image is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) arch: Option<Arch>,
    pub(super) pull: Pull,
    pub(super) security: SecurityUpdates,
    pub(super) scripts: Scripts,
}

impl Wanted {
    /// Whether an image that the pool has under the source's name is the one that is meant.
    fn accepts(&self, image: &ImageRecord) -> bool {
        self.arch.is_none_or(|arch| arch == image.arch)
            && (self.scripts == Scripts::Skip || image::deb::is_configured(image))
    }
}

/// An image of the pool.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: ImageName,
    pub(super) id: ObjectId,
    pub(super) record: ImageRecord,
}

/// The image, from the pool or from its source.
pub(super) fn image(engine: &Engine, wanted: &ImageRef, how: &Wanted) -> Result<Found> {
    let for_arch = with_arch(wanted, how.arch);
    let wanted = for_arch.as_ref().unwrap_or(wanted);
    let source = match wanted {
        ImageRef::Source(source) => Some(source),
        ImageRef::Named(_) => None,
    };
    if (source.is_none() || how.pull != Pull::Always)
        && let Some(found) = in_pool(engine, wanted)?
        && (source.is_none() || how.accepts(&found.record))
    {
        return of_arch(found, how.arch);
    }
    match source {
        Some(source) if how.pull != Pull::Never => get(engine, source, how, None),
        _ => Err(no_such_image(engine, wanted)),
    }
}

/// A source of packages for another processor, by the name under which its image is kept.
fn with_arch(wanted: &ImageRef, arch: Option<Arch>) -> Option<ImageRef> {
    match (wanted, arch) {
        (ImageRef::Source(Source::Deb(source)), Some(arch)) if source.arch.is_none() && arch != Arch::HOST => {
            Some(ImageRef::Source(Source::Deb(model::DebSource { arch: Some(arch), ..source.clone() })))
        }
        _ => None,
    }
}

/// An image of the pool is for one processor: another one's cannot be had by its name.
fn of_arch(found: Found, wanted: Option<Arch>) -> Result<Found> {
    match wanted {
        Some(wanted) if wanted != found.record.arch => {
            let has = found.record.arch;
            Err(CommandError::new(Kind::Conflict, format!("the image '{}' is for {has}, not {wanted}", found.name))
                .hinted(format!("name a source that has it for {wanted}, like deb:PKG, or leave out --arch")))
        }
        _ => Ok(found),
    }
}

/// Gets an image from its source into the pool.
pub(super) fn get(engine: &Engine, source: &model::Source, how: &Wanted, name: Option<ImageName>) -> Result<Found> {
    let cache = FetchOptions::new(engine.home().cache());
    let options = FetchOptions { arch: how.arch, security: how.security, name, ..cache };
    let fetched = match how.scripts {
        Scripts::Skip => image::fetch(engine.store(), source, &options, &Reporter::new())?,
        Scripts::Run => configured(engine, source, &options)?,
    };
    fetched.notes.iter().for_each(note);
    Ok(Found { name: fetched.name, id: fetched.id, record: fetched.record })
}

/// Makes an image whose packages' own scripts have run, in a build cell.
fn configured(engine: &Engine, source: &model::Source, options: &FetchOptions) -> Result<Fetched> {
    let model::Source::Deb(wanted) = source else {
        return Err(CommandError::usage(format!("--configure is for deb: images, and {source} is none")));
    };
    let progress = Reporter::new();
    // Opened before the build cell's root is stored, so that no collector takes it away before the cell has it.
    let _held = engine.store().reader()?;
    let plan = image::deb::configure_plan(engine.store(), wanted, options, &progress)?;
    let step = engine::BuildStep {
        what: &format!("running the configuration scripts of {source}"),
        image: &source.to_string(),
        tree: plan.tree,
        arch: plan.arch(),
        command: &plan.command,
        env: &plan.env,
    };
    engine.build(&step, &progress, |root| {
        image::deb::finish_configured(engine.store(), &plan, root, options, &progress).map_err(CommandError::from)
    })
}

fn in_pool(engine: &Engine, wanted: &ImageRef) -> Result<Option<Found>> {
    let found = image::lookup(engine.store(), wanted)?;
    Ok(found.map(|(name, id, record)| Found { name, id, record }))
}

/// The image, which must be in the pool.
pub(super) fn stored_image(engine: &Engine, wanted: &ImageRef) -> Result<Found> {
    in_pool(engine, wanted)?.ok_or_else(|| no_such_image(engine, wanted))
}

/// An error with the nearest thing that there is.
fn no_such_image(engine: &Engine, wanted: &ImageRef) -> CommandError {
    let text = wanted.to_string();
    let names: Vec<_> =
        engine.store().refs().unwrap_or_default().into_iter().map(|(name, _)| name.to_string()).collect();
    let near = names.iter().min_by_key(|name| engine::edit_distance(name, &text));
    let near = near.filter(|name| engine::edit_distance(name, &text) <= 1 + text.len() / 4);
    let hint = match (near, wanted) {
        (Some(name), _) => format!("did you mean '{name}'?"),
        (None, ImageRef::Named(name))
            if name.bytes().all(|b| b.is_ascii_lowercase() || b"+-.0123456789".contains(&b)) =>
        {
            format!("'deb:{name}' is the Debian package of that name; 'skep image ls' lists the images here")
        }
        (None, _) => "'skep image ls' lists the images here, 'skep image pull' gets one".to_owned(),
    };
    CommandError::new(Kind::NotFound, format!("no image is called '{text}'")).hinted(hint)
}

impl From<image::Error> for CommandError {
    fn from(error: image::Error) -> Self {
        use image::Error;
        let message = error.to_string();
        let failed = Self::failed(&message);
        match error {
            Error::Store(error) => error.into(),
            Error::NotFound { .. } | Error::NoSuchSuite { .. } => Self::new(Kind::NotFound, message),
            Error::NoSuchPackage { .. } => {
                Self::new(Kind::NotFound, message).hinted("'apt-cache search WORD' finds packages by what they do")
            }
            Error::Ambiguous { .. } => Self::new(Kind::Conflict, message).hinted("give more of the id, or the name"),
            Error::Unsupported { .. } => Self::new(Kind::Unsupported, message),
            Error::Program { .. } => failed.hinted("'skep doctor' tells what this machine can do"),
            Error::Registry { .. } => failed.hinted("is the registry's address right, and does it run?"),
            _ => failed,
        }
    }
}

impl From<store::Error> for CommandError {
    fn from(error: store::Error) -> Self {
        let failed = Self::failed(&error);
        match error {
            store::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                failed.hinted("'skep pool gc' deletes what no image and no cell needs, 'skep rm' what a cell wrote")
            }
            // The disk's or the user's permissions' trouble is not the pool's.
            store::Error::Io { .. } | store::Error::Source(_) | store::Error::Busy { .. } => failed,
            _ => failed.hinted("'skep pool fsck' checks the pool"),
        }
    }
}

/// Does something for each of several cells; a failure with one does not keep it from the others.
pub(super) fn for_each(engine: &Engine, wanted: &[String], mut action: impl FnMut(Cell) -> Result<()>) -> Result<()> {
    let mut last = Ok(());
    for text in wanted {
        let outcome = engine.find(text).map_err(CommandError::from).and_then(&mut action);
        if outcome.is_err() {
            // The last failure is reported by the caller, with the exit code; those before it here.
            if let Err(earlier) = std::mem::replace(&mut last, outcome) {
                earlier.report();
            }
        }
    }
    last
}

/// A memory limit in which a program can begin at all: less is a unit forgotten.
pub(super) fn memory_limit(text: &str) -> std::result::Result<ByteSize, ParseError> {
    let size: ByteSize = text.parse()?;
    if size < ByteSize::mib(1) {
        return Err(ParseError::new("memory limit", text, "at least 1m, like 64m (without a unit it counts bytes)"));
    }
    Ok(size)
}

/// A signal by name or number.
pub(super) fn signal(text: &str) -> Result<i32> {
    engine::signal_number(text).ok_or_else(|| {
        CommandError::usage(format!("'{text}' is not a signal"))
            .hinted("give a name like TERM, or a number from 1 to 64")
    })
}

/// `NAME=VALUE` pairs; a bare `NAME` takes the value that it has here, and is left out when it has none.
pub(super) fn environment(pairs: &[String]) -> Result<Vec<String>> {
    let mut env = Vec::new();
    for pair in pairs {
        match pair.split_once('=') {
            Some(("", _)) => return Err(CommandError::usage(format!("'{pair}' has no name before the '='"))),
            Some(_) => env.push(pair.clone()),
            None => env.extend(std::env::var(pair).ok().map(|value| format!("{pair}={value}"))),
        }
    }
    Ok(env)
}
