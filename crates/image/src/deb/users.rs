//! The users and groups of an image: `/etc/passwd` and `/etc/group`, made from Debian's master files and from what
//! packages declare.
//!
//! Numbers are given out by name order from the range that `adduser --system` uses, so the same packages give the same
//! numbers on every machine.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, Result};

/// The range of numbers for system users: Debian Policy 9.2.2.
const SYSTEM: std::ops::Range<u32> = 100..1000;

/// A user that a package wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UserWish {
    /// Its name.
    pub(crate) name: String,
    /// Its number, where the package fixes one.
    pub(crate) id: Option<u32>,
    /// Its group; one of its own name when empty.
    pub(crate) group: String,
    /// Further groups.
    pub(crate) groups: Vec<String>,
    /// Its home; `/nonexistent` when empty.
    pub(crate) home: String,
    /// Its shell; `/usr/sbin/nologin` when empty.
    pub(crate) shell: String,
    /// Its description.
    pub(crate) gecos: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    id: u32,
    group: u32,
    gecos: String,
    home: String,
    shell: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    id: u32,
    members: BTreeSet<String>,
}

/// The users and groups, in the order of their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Users {
    users: Vec<User>,
    groups: Vec<Group>,
}

impl Users {
    /// Reads the two files; lines that are none are dropped.
    pub(crate) fn read(passwd: &str, group: &str) -> Self {
        let users = passwd.lines().filter_map(|line| {
            let [name, _, id, group, gecos, home, shell] = fields(line)?;
            let (id, group) = (id.parse().ok()?, group.parse().ok()?);
            let own = str::to_owned;
            Some(User { name: own(name), id, group, gecos: own(gecos), home: own(home), shell: own(shell) })
        });
        let groups = group.lines().filter_map(|line| {
            let [name, _, id, members] = fields(line)?;
            let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
            Some(Group { name: name.to_owned(), id: id.parse().ok()?, members })
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    /// What every image has at least: root and nobody.
    pub(crate) fn minimal() -> Self {
        Self::read(
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
            "root:x:0:\nnogroup:x:65534:\n",
        )
    }

    /// Adds users and groups that are not there yet. The order in which packages wish makes no difference.
    ///
    /// # Errors
    /// [`Error::Limit`] when the range of numbers for system users is used up.
    pub(crate) fn add(&mut self, users: &[UserWish], groups: &[(String, Option<u32>)]) -> Result<()> {
        let mut wanted_groups: BTreeMap<&str, Option<u32>> = BTreeMap::new();
        for (name, id) in groups {
            let known = wanted_groups.entry(name).or_default();
            *known = known.or(*id);
        }
        let wanted: BTreeMap<&str, &UserWish> = users.iter().rev().map(|wish| (wish.name.as_str(), wish)).collect();
        for wish in wanted.values() {
            let own = if wish.group.is_empty() { &wish.name } else { &wish.group };
            let id = if wish.group.is_empty() { wish.id } else { None };
            let known = wanted_groups.entry(own).or_default();
            *known = known.or(id);
            wanted_groups.extend(wish.groups.iter().filter(|g| !g.is_empty()).map(|group| (group.as_str(), None)));
        }
        // Those that fix their number first, so that nobody is given it before.
        for fixed in [true, false] {
            for (name, id) in wanted_groups.iter().filter(|(_, id)| id.is_some() == fixed) {
                self.add_group(name, *id)?;
            }
            for wish in wanted.values().filter(|wish| wish.id.is_some() == fixed) {
                self.add_user(wish)?;
            }
        }
        Ok(())
    }

    fn add_group(&mut self, name: &str, id: Option<u32>) -> Result<()> {
        if self.group_id(name).is_some() {
            return Ok(());
        }
        let taken: BTreeSet<u32> = self.groups.iter().map(|group| group.id).collect();
        let id = free_id(id, &taken)?;
        self.groups.push(Group { name: name.to_owned(), id, members: BTreeSet::new() });
        Ok(())
    }

    fn add_user(&mut self, wish: &UserWish) -> Result<()> {
        for group in self.groups.iter_mut().filter(|group| wish.groups.contains(&group.name)) {
            group.members.insert(wish.name.clone());
        }
        if self.user(&wish.name).is_some() {
            return Ok(());
        }
        let group = if wish.group.is_empty() { &wish.name } else { &wish.group };
        let group = self.group_id(group).unwrap_or(65534);
        let taken: BTreeSet<u32> = self.users.iter().map(|user| user.id).collect();
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        self.users.push(User {
            name: wish.name.clone(),
            // The same number as the group of the same name, where that is free.
            id: free_id(wish.id.or(Some(group)), &taken)?,
            group,
            gecos: wish.gecos.replace([':', '\n'], " "),
            home: or(&wish.home, "/nonexistent"),
            shell: or(&wish.shell, "/usr/sbin/nologin"),
        });
        Ok(())
    }

    fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// A user's number, by name or as a number.
    pub(crate) fn user_id(&self, name: &str) -> Option<u32> {
        self.user(name).map(|user| user.id).or_else(|| name.parse().ok())
    }

    /// The group a user is in first of all.
    pub(crate) fn group_of(&self, name: &str) -> Option<u32> {
        self.user(name).map(|user| user.group)
    }

    /// A group's number, by name or as a number.
    pub(crate) fn group_id(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|group| group.name == name).map(|group| group.id).or_else(|| name.parse().ok())
    }

    /// `/etc/passwd`.
    pub(crate) fn passwd(&self) -> String {
        let line = |u: &User| format!("{}:x:{}:{}:{}:{}:{}\n", u.name, u.id, u.group, u.gecos, u.home, u.shell);
        self.users.iter().map(line).collect()
    }

    /// `/etc/group`.
    pub(crate) fn group(&self) -> String {
        let members = |group: &Group| group.members.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        self.groups.iter().map(|group| format!("{}:x:{}:{}\n", group.name, group.id, members(group))).collect()
    }
}

fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split(':').collect::<Vec<_>>().try_into().ok()
}

fn free_id(wanted: Option<u32>, taken: &BTreeSet<u32>) -> Result<u32> {
    wanted
        .filter(|id| !taken.contains(id))
        .or_else(|| SYSTEM.clone().find(|id| !taken.contains(id)))
        .ok_or_else(|| Error::limit("system users", SYSTEM.len()))
}

/// What sysusers.d(5) files declare, appended to `users` and `groups`.
pub(crate) fn read_sysusers(text: &str, users: &mut Vec<UserWish>, groups: &mut Vec<(String, Option<u32>)>) {
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let words = super::unit::words(line);
        let word = |at: usize| words.get(at).map(String::as_str).filter(|word| *word != "-").unwrap_or_default();
        let (kind, name) = (word(0).trim_end_matches(['!', '-']), word(1));
        if name.is_empty() {
            continue;
        }
        let (id, group) = word(2).split_once(':').unwrap_or((word(2), ""));
        match kind {
            "u" => users.push(UserWish {
                name: name.to_owned(),
                id: id.parse().ok(),
                group: group.to_owned(),
                groups: Vec::new(),
                home: word(4).to_owned(),
                shell: word(5).to_owned(),
                gecos: word(3).to_owned(),
            }),
            "g" => groups.push((name.to_owned(), id.parse().ok())),
            "m" => {
                users.push(UserWish { name: name.to_owned(), groups: vec![word(2).to_owned()], ..Default::default() })
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str) -> UserWish {
        UserWish { name: name.to_owned(), ..UserWish::default() }
    }

    #[test]
    fn numbers_do_not_depend_on_the_order_of_wishes() {
        let make = |wishes: &[UserWish]| {
            let mut users = Users::minimal();
            users.add(wishes, &[]).unwrap();
            (users.passwd(), users.group())
        };
        let (a, b) = (wish("redis"), UserWish { groups: vec!["adm".to_owned()], ..wish("mosquitto") });
        let made = make(&[a.clone(), b.clone()]);
        assert_eq!(made, make(&[b, a]));
        assert!(made.0.contains("mosquitto:x:101:101::/nonexistent:/usr/sbin/nologin\n"), "{made:?}");
        assert!(made.1.contains("adm:x:100:mosquitto\n"), "{made:?}");
    }

    #[test]
    fn users_that_exist_are_left_alone() {
        let mut users = Users::read("www-data:x:33:33:w:/var/www:/bin/sh\nbroken\n", "www-data:x:33:\n");
        users.add(&[wish("www-data"), UserWish { id: Some(33), ..wish("other") }], &[]).unwrap();
        assert_eq!(users.user_id("www-data"), Some(33));
        assert_eq!(users.user_id("other"), Some(100), "33 is taken");
        assert_eq!(users.user_id("7"), Some(7));
        assert_eq!(users.user_id("nobody-here"), None);
    }

    #[test]
    fn declarations_are_read() {
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        let text =
            "# x\nu redis - \"Redis, the server\" /var/lib/redis -\ng input 104\nm redis adm\nu! a 5:b\nr - 1-2\nu\n";
        read_sysusers(text, &mut users, &mut groups);
        assert_eq!(users.len(), 3);
        assert_eq!((users[0].gecos.as_str(), users[0].home.as_str()), ("Redis, the server", "/var/lib/redis"));
        assert_eq!((users[2].id, users[2].group.as_str()), (Some(5), "b"));
        assert_eq!(groups, [("input".to_owned(), Some(104))]);
    }
}
