//! Podman: its store lists the containers, its run directory and the runtime's have the processes.

use std::path::{Path, PathBuf};

use model::Foreign;
use serde::Deserialize;

use super::place::{Keeper, Place};
use super::process::Claim;
use super::runtime::{self, Noted};
use super::{Found, Process, Query, Roots, plain, plain_id};

/// The drivers that a store can have; each has a directory of its own.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];

/// Where one user's podman keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    keeper: Keeper,
    /// What stands before the names, for a user who is not the caller.
    scope: Option<String>,
    /// A directory that is the user's, and the store in it.
    store: (PathBuf, PathBuf),
    /// Directories that are the user's, with what does not survive a reboot.
    run: Vec<PathBuf>,
}

/// One container in the store's list.
#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON in a string.
    #[serde(default)]
    metadata: String,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "image-name")]
    image: Option<String>,
}

struct Entry {
    id: String,
    names: Vec<String>,
    image: Option<String>,
}

pub(super) fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    layouts(roots).iter().flat_map(|layout| of(layout, query)).collect()
}

fn of(layout: &Layout, query: Query<'_>) -> Vec<Found> {
    let (base, store) = &layout.store;
    let Some(store) = Place::open(base, layout.keeper).and_then(|it| it.inside(store)) else { return Vec::new() };
    let run: Vec<Place> = layout.run.iter().filter_map(|it| Place::open(it, layout.keeper)).collect();
    let mut found = Vec::new();
    for driver in DRIVERS {
        let directory = format!("{driver}-containers");
        // Those that do not survive a reboot are listed with what does not.
        let lists = [store.read(format!("{directory}/containers.json"))]
            .into_iter()
            .chain(run.iter().map(|it| it.read(format!("containers/{directory}/volatile-containers.json"))));
        for entry in lists.flatten().flat_map(|it| parse(&it)) {
            if !query.wants(layout.scope.as_deref(), &entry.id, &entry.names) {
                continue;
            }
            let process = run.iter().find_map(|it| process(it, &directory, &entry.id));
            let Entry { id, names, image } = entry;
            found.push(Found { engine: Foreign::Podman, scope: layout.scope.clone(), id, names, process, image });
        }
    }
    found
}

fn parse(list: &[u8]) -> Vec<Entry> {
    // One that does not read does not hide the others.
    let list: Vec<serde_json::Value> = serde_json::from_slice(list).unwrap_or_default();
    let entry = |value| {
        let Listed { id, names, metadata } = serde_json::from_value(value).ok()?;
        let metadata: Option<Metadata> = serde_json::from_str(&metadata).ok();
        Some(Entry {
            id: plain_id(&id)?,
            names: names.iter().filter_map(|it| plain(it)).collect(),
            image: metadata.and_then(|it| it.image).and_then(|it| plain(&it)),
        })
    };
    list.into_iter().filter_map(entry).collect()
}

fn process(run: &Place, directory: &str, id: &str) -> Option<Process> {
    let noted = run.inside("runc").and_then(|it| runtime::runc(&it, id));
    let noted = noted.or_else(|| run.inside("crun").and_then(|it| runtime::crun(&it, id)));
    // The runtime that knows more may be another one, or have its state elsewhere.
    let noted = noted.or_else(|| {
        let file = ["containers/storage", "containers"]
            .iter()
            .find_map(|it| run.read_number(format!("{it}/{directory}/{id}/userdata/pidfile")));
        file.map(|pid| Noted { pid, began: None, is_started: true })
    })?;
    let claim = Claim { pid: noted.pid, began: noted.began, id, keeper: run.keeper() };
    if noted.is_started { claim.confirm() } else { None }
}

