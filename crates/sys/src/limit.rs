//! Resource limits, where the right to raise them may be missing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Errno, Result};

/// Sets the soft limit to `wanted`, raising the hard one if that is allowed and else going as far as it reaches. What
/// the soft limit is then.
pub fn raise(resource: Resource, wanted: u64) -> Result<u64> {
    let now = getrlimit(resource);
    let hard = now.maximum.unwrap_or(u64::MAX);
    let set = |soft, hard| setrlimit(resource, Rlimit { current: Some(soft), maximum: hard });
    if wanted <= hard {
        return set(wanted, now.maximum).map(|()| wanted);
    }
    match set(wanted, Some(wanted)) {
        Err(Errno::PERM) => set(hard, now.maximum).map(|()| hard),
        other => other.map(|()| wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_beyond_the_hard_one_goes_as_far_as_it_may() {
        let child = crate::fork::spawn(crate::namespace::Namespaces::empty(), None, || {
            let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
            let low = raise(Resource::Nofile, 100) == Ok(100) && getrlimit(Resource::Nofile).current == Some(100);
            let high = matches!(raise(Resource::Nofile, hard.saturating_add(1)), Ok(reached) if reached >= hard);
            u8::from(!(low && high))
        });
        assert_eq!(crate::process::wait(child.unwrap().pidfd).unwrap(), crate::process::Ended::Code(0));
    }
}
