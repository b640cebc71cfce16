//! Images written as OCI layouts, archives and docker archives.
//!
//! Each layer comes out as the very tar that came in, checked against its digest on the way. Compressed blobs are made
//! anew, the same for the same tar, and so differ from those that an image once arrived as: the result says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use model::{ByteSize, ImageRecord, LayerRecord, ObjectId, Progress, Sha256, Source};
use sha2::Digest;
use store::{Reader, Store};

use super::json::{self, ArchivedImage, Descriptor, Index, Manifest, REF_NAME};
use crate::layer::canonical;
use crate::layer::recipe::replay;
use crate::layer::unpack::check;
use crate::limits::Limits;
use crate::staging::Staging;
use crate::{Error, Result, seekable};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Digest of the manifest; of the configuration for a docker archive, which has none.
    pub digest: Sha256,
    /// Bytes written.
    pub size: ByteSize,
    /// What whoever asked should know: blobs that are not those the image arrived as.
    pub notes: Vec<String>,
}

/// Writes an image to `oci:`, `oci-archive:` or `docker-archive:`. A file appears whole or not at all; a directory that
/// is an OCI layout already gets one more image.
///
/// # Errors
/// [`Error::Unsupported`] for any other kind of target; damage in the pool is found by its digest and not written.
pub fn export(store: &Store, id: &ObjectId, to: &Source, progress: &dyn Progress) -> Result<Exported> {
    let record = store.image(id)?;
    let reader = store.reader()?;
    match to {
        Source::OciDir { dir, tag } => to_directory(&reader, &record, dir, tag.as_deref(), progress),
        Source::OciArchive { file, tag } => to_archive(&reader, &record, file, tag.as_deref(), progress),
        Source::DockerArchive { file, tag } => to_docker_archive(&reader, &record, file, tag.as_deref(), progress),
        other => Err(Error::Unsupported {
            what: other.to_string(),
            why: "an image is exported to oci:, oci-archive: or docker-archive:".to_owned(),
        }),
    }
}

/// A compressed layer on disk.
pub(crate) struct StagedLayer {
    pub(crate) path: PathBuf,
    pub(crate) descriptor: Descriptor,
    /// SHA-256 of the tar inside.
    pub(crate) diff_id: Sha256,
}

/// An image made ready to be given away.
pub(crate) struct Staged {
    pub(crate) layers: Vec<StagedLayer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config_descriptor: Descriptor,
    pub(crate) descriptor: Descriptor,
    pub(crate) notes: Vec<String>,
}

/// How layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// Each as one stream: as small as it gets.
    Stream,
    /// Each so that single files can be had from a registry, where that can be ([`crate::seekable`]).
    Seekable,
}

/// Compresses the layers into files of `dir` and writes the manifest.
pub(crate) fn stage(
    reader: &Reader,
    record: &ImageRecord,
    dir: &Path,
    form: LayerForm,
    progress: &dyn Progress,
) -> Result<Staged> {
    let mut layers: Vec<StagedLayer> = Vec::new();
    let (mut remade, mut left) = (0, 0);
    for (number, layer) in record.layers.iter().enumerate() {
        progress.begin(&format!("packing layer {} of {}", number + 1, record.layers.len()), Some(layer.size.get()));
        let path = dir.join(format!("layer-{number}"));
        let staged = match form {
            LayerForm::Stream => pack_layer(reader, record, layer, &path, progress),
            LayerForm::Seekable => {
                pack_seekable(reader, record, layer, &path, progress).and_then(|staged| match staged {
                    Some(staged) => Ok(staged),
                    None => {
                        left += 1;
                        pack_layer(reader, record, layer, &path, progress)
                    }
                })
            }
        };
        progress.end();
        let staged = staged?;
        remade += usize::from(layer.original.is_some_and(|original| original != staged.descriptor.digest));
        layers.push(staged);
    }
    let config = reader.blob(&record.oci_config)?;
    check("configuration", &record.oci_id, &describe(json::CONFIG, &config).digest)?;
    let config = match form {
        LayerForm::Stream => config,
        LayerForm::Seekable => with_layers(&config, &layers)?,
    };
    let config_descriptor = describe(json::CONFIG, &config);
    let manifest = json::to_bytes(&Manifest {
        schema_version: 2,
        media_type: json::MANIFEST.to_owned(),
        config: config_descriptor.clone(),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
    })?;
    let descriptor = describe(json::MANIFEST, &manifest);
    let mut notes = Vec::new();
    if left > 0 {
        notes.push(format!(
            "{left} of {} layers went as they are: a table of contents cannot tell their names or files with holes, so \
             they are fetched whole",
            layers.len()
        ));
    }
    if form == LayerForm::Stream && remade > 0 {
        notes.push(format!(
            "{remade} of {} layers were compressed anew: their blobs and the manifest have other digests than those the \
             image arrived with, its content and configuration have the same",
            layers.len()
        ));
    }
    Ok(Staged { layers, config, manifest, config_descriptor, descriptor, notes })
}

