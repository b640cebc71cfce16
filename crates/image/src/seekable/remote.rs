//! An image whose layers stay in their registry: its tree, and where each content is to be had.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::{ImageConfig, ObjectId, Progress, Reference, Sha256, Source, Span};
use oci_client::secrets::RegistryAuth;
use serde::{Deserialize, Serialize};
use store::{Kind, Pin, Store, Tree, Writer};

use super::toc::{Chunk, Contents, Merger, Place};
use super::{FOOTER, TOC_DIGEST, TOC_NAME, toc_offset};
use crate::layer::apply::components;
use crate::layer::reader::Reader;
use crate::layer::unpack::{Expected, Unpacker, check};
use crate::limits::Limits;
use crate::oci::export::LayerForm;
use crate::oci::import::{self, Blobs, Imported, verify};
use crate::oci::json::Descriptor;
use crate::oci::parts::Served;
use crate::oci::registry::{CachedBlobs, Session, runtime};
use crate::staging::Staging;
use crate::{Error, FetchOptions, Result};

/// As many bytes of a layer's end are asked for at once: most tables of contents are in there.
const TAIL: u64 = 128 << 10;

/// What came of the wish to leave an image's layers where they are.
#[derive(Debug)]
pub enum Opened {
    /// They can stay there.
    Seekable(Box<Remote>),
    /// They cannot, for this reason: the image is to be pulled.
    Plain(String),
}

/// An image whose layers stay in their registry.
#[derive(Debug)]
pub struct Remote {
    /// The names and metadata of all its files.
    pub tree: Tree,
    /// What [`Store::on_demand_from_elsewhere`] is to call it.
    pub keep: ObjectId,
    /// How it is run.
    pub config: ImageConfig,
    /// How its contents are to be had.
    pub supply: Supply,
    /// What whoever asked should know.
    pub notes: Vec<String>,
    /// Until the tree is ready to be mounted.
    _pin: Pin,
}

/// Layers without a table of contents on their way into the pool.
struct Whole<'a> {
    store: &'a Store,
    options: &'a FetchOptions,
    writer: Option<Writer>,
    /// From before anything was stored.
    _pin: Pin,
}

impl<'a> Whole<'a> {
    fn new(store: &'a Store, options: &'a FetchOptions) -> Result<Self> {
        Ok(Self { store, options, writer: None, _pin: store.pin()? })
    }

    /// Puts one above `tree`. Its blob stays in the cache: the pool will not know that it has the layer.
    async fn take(
        &mut self,
        session: &Session,
        layer: &Descriptor,
        diff_id: Sha256,
        tree: &mut Tree,
        progress: &dyn Progress,
    ) -> Result<()> {
        let blobs = CachedBlobs::of(self.options)?;
        progress.begin("pulling a layer without a table of contents", Some(layer.size));
        let pulled = session.download(layer, &blobs, progress).await;
        progress.end();
        pulled?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.store.writer()?),
        };
        let mut unpacker = Unpacker::new(writer, self.options.limits);
        unpacker.tree = std::mem::take(tree);
        let expected = Expected { digest: layer.digest, size: layer.size, form: LayerForm::Stream };
        unpacker.layer(blobs.open(layer)?, Some(expected), Some(diff_id), progress)?;
        *tree = std::mem::take(&mut unpacker.tree);
        Ok(())
    }

    /// What a collector is to keep while the tree is mounted: an object that leads to all of its contents that are in the pool.
    fn keep(self, tree: &Tree) -> Result<ObjectId> {
        let identity = tree.identity()?;
        let Some(mut writer) = self.writer else { return Ok(identity) };
        let mut held = BTreeSet::new();
        let mut walk = tree.walk();
        while let Some((_, entry)) = walk.advance() {
            if let Kind::File(content) = entry.node.kind
                && content.size > 0
                && writer.holds(&content.id)?
            {
                held.insert(content.id);
            }
        }
        let held: Vec<_> = held.into_iter().collect();
        let keep = writer.linked_blob(identity.as_bytes(), &held)?;
        writer.publish(&[])?;
        Ok(keep)
    }
}

/// How contents of a registry are to be had: all that [`super::fetch::Fetcher`] needs, as data that another process can be given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Supply {
    pub(crate) reference: String,
    pub(crate) login: Option<Login>,
    pub(crate) stall_ms: u64,
    pub(crate) layers: Vec<Sha256>,
    /// In the order of the tree's names.
    pub(crate) items: Vec<Item>,
}

