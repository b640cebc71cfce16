//! Images in the forms that other tools know: OCI layouts, archives, registries.

pub(crate) mod json;
