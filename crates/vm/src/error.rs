//! What can go wrong with a virtual machine.

use sys::Errno;

/// A failure of the host's; what a guest does wrong is an [`crate::Exit`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` is not there or not for us.
    #[error("opening /dev/kvm: {0}")]
    Unavailable(Errno),
    /// The kernel refused a part of a machine.
    #[error("{what}: {errno}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// What was kept does not fit, or not this host.
    #[error("{0}")]
    Unfit(String),
    /// What the tender had a guest's processor execute did not come to its end.
    #[error("leading a virtual processor aside: {0}")]
    Aside(&'static str),
}

/// What the functions of this crate give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn host(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Host { what, errno }
    }

    pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Host { what, errno: Errno::from_raw_os_error(error.errno()) }
    }
}
