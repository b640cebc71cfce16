//! What a registry's refusals mean: which may pass when it is asked again, which will not, and in whose words they are told.

use model::Reference;
use oci_client::errors::{OciDistributionError, OciErrorCode};

use crate::Error;

/// How an attempt ended that did not succeed.
pub(crate) enum Failure {
    /// Trying again may help.
    Passing(String),
    /// It will not.
    Lasting(Error),
}

impl Failure {
    /// Sorts an error of the protocol. `note` is what is known of the credentials in use.
    pub(crate) fn of(error: OciDistributionError, reference: &Reference, note: &str) -> Self {
        let lasting = |said: String| Self::Lasting(registry_error(reference, said));
        match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                lasting(format!("it does not allow this; log in, or check the name{note}"))
            }
            OciDistributionError::ImageManifestNotFoundError(_) => Self::Lasting(unknown(reference)),
            OciDistributionError::RegistryError { envelope, .. } => {
                if envelope.errors.iter().any(|it| is_unknown(&it.code)) {
                    return Self::Lasting(unknown(reference));
                }
                let said: Vec<String> =
                    envelope.errors.iter().map(|it| format!("{:?} {}", it.code, it.message)).collect();
                lasting(said.join("; ").chars().filter(|c| !c.is_control()).take(300).collect())
            }
            OciDistributionError::ServerError { code, .. } if code < 500 && code != 429 && code != 408 => {
                lasting(format!("it answers {code} to {reference}"))
            }
            OciDistributionError::ServerError { code, .. } => Self::Passing(format!("it answers {code}")),
            OciDistributionError::DigestError(error) => lasting(error.to_string()),
            OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
                Self::Passing(innermost(&error))
            }
            other => lasting(other.to_string()),
        }
    }
}

fn is_unknown(code: &OciErrorCode) -> bool {
    matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound)
}

/// The registry answers, and does not have it.
fn unknown(reference: &Reference) -> Error {
    Error::not_found(format!("docker://{reference}"), format!("{} has no such image", reference.registry))
}

/// What a registry said, or what kept it from saying anything.
pub(crate) fn registry_error(reference: &Reference, said: String) -> Error {
    Error::Registry { registry: reference.registry.clone(), said }
}

/// The cause at the bottom of an error, which is the one that tells something.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
