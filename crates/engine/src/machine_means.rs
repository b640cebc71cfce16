//! What a machine's processors need of the host: its virtual machines, if they are its own kind, or what was translated
//! before, if they are not. Who has the one needs none of the other.

use std::fs::File;
use std::os::fd::OwnedFd;

use model::CellSpec;
use store::Store;

use crate::error::Result;
use crate::{native, translated};

/// What of the host's processors work with.
#[derive(Debug)]
pub(crate) enum Means {
    /// Its virtual machines.
    Native(OwnedFd),
    /// What other machines have translated, if that is to be had.
    Translated(Option<OwnedFd>),
}

impl Means {
    pub(crate) fn of(store: &Store, spec: &CellSpec, arch: machine::Arch) -> Result<Means> {
        Ok(match native::open_kvm(spec)? {
            Some(kvm) => Means::Native(kvm),
            None => Means::Translated(translated::open(store, spec, arch).map(OwnedFd::from)),
        })
    }

    pub(crate) fn descriptor(&self) -> Option<&OwnedFd> {
        match self {
            Means::Native(kvm) => Some(kvm),
            Means::Translated(translations) => translations.as_ref(),
        }
    }

    pub(crate) fn kvm(&self) -> std::io::Result<Option<OwnedFd>> {
        let kvm = if let Means::Native(kvm) = self { Some(kvm) } else { None };
        kvm.map(OwnedFd::try_clone).transpose()
    }

    pub(crate) fn translations(&self) -> std::io::Result<Option<File>> {
        let translations = if let Means::Translated(it) = self { it.as_ref() } else { None };
        Ok(translations.map(OwnedFd::try_clone).transpose()?.map(File::from))
    }
}
