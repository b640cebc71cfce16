//! Who a process of a guest is, by its own account. What that means for files is [`crate::identity`]'s.

use crate::identity::Identity;

/// A user and a group, each as real, effective and saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Three,
    pub(crate) group: Three,
    pub(crate) groups: Vec<u32>,
    /// As whom it touches files: the effective ones, unless it says otherwise.
    pub(crate) file_user: u32,
    pub(crate) file_group: u32,
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

    pub(crate) fn has(self, id: u32) -> bool {
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

impl Three {
    /// setreuid, setregid: the real and the effective one. The saved one is the new effective one where the real one is set or
    /// the effective one becomes another than that.
    pub(crate) fn set_two(self, [real, effective]: [u32; 2], privileged: Privilege) -> Option<Self> {
        let keep = |new: u32, old: u32| if new == u32::MAX { old } else { new };
        let (new_real, new_effective) = (keep(real, self.real), keep(effective, self.effective));
        let may =
            privileged == Privilege::Root || [self.real, self.effective].contains(&new_real) && self.has(new_effective);
        let follows = real != u32::MAX || effective != u32::MAX && effective != self.real;
        let saved = if follows { new_effective } else { self.saved };
        may.then_some(Self { real: new_real, effective: new_effective, saved })
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
        Self::new(Three::all(user), Three::all(group), groups)
    }

    pub(crate) fn new(user: Three, group: Three, groups: Vec<u32>) -> Self {
        Self { user, group, groups, file_user: user.effective, file_group: group.effective }
    }

    pub(crate) fn set_user(&mut self, user: Three) -> Option<()> {
        (self.user, self.file_user) = (user, user.effective);
        Some(())
    }

    pub(crate) fn set_group(&mut self, group: Three) -> Option<()> {
        (self.group, self.file_group) = (group, group.effective);
        Some(())
    }

    /// As whom it touches files.
    pub(crate) fn for_files(&self) -> Identity {
        Identity { user: self.file_user, group: self.file_group, groups: self.groups.clone() }
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
        assert_eq!(
            user.set_two([u32::MAX, 1002], Privilege::None),
            Some(Three { effective: 1002, saved: 1002, ..user })
        );
        assert_eq!(user.set_two([1002, u32::MAX], Privilege::None), None);
        assert_eq!(user.set_each([5, u32::MAX, u32::MAX], Privilege::None), None);
    }
}