/// A name and a password for the registry. Given along because the process that fetches may not read the files that they are in.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Login(String, String);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// One content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) id: ObjectId,
    pub(crate) size: u64,
    /// The first name that it has in the tree, for people.
    pub(crate) name: String,
    pub(crate) chunks: Vec<Chunk>,
}

impl Supply {
    /// The contents in the order of the tree's names, each where it comes first.
    pub fn contents(&self) -> impl Iterator<Item = store::Content> {
        self.items.iter().map(|item| store::Content { id: item.id, size: item.size })
    }

    /// For another process.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        crate::oci::json::to_bytes(self)
    }

    /// From another process.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        crate::oci::json::from_bytes("list of contents", bytes)
    }

    /// Lines up what a tree needs.
    fn of(
        tree: &Tree,
        mut contents: Contents,
        layers: Vec<Sha256>,
        reference: &Reference,
        auth: &RegistryAuth,
        options: &FetchOptions,
    ) -> Self {
        let mut items = Vec::new();
        let mut walk = tree.walk();
        while let Some((path, entry)) = walk.advance() {
            let Kind::File(content) = entry.node.kind else { continue };
            let Some(chunks) = contents.remove(&content.id) else { continue };
            let name = String::from_utf8_lossy(path).escape_debug().to_string();
            items.push(Item { id: content.id, size: content.size, name, chunks });
        }
        let login = match auth {
            RegistryAuth::Basic(user, password) => Some(Login(user.clone(), password.clone())),
            _ => None,
        };
        let stall_ms = u64::try_from(std::time::Duration::from(options.stall).as_millis()).unwrap_or(u64::MAX);
        Self { reference: reference.to_string(), login, stall_ms, layers, items }
    }

    pub(crate) fn session(&self, stall: Span) -> Result<Session> {
        let reference: Reference =
            self.reference.parse().map_err(|_| Error::malformed("list of contents", "it names no registry"))?;
        let auth = match &self.login {
            Some(Login(user, password)) => RegistryAuth::Basic(user.clone(), password.clone()),
            None => RegistryAuth::Anonymous,
        };
        Session::with(&reference, auth, stall.into())
    }
}

/// Reads what there is to know of an image without fetching its layers. Documents are kept in the cache by their digests.
///
/// Layers without a table of contents are fetched now and their contents stored, where a collector finds them by
/// [`Remote::keep`] once the tree is ready to be mounted. No image is stored.
pub fn open(store: &Store, reference: &Reference, options: &FetchOptions, progress: &dyn Progress) -> Result<Opened> {
    let session = Session::open(reference, options)?;
    let documents = Documents { dir: options.cache().join("documents") };
    let limits = &options.limits;
    runtime()?.block_on(async {
        let chosen = session.manifest(options).await?;
        let manifest = &chosen.manifest;
        if manifest.layers.len() > limits.layers {
            return Err(Error::limit("layers of an image", limits.layers));
        }
        manifest.layers.iter().try_for_each(import::acceptable)?;
        if !manifest.layers.is_empty() && manifest.layers.iter().all(|layer| toc_digest(layer).is_none()) {
            return Ok(Opened::Plain("its layers have no table of contents".to_owned()));
        }
        progress.begin("reading tables of contents", None);
        let config = match documents.get(manifest.config.digest) {
            Some(config) => config,
            None => {
                let whole = 0..manifest.config.size;
                let (config, _) = session.small_part(manifest.config.digest, whole, limits.document.get()).await?;
                verify("configuration", &config, &manifest.config)?;
                documents.put(manifest.config.digest, &config)?;
                config
            }
        };
        let imported = Imported::read(&Source::Registry(reference.clone()), &config, options)?;
        if imported.diff_ids.len() != manifest.layers.len() {
            return Err(Error::malformed("configuration", "it tells of other layers than the manifest"));
        }
        let mut merger = Merger::new(*limits);
        let mut whole = Whole::new(store, options)?;
        let layers = manifest.layers.iter().zip(&imported.diff_ids);
        for (number, (layer, diff_id)) in (0..).zip(layers) {
            let Some(digest) = toc_digest(layer) else {
                whole.take(&session, layer, *diff_id, &mut merger.tree, progress).await?;
                continue;
            };
            let table = match documents.table(digest, layer) {
                Some(table) => table,
                None => match table(&session, layer, limits).await? {
                    Some(table) => {
                        check("table of contents", &digest, &super::pack::digest(&table.json))?;
                        documents.put_table(digest, layer, &table)?;
                        table
                    }
                    None => return Ok(Opened::Plain("its registry serves whole layers only".to_owned())),
                },
            };
            merger.layer(&table.json, Place { layer: number, toc: table.offset })?;
        }
        progress.end();
        let layers = manifest.layers.iter().map(|layer| layer.digest).collect();
        let supply = Supply::of(&merger.tree, merger.contents, layers, reference, &session.auth, options);
        let config = imported.file.image_config();
        let notes = session.note.iter().cloned().collect();
        let keep = whole.keep(&merger.tree)?;
        Ok(Opened::Seekable(Box::new(Remote { tree: merger.tree, keep, config, supply, notes, _pin: store.pin()? })))
    })
}