/// Whose podman is looked at: root's and, by root, everybody's; by everybody else, one's own.
fn layouts(roots: &Roots) -> Vec<Layout> {
    let passwd = Place::open(&roots.at("/etc"), Keeper::Trusted).and_then(|it| it.read("passwd")).unwrap_or_default();
    let users = parse_users(&String::from_utf8_lossy(&passwd));
    if roots.caller != 0 {
        let own = users.into_iter().find(|it| it.uid == roots.caller);
        return own.iter().map(|user| of_user(roots, user, Keeper::Trusted)).collect();
    }
    let others = users.iter().filter(|it| it.uid != 0).map(|user| of_user(roots, user, Keeper::User(user.uid)));
    std::iter::once(of_root(roots)).chain(others).collect()
}

fn of_root(roots: &Roots) -> Layout {
    let configured = Place::open(&roots.at("/etc/containers"), Keeper::Trusted)
        .and_then(|it| it.read("storage.conf"))
        .and_then(|it| parse_graph_root(&String::from_utf8_lossy(&it)));
    let store = roots.at(configured.as_deref().unwrap_or("/var/lib/containers/storage"));
    Layout { keeper: Keeper::Trusted, scope: None, store: (store, ".".into()), run: vec![roots.at("/run")] }
}

fn of_user(roots: &Roots, user: &User, keeper: Keeper) -> Layout {
    let uid = user.uid;
    // The last two without a session of systemd-logind.
    let run = [format!("/run/user/{uid}"), format!("/tmp/podman-run-{uid}"), format!("/tmp/containers-user-{uid}")];
    Layout {
        keeper,
        scope: matches!(keeper, Keeper::User(_)).then(|| user.name.clone()),
        store: (roots.at(&user.home), ".local/share/containers/storage".into()),
        run: run.iter().map(|it| roots.at(it)).collect(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    home: String,
}

/// The users of `/etc/passwd` who have a directory of their own.
fn parse_users(passwd: &str) -> Vec<User> {
    let user = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, _, _, home, ..] = fields.as_slice() else { return None };
        let has_own = Path::new(home).is_absolute() && *home != "/" && *home != "/nonexistent";
        Some(User { name: plain(name)?, uid: uid.parse().ok()?, home: (*home).to_owned() }).filter(|_| has_own)
    };
    passwd.lines().filter_map(user).collect()
}

/// Where `storage.conf` puts the store, if elsewhere.
fn parse_graph_root(conf: &str) -> Option<String> {
    let value = |line: &str| {
        let value = line.trim().strip_prefix("graphroot")?.trim_start().strip_prefix('=')?.trim();
        Some(value.strip_prefix('"')?.split_once('"')?.0.to_owned())
    };
    conf.lines().find_map(value).filter(|it| it.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_a_broken_entry_hides_no_other() {
        let list = br#"[{"id":"dea6bd","names":["web","a\u001b[m"],"metadata":"{\"image-name\":\"localhost/bb\"}"},
            {"id":"../../etc","names":["evil"]}, {"id":7}, {"id":"ec11","metadata":"no json"}]"#;
        let found: Vec<_> = parse(list).into_iter().map(|it| (it.id, it.names, it.image)).collect();
        let web = ("dea6bd".to_owned(), vec!["web".to_owned()], Some("localhost/bb".to_owned()));
        assert_eq!(found, [web, ("ec11".to_owned(), Vec::new(), None)]);
        assert!(parse(b"{}").is_empty() && parse(b"").is_empty());
    }

    #[test]
    fn users_and_settings_are_read() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/false\nbroken\n\
            alice:x:1000:1000:,,,:/home/alice:/bin/sh\nx:x:-1:0::/home/x:/bin/sh\n";
        let users: Vec<_> = parse_users(passwd).into_iter().map(|it| (it.name, it.uid, it.home)).collect();
        let user = |name: &str, uid, home: &str| (name.to_owned(), uid, home.to_owned());
        assert_eq!(users, [user("root", 0, "/root"), user("alice", 1000, "/home/alice")]);
        let conf = "[storage]\ndriver = \"overlay\"\n# graphroot = \"/no\"\ngraphroot = \"/srv/podman\" # there\n";
        assert_eq!(parse_graph_root(conf).as_deref(), Some("/srv/podman"));
        assert_eq!(parse_graph_root("graphroot = 7"), None);
    }
}