pub(crate) fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Sha256::from_bytes(sha2::Sha256::digest(bytes).into()),
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
        urls: Vec::new(),
    }
}

/// Writes a layer's tar.
fn write_tar(reader: &Reader, record: &ImageRecord, layer: &LayerRecord, out: &mut impl Write) -> Result<()> {
    let mut hashed = HashingWriter { out, hash: sha2::Sha256::new(), count: 0 };
    if layer.recipe == record.tree {
        canonical::write(&reader.tree(&record.tree)?, reader, &mut hashed)?;
    } else {
        replay(&reader.blob(&layer.recipe)?, reader, &mut hashed)?;
    }
    check("layer", &layer.diff_id, &Sha256::from_bytes(hashed.hash.finalize().into()))
}

fn pack_layer(
    reader: &Reader,
    record: &ImageRecord,
    layer: &LayerRecord,
    path: &Path,
    progress: &dyn Progress,
) -> Result<StagedLayer> {
    let failed = |error| Error::io(path.display(), error);
    let file = File::create(path).map_err(failed)?;
    let mut hashed = HashingWriter { out: BufWriter::new(file), hash: sha2::Sha256::new(), count: 0 };
    // No time and no name in the header: the same tar gives the same blob.
    let mut packer = GzBuilder::new().operating_system(255).write(&mut hashed, Compression::new(6));
    write_tar(reader, record, layer, &mut Advancing { out: &mut packer, progress })?;
    packer.finish().map_err(failed)?;
    hashed.flush().map_err(failed)?;
    let digest = Sha256::from_bytes(hashed.hash.finalize().into());
    let descriptor = Descriptor { digest, size: hashed.count, ..describe(json::LAYER_GZIP, b"") };
    Ok(StagedLayer { path: path.to_owned(), descriptor, diff_id: layer.diff_id })
}

/// Writes a layer in its seekable form; nothing when it has none.
fn pack_seekable(
    reader: &Reader,
    record: &ImageRecord,
    layer: &LayerRecord,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Option<StagedLayer>> {
    let failed = |error| Error::io(path.display(), error);
    // As a file, because one side gives bytes and the other takes them.
    let tar = path.with_extension("tar");
    let mut plain = BufWriter::new(File::create(&tar).map_err(failed)?);
    write_tar(reader, record, layer, &mut plain)?;
    plain.flush().map_err(failed)?;
    drop(plain);
    let source = Reading { source: File::open(&tar).map_err(failed)?, progress };
    let mut hashed =
        HashingWriter { out: BufWriter::new(File::create(path).map_err(failed)?), hash: sha2::Sha256::new(), count: 0 };
    let packed = seekable::pack::pack(BufReader::with_capacity(256 << 10, source), &Limits::default(), &mut hashed);
    fs::remove_file(&tar).map_err(failed)?;
    let Some(packed) = packed? else { return Ok(None) };
    hashed.flush().map_err(failed)?;
    let annotations = BTreeMap::from([(seekable::TOC_DIGEST.to_owned(), packed.toc.to_string())]);
    let digest = Sha256::from_bytes(hashed.hash.finalize().into());
    let descriptor = Descriptor { digest, size: hashed.count, annotations, ..describe(json::LAYER_GZIP, b"") };
    Ok(Some(StagedLayer { path: path.to_owned(), descriptor, diff_id: packed.diff_id }))
}

/// A configuration with the digests of other layers. All else in it stays, also what this program does not know.
fn with_layers(config: &[u8], layers: &[StagedLayer]) -> Result<Vec<u8>> {
    let mut document: serde_json::Value = json::from_bytes("configuration", config)?;
    let digests: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let place = document.pointer_mut("/rootfs/diff_ids");
    *place.ok_or_else(|| Error::malformed("configuration", "it tells of no layers"))? = digests.into();
    json::to_bytes(&document)
}

/// Tells progress of what is read.
struct Reading<'p, R> {
    source: R,
    progress: &'p dyn Progress,
}

