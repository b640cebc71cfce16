//! Images in files: OCI layouts in a directory or a tar, and docker's archives.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::{Progress, Source};
use store::Store;

use super::archive::Archive;
use super::import::{self, Blobs, Imported};
use super::json::{self, ArchivedImage, Descriptor, Index, REF_NAME};
use crate::layer::unpack::Unpacker;
use crate::{Error, FetchOptions, Fetched, Result};

/// An OCI layout, wherever its files are.
enum Layout {
    Directory(PathBuf),
    Archive(Archive),
}

impl Layout {
    fn small(&self, name: &str, options: &FetchOptions) -> Result<Vec<u8>> {
        match self {
            Self::Archive(archive) => archive.small(name, &options.limits),
            Self::Directory(dir) => {
                let path = dir.join(name);
                let file = File::open(&path).map_err(|error| missing_layout(dir, &path, error))?;
                let mut bytes = Vec::new();
                let most = options.limits.document.get();
                file.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path.display(), error))?;
                if bytes.len() as u64 > most {
                    return Err(Error::limit("bytes of an image's document", options.limits.document));
                }
                Ok(bytes)
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Archive(archive) => archive.path().display().to_string(),
            Self::Directory(dir) => dir.display().to_string(),
        }
    }
}

fn missing_layout(dir: &Path, path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::not_found(path.display().to_string(), format!("{} is no complete OCI layout", dir.display()))
        }
        _ => Error::io(path.display(), error),
    }
}

impl Blobs for Layout {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>> {
        // A digest is 64 hex digits by its type: it cannot lead out of the layout.
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        match self {
            Self::Archive(archive) => Ok(Box::new(archive.file(&name)?.0)),
            Self::Directory(dir) => {
                let path = dir.join(name);
                let file = File::open(&path).map_err(|error| missing_layout(dir, &path, error))?;
                Ok(Box::new(file))
            }
        }
    }
}

/// Imports from a layout in a directory.
pub(crate) fn from_directory(
    store: &Store,
    source: &Source,
    dir: &Path,
    tag: Option<&str>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    from_layout(store, source, &Layout::Directory(dir.to_owned()), tag, options, progress)
}

/// Imports from a layout in a tar.
pub(crate) fn from_archive(
    store: &Store,
    source: &Source,
    file: &Path,
    tag: Option<&str>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let archive = Archive::open(file, options.cache(), &options.limits)?;
    from_layout(store, source, &Layout::Archive(archive), tag, options, progress)
}

fn from_layout(
    store: &Store,
    source: &Source,
    layout: &Layout,
    tag: Option<&str>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let index: Index = json::from_bytes("index.json", &layout.small("index.json", options)?)?;
    let start = tagged(index, tag, &layout.shown())?;
    let chosen = import::choose(layout, &start, options.arch_or(None), &options.limits)?;
    import::import(store, source, layout, &chosen, options, progress)
}

/// The entry of a layout's index with that tag; without one, the only entry, or the one called `latest`.
fn tagged(index: Index, tag: Option<&str>, shown: &str) -> Result<Descriptor> {
    let name = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    let wanted = |tag: &str| index.manifests.iter().find(|entry| name(entry).as_deref() == Some(tag)).cloned();
    let found = match (tag, index.manifests.as_slice()) {
        (Some(tag), _) => wanted(tag),
        (None, [only]) => Some(only.clone()),
        (None, _) => wanted("latest"),
    };
    found.ok_or_else(|| {
        let tags: Vec<String> = index.manifests.iter().filter_map(name).collect();
        let what = tag.map_or_else(|| format!("the image to take from {shown}"), |tag| format!("tag {tag} in {shown}"));
        Error::not_found(
            what,
            format!("it has {}", if tags.is_empty() { "no tags".to_owned() } else { tags.join(", ") }),
        )
    })
}

/// Imports from what `docker save` writes.
pub(crate) fn from_docker_archive(
    store: &Store,
    source: &Source,
    file: &Path,
    tag: Option<&str>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let archive = Archive::open(file, options.cache(), &options.limits)?;
    let images: Vec<ArchivedImage> =
        json::from_bytes("manifest.json", &archive.small("manifest.json", &options.limits)?)?;
    let image = named(&images, tag, file)?;
    let config = archive.small(&image.config, &options.limits)?;
    let mut draft = Imported::read(source, &config, options)?;
    if draft.diff_ids.len() != image.layers.len() || image.layers.len() > options.limits.layers {
        return Err(Error::malformed("manifest.json", "its layers are not those of the configuration"));
    }
    let mut writer = store.writer()?;
    let mut unpacker = Unpacker::new(&mut writer, options.limits);
    let count = image.layers.len();
    for (number, (layer, diff_id)) in image.layers.iter().zip(draft.diff_ids.clone()).enumerate() {
        let (content, size) = archive.file(layer)?;
        progress.begin(&format!("unpacking layer {} of {count}", number + 1), Some(size));
        let record = unpacker.layer(content, None, Some(diff_id), progress);
        progress.end();
        draft.layers.push(record?);
    }
    let tree = std::mem::take(&mut unpacker.tree);
    draft.inputs = draft.diff_ids.iter().map(|diff_id| format!("layer {diff_id}")).collect();
    draft.finish(source, writer, tree, &config, options)
}

fn named<'i>(images: &'i [ArchivedImage], tag: Option<&str>, file: &Path) -> Result<&'i ArchivedImage> {
    let found = match (tag, images) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(tag), _) => images.iter().find(|image| {
            image.repo_tags.iter().any(|known| known == tag || known.strip_suffix(":latest") == Some(tag))
        }),
    };
    found.ok_or_else(|| {
        let tags: Vec<&str> = images.iter().flat_map(|image| &image.repo_tags).map(String::as_str).collect();
        Error::not_found(format!("the image to take from {}", file.display()), format!("it has {}", tags.join(", ")))
    })
}
