//! Finding an image of the pool by what a user typed.

use model::{ImageName, ImageRecord, ImageRef, ObjectId};
use store::Store;

use crate::{Error, Result};

/// As few digits of an id as may stand for it.
const SHORTEST_PREFIX: usize = 4;

/// Finds an image by the source it was made from, by name, or by its id or a unique beginning of it (at least four digits).
/// A name goes before an id. Nothing when there is none: a source can then be fetched.
///
/// # Errors
/// [`Error::Ambiguous`] when several ids begin so.
pub fn lookup(store: &Store, what: &ImageRef) -> Result<Option<(ImageName, ObjectId, ImageRecord)>> {
    let text = what.to_string();
    let Ok(name) = text.parse::<ImageName>() else { return Ok(None) };
    if let Some(id) = store.resolve(&name)? {
        return Ok(Some((name, id, store.image(&id)?)));
    }
    match what {
        ImageRef::Source(_) => Ok(None),
        ImageRef::Named(_) => by_id(store, &text),
    }
}

fn by_id(store: &Store, prefix: &str) -> Result<Option<(ImageName, ObjectId, ImageRecord)>> {
    let hex = prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !hex || !(SHORTEST_PREFIX..=64).contains(&prefix.len()) {
        return Ok(None);
    }
    let mut found: Vec<(ObjectId, ImageName)> = Vec::new();
    for (name, id) in store.refs()? {
        if id.to_string().starts_with(prefix) && !found.iter().any(|(known, _)| *known == id) {
            found.push((id, name));
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [(id, name)] => Ok(Some((name.clone(), *id, store.image(id)?))),
        several => Err(Error::Ambiguous {
            prefix: prefix.to_owned(),
            candidates: several.iter().map(|(id, _)| id.short()).collect(),
        }),
    }
}