/// The digest that a layer's table of contents must have; none when it has no table that could be believed.
pub(crate) fn toc_digest(layer: &Descriptor) -> Option<Sha256> {
    // The same annotation is used for layers packed with zstd, whose tables stand elsewhere.
    let gzip = !layer.media_type.contains("zstd");
    layer.annotations.get(TOC_DIGEST).filter(|_| gzip)?.parse().ok()
}

/// A table of contents, and where it stands.
struct Table {
    json: Vec<u8>,
    offset: u64,
}

/// Fetches a layer's table; nothing when its registry serves no parts.
async fn table(session: &Session, layer: &Descriptor, limits: &Limits) -> Result<Option<Table>> {
    let wrong = |why: &str| Error::malformed(format!("layer {}", layer.digest), why);
    let tail = layer.size.saturating_sub(TAIL.min(limits.table.get()));
    let (mut bytes, served) = session.small_part(layer.digest, tail..layer.size, limits.table.get()).await?;
    if served == Served::Whole {
        return Ok(None);
    }
    let offset = toc_offset(&bytes).ok_or_else(|| wrong("it has no table of contents at its end"))?;
    if layer.size.checked_sub(FOOTER as u64).is_none_or(|end| offset >= end) {
        return Err(wrong("its table of contents is beyond its end"));
    }
    if offset < tail {
        let (mut missing, _) = session.small_part(layer.digest, offset..tail, limits.table.get()).await?;
        missing.append(&mut bytes);
        bytes = missing;
    } else {
        bytes.drain(..usize::try_from(offset - tail).unwrap_or(bytes.len()).min(bytes.len()));
    }
    unpack_table(&bytes, limits).map(|json| Some(Table { json, offset }))
}

/// The JSON in the last member of a layer.
pub(super) fn unpack_table(packed: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    let most = limits.table.get();
    let mut tar = Reader::new(flate2::bufread::GzDecoder::new(packed).take(most + (1 << 20)), *limits);
    let entry = tar.next(&mut ())?.ok_or_else(|| Error::malformed("table of contents", "there is none"))?;
    if components(&entry.path)? != [TOC_NAME] || entry.sparse.is_some() {
        return Err(Error::malformed("table of contents", "another file is in its place"));
    }
    if entry.size > most {
        return Err(Error::limit("bytes of a table of contents", limits.table));
    }
    let mut json = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match tar.read_content(&mut buffer)? {
            0 => return Ok(json),
            count => json.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Documents that were fetched before, by their digests.
struct Documents {
    dir: PathBuf,
}

impl Documents {
    fn path(&self, digest: Sha256) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Whatever has the digest is what was asked for, and what has not is as good as absent.
    fn get(&self, digest: Sha256) -> Option<Vec<u8>> {
        fs::read(self.path(digest)).ok().filter(|bytes| super::pack::digest(bytes) == digest)
    }

    fn put(&self, digest: Sha256, bytes: &[u8]) -> Result<()> {
        let staging = Staging::under(&self.dir)?;
        let aside = staging.path().join("document");
        let written = fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, self.path(digest)));
        written.map_err(|error| Error::io(self.path(digest).display(), error))
    }

    /// Where a table stands in a layer is told by the layer, which is not here: it is kept beside the table.
    fn table(&self, digest: Sha256, layer: &Descriptor) -> Option<Table> {
        let text = fs::read_to_string(self.place(layer)).ok()?;
        let offset: u64 = text.trim().parse().ok().filter(|offset| *offset < layer.size)?;
        Some(Table { json: self.get(digest)?, offset })
    }

    fn put_table(&self, digest: Sha256, layer: &Descriptor, table: &Table) -> Result<()> {
        self.put(digest, &table.json)?;
        let place = self.place(layer);
        fs::write(&place, table.offset.to_string()).map_err(|error| Error::io(place.display(), error))
    }

    fn place(&self, layer: &Descriptor) -> PathBuf {
        Path::new(&self.dir).join(format!("{}.toc", layer.digest.hex()))
    }
}