impl<R: Read> Read for Reading<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// Passes bytes on, and knows their number and SHA-256.
struct HashingWriter<W> {
    out: W,
    hash: sha2::Sha256,
    count: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

struct Advancing<'p, W> {
    out: W,
    progress: &'p dyn Progress,
}

impl<W: Write> Write for Advancing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.progress.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

fn index_entry(staged: &Staged, record: &ImageRecord, tag: Option<&str>) -> Descriptor {
    let annotations = tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned())).into_iter().collect();
    let platform = json::Platform { architecture: record.arch.oci().to_owned(), os: "linux".to_owned(), variant: None };
    Descriptor { platform: Some(platform), annotations, ..staged.descriptor.clone() }
}

fn to_directory(
    reader: &Reader,
    record: &ImageRecord,
    dir: &Path,
    tag: Option<&str>,
    progress: &dyn Progress,
) -> Result<Exported> {
    let blobs = dir.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(|error| Error::io(blobs.display(), error))?;
    let staging = Staging::under(dir)?;
    let staged = stage(reader, record, staging.path(), LayerForm::Stream, progress)?;
    let entry = index_entry(&staged, record, tag);
    let mut index = match fs::read(dir.join("index.json")) {
        Ok(bytes) => json::from_bytes("index.json", &bytes)?,
        Err(_) => Index { schema_version: 2, media_type: json::INDEX.to_owned(), manifests: Vec::new() },
    };
    // A tag names one image, and an image without a tag is there once.
    index.manifests.retain(|old| match tag {
        Some(tag) => old.annotations.get(REF_NAME).map(String::as_str) != Some(tag),
        None => old.digest != entry.digest || !old.annotations.is_empty(),
    });
    index.manifests.push(entry);
    let mut size = 0;
    for layer in &staged.layers {
        let target = blobs.join(layer.descriptor.digest.hex());
        fs::rename(&layer.path, &target).map_err(|error| Error::io(target.display(), error))?;
        sync(&target)?;
        size += layer.descriptor.size;
    }
    let documents = [
        (blobs.join(staged.config_descriptor.digest.hex()), staged.config),
        (blobs.join(staged.descriptor.digest.hex()), staged.manifest),
        (dir.join("oci-layout"), LAYOUT.to_vec()),
        (dir.join("index.json"), json::to_bytes(&index)?),
    ];
    for (number, (target, bytes)) in documents.into_iter().enumerate() {
        let partial = staging.path().join(format!("document-{number}"));
        fs::write(&partial, &bytes).map_err(|error| Error::io(partial.display(), error))?;
        sync(&partial)?;
        fs::rename(&partial, &target).map_err(|error| Error::io(target.display(), error))?;
        size += bytes.len() as u64;
    }
    sync(&blobs)?;
    sync(dir)?;
    Ok(Exported { digest: staged.descriptor.digest, size: ByteSize::bytes(size), notes: staged.notes })
}

/// Makes what a file or directory holds durable.
fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Error::io(path.display(), error))
}

