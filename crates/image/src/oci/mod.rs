//! Images in the forms that other tools know: OCI layouts, archives, registries.

mod archive;
mod auth;
pub(crate) mod export;
mod failure;
mod import;
pub(crate) mod json;
pub(crate) mod local;
pub(crate) mod registry;
