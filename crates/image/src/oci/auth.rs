//! Credentials for registries, from the file that docker and podman share.
//!
//! containers-auth.json(5): `auths` maps a registry, or a registry and the beginning of a repository, to `user:password` in
//! base64. Helpers that keep credentials elsewhere are programs that this crate does not run; it says so instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use model::Reference;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use super::json;
use crate::{Error, Result};

/// A credentials file is small: 1 MiB at most.
const MAX_FILE: u64 = 1 << 20;

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// How to introduce oneself, and what should be known about it.
pub(crate) struct Credentials {
    pub(crate) auth: RegistryAuth,
    pub(crate) note: Option<String>,
}

/// Finds credentials in `file`, or in the usual places when there is none.
pub(crate) fn find(reference: &Reference, file: Option<&Path>) -> Result<Credentials> {
    let files = file.map_or_else(usual_places, |file| vec![file.to_owned()]);
    let mut note = None;
    for path in files {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.len() > MAX_FILE {
            return Err(Error::limit("bytes of a credentials file", MAX_FILE));
        }
        let bytes = std::fs::read(&path).map_err(|error| Error::io(path.display(), error))?;
        let parsed: File = json::from_bytes(&path.display().to_string(), &bytes)?;
        match look_up(&parsed, reference)? {
            Found::Auth(auth) => return Ok(Credentials { auth, note: None }),
            Found::Elsewhere(text) => note = note.or(Some(text)),
            Found::Nothing => {}
        }
    }
    Ok(Credentials { auth: RegistryAuth::Anonymous, note })
}

fn usual_places() -> Vec<PathBuf> {
    let from = |variable: &str, rest: &str| std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(rest));
    let chosen = std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    [
        chosen,
        from("XDG_RUNTIME_DIR", "containers/auth.json"),
        from("XDG_CONFIG_HOME", "containers/auth.json"),
        from("HOME", ".config/containers/auth.json"),
        from("DOCKER_CONFIG", "config.json"),
        from("HOME", ".docker/config.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Debug, PartialEq)]
enum Found {
    Auth(RegistryAuth),
    Elsewhere(String),
    Nothing,
}

/// The entry with the longest key that the reference begins with.
fn look_up(file: &File, reference: &Reference) -> Result<Found> {
    let registry = reference.registry.as_str();
    let full = format!("{registry}/{}", reference.repository);
    let named = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let docker = key == "index.docker.io" && registry == "docker.io";
        docker || full == key || full.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'))
    };
    let entry = file.auths.iter().filter(|(key, _)| named(key)).max_by_key(|(key, _)| key.len());
    if let Some((_, entry)) = entry.filter(|(_, entry)| !entry.auth.is_empty()) {
        if !entry.identity_token.is_empty() {
            let text = format!(
                "the credentials for {registry} are an identity token, which is not used: log in with a password"
            );
            return Ok(Found::Elsewhere(text));
        }
        return decode(&entry.auth).map(Found::Auth);
    }
    let helper = file.helpers.iter().find(|(key, _)| named(key)).map(|(_, helper)| helper);
    match helper.or(file.store.as_ref().filter(|_| entry.is_some())) {
        Some(helper) => Ok(Found::Elsewhere(format!(
            "the credentials for {registry} are kept by docker-credential-{}, which is not asked: put them under 'auths'",
            helper.escape_debug()
        ))),
        None => Ok(Found::Nothing),
    }
}

fn decode(auth: &str) -> Result<RegistryAuth> {
    let wrong = || Error::malformed("credentials file", "an 'auth' is not user:password in base64");
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    // docker pads the password with zero bytes.
    let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(wrong)?;
    Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, reference: &str, expected: &Found) {
        let file: File = serde_json::from_str(file).unwrap();
        assert_eq!(look_up(&file, &reference.parse().unwrap()).unwrap(), *expected, "{reference}");
    }

    #[test]
    fn the_longest_entry_that_fits_is_taken() {
        let file = r#"{"auths":{"localhost:5000":{"auth":"dTpw"},"localhost:5000/team":{"auth":"dDpx"},
            "https://index.docker.io/v1/":{"auth":"aDpk"},"helped.example":{}},
            "credHelpers":{"gcr.example":"gcloud"},"credsStore":"desktop"}"#;
        let basic = |user: &str, password: &str| Found::Auth(RegistryAuth::Basic(user.into(), password.into()));
        check(file, "localhost:5000/web", &basic("u", "p"));
        check(file, "localhost:5000/team/web", &basic("t", "q"));
        check(file, "localhost:5000/teams/web", &basic("u", "p"));
        check(file, "docker.io/library/web", &basic("h", "d"));
        check(file, "localhost:5001/web", &Found::Nothing);
        let file: File = serde_json::from_str(file).unwrap();
        for reference in ["gcr.example/web", "helped.example/web"] {
            assert!(matches!(look_up(&file, &reference.parse().unwrap()), Ok(Found::Elsewhere(_))), "{reference}");
        }
    }

    #[test]
    fn damaged_credentials_are_an_error_and_not_anonymous() {
        for auth in ["%%%", "bm9jb2xvbg==", "/w=="] {
            assert!(decode(auth).is_err(), "{auth}");
        }
    }
}
