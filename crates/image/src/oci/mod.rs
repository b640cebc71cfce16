//! Images in the forms that other tools know: OCI layouts, archives, registries.

mod archive;
mod auth;
pub(crate) mod export;
pub(crate) mod failure;
pub(crate) mod import;
pub(crate) mod json;
pub(crate) mod local;
pub(crate) mod parts;
pub(crate) mod registry;