fn to_archive(
    reader: &Reader,
    record: &ImageRecord,
    file: &Path,
    tag: Option<&str>,
    progress: &dyn Progress,
) -> Result<Exported> {
    let staging = Staging::under(parent(file))?;
    let staged = stage(reader, record, staging.path(), LayerForm::Stream, progress)?;
    let entry = index_entry(&staged, record, tag);
    let index = Index { schema_version: 2, media_type: json::INDEX.to_owned(), manifests: vec![entry] };
    let blob = |digest: &Sha256| format!("blobs/sha256/{}", digest.hex());
    let mut archive = ArchiveWriter::create(&staging.path().join("archive"))?;
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    let mut written: Vec<Sha256> = Vec::new();
    for layer in &staged.layers {
        // Two layers may be the same blob; a name stands in an archive once.
        if !written.contains(&layer.descriptor.digest) {
            let content = File::open(&layer.path).map_err(|error| Error::io(layer.path.display(), error))?;
            archive.file(&blob(&layer.descriptor.digest), layer.descriptor.size, &mut &content)?;
            written.push(layer.descriptor.digest);
        }
    }
    archive.bytes(&blob(&staged.config_descriptor.digest), &staged.config)?;
    archive.bytes(&blob(&staged.descriptor.digest), &staged.manifest)?;
    archive.bytes("index.json", &json::to_bytes(&index)?)?;
    archive.bytes("oci-layout", LAYOUT)?;
    let size = archive.finish(file)?;
    Ok(Exported { digest: staged.descriptor.digest, size: ByteSize::bytes(size), notes: staged.notes })
}

fn to_docker_archive(
    reader: &Reader,
    record: &ImageRecord,
    file: &Path,
    tag: Option<&str>,
    progress: &dyn Progress,
) -> Result<Exported> {
    let staging = Staging::under(parent(file))?;
    let mut archive = ArchiveWriter::create(&staging.path().join("archive"))?;
    let mut names: Vec<String> = Vec::new();
    for (number, layer) in record.layers.iter().enumerate() {
        let name = format!("{}.tar", layer.diff_id.hex());
        if !names.contains(&name) {
            progress.begin(&format!("writing layer {} of {}", number + 1, record.layers.len()), Some(layer.size.get()));
            archive.header(b'0', &name, layer.size.get())?;
            write_tar(reader, record, layer, &mut Advancing { out: &mut archive.out, progress })?;
            archive.pad(layer.size.get())?;
            progress.end();
        }
        names.push(name);
    }
    let config = format!("{}.json", record.oci_id.hex());
    archive.bytes(&config, &reader.blob(&record.oci_config)?)?;
    let repo_tags = tag.map(|tag| if tag.contains(':') { tag.to_owned() } else { format!("{tag}:latest") });
    let image = ArchivedImage { config, repo_tags: repo_tags.into_iter().collect(), layers: names };
    archive.bytes("manifest.json", &json::to_bytes(&[image])?)?;
    let size = archive.finish(file)?;
    Ok(Exported { digest: record.oci_id, size: ByteSize::bytes(size), notes: Vec::new() })
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a tar of few files, the same for the same content.
struct ArchiveWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl ArchiveWriter {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::io(path.display(), error))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::with_capacity(256 << 10, file) })
    }

    fn header(&mut self, kind: u8, name: &str, size: u64) -> Result<()> {
        let block = canonical::plain_header(kind, name, size)?;
        self.out.write_all(&block).map_err(|error| Error::io(self.path.display(), error))
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        self.out.write_all(canonical::padding(size)).map_err(|error| Error::io(self.path.display(), error))
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        self.header(b'5', name, 0)
    }

    fn file(&mut self, name: &str, size: u64, content: &mut dyn std::io::Read) -> Result<()> {
        self.header(b'0', name, size)?;
        let copied = std::io::copy(content, &mut self.out).map_err(|error| Error::io(self.path.display(), error))?;
        check("size of a staged blob", &size, &copied)?;
        self.pad(size)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.file(name, bytes.len() as u64, &mut &*bytes)
    }

    /// Ends the archive, and puts it in its place.
    fn finish(mut self, target: &Path) -> Result<u64> {
        let failed = |error| Error::io(target.display(), error);
        self.out.write_all(&[0; 1024]).map_err(failed)?;
        let file = self.out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        fs::rename(&self.path, target).map_err(failed)?;
        sync(parent(target))?;
        Ok(size)
    }
}
