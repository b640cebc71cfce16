//! Who a process of a guest is: kept in the account only, since the tender is always the same user of the host.

/// A user and a group, each as real, effective and saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Three,
    pub(crate) group: Three,
    pub(crate) groups: Vec<u32>,
}

/// The three identities that a process has of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Three {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
}

impl Three {
    pub(crate) fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid, setgid: all three for who is privileged, else the effective one.
    pub(crate) fn set(self, id: u32, privileged: Privilege) -> Option<Self> {
        match privileged {
            Privilege::Root => Some(Self::all(id)),
            Privilege::None => self.has(id).then_some(Self { effective: id, ..self }),
        }
    }

    /// setresuid, setresgid; `u32::MAX` leaves one as it is.
    pub(crate) fn set_each(self, [real, effective, saved]: [u32; 3], privileged: Privilege) -> Option<Self> {
        let keep = |new: u32, old: u32| if new == u32::MAX { old } else { new };
        let new = Self {
            real: keep(real, self.real),
            effective: keep(effective, self.effective),
            saved: keep(saved, self.saved),
        };
        let allowed =
            privileged == Privilege::Root || [new.real, new.effective, new.saved].into_iter().all(|it| self.has(it));
        allowed.then_some(new)
    }
}

/// Whether a process may become whoever it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    Root,
    None,
}

impl Credentials {
    pub(crate) fn of(user: u32, group: u32, groups: Vec<u32>) -> Self {
        Self { user: Three::all(user), group: Three::all(group), groups }
    }

    pub(crate) fn privilege(&self) -> Privilege {
        if self.user.effective == 0 { Privilege::Root } else { Privilege::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_privileged_become_whom_they_were_not() {
        let user = Three { real: 1000, effective: 1001, saved: 1002 };
        assert_eq!(user.set(0, Privilege::None), None);
        assert_eq!(user.set(1002, Privilege::None), Some(Three { effective: 1002, ..user }));
        assert_eq!(user.set(7, Privilege::Root), Some(Three::all(7)));
        assert_eq!(user.set_each([u32::MAX, 1000, u32::MAX], Privilege::None), Some(Three { effective: 1000, ..user }));
        assert_eq!(user.set_each([5, u32::MAX, u32::MAX], Privilege::None), None);
    }
}
