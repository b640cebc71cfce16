//! LXC: a directory for each container; a monitor process, whose command line has the directory and the name, for each
//! that runs. There is no other record of the process but the monitor's own memory.

use std::path::Path;

use model::Foreign;

use super::place::{Keeper, Place};
use super::process::{Watcher, watchers};
use super::{Found, Query, Roots, plain_id};

/// What the kernel calls a monitor: the program that it came from.
const MONITORS: [&[u8]; 2] = [b"lxc-start", b"lxc-execute"];

pub(super) fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    let found = |scope, name: String, process| Found {
        engine: Foreign::Lxc,
        scope,
        id: name.clone(),
        names: vec![name],
        process,
        image: None,
    };
    let monitors = watchers(&MONITORS).into_iter().filter_map(|it| {
        let (path, name) = parse(&it)?;
        roots.is_below(Path::new(path)).then(|| found(it.scope(), name, it.kept()))
    });
    let mut all: Vec<Found> = monitors.filter(|it| it.process.is_some()).collect();
    let defined = Place::open(&roots.at("/var/lib/lxc"), Keeper::Trusted);
    for name in defined.iter().flat_map(Place::entries).filter_map(|it| plain_id(&it)) {
        let is_one = defined.as_ref().is_some_and(|it| it.read(format!("{name}/config")).is_some());
        if is_one && !all.iter().any(|it| it.scope.is_none() && it.id == name) {
            all.push(found(None, name, None));
        }
    }
    all.retain(|it| query.wants(it.scope.as_deref(), &it.id, &it.names));
    all
}

/// The directory and the name in a monitor's title: `[lxc monitor] DIRECTORY NAME`.
fn parse(monitor: &Watcher) -> Option<(&str, String)> {
    let title = monitor.words.first()?.strip_prefix("[lxc monitor] ")?;
    let (path, name) = title.rsplit_once(' ')?;
    Some((path, plain_id(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_is_read_by_its_title() {
        let parsed = |title: &str| {
            let monitor = Watcher { words: vec![title.to_owned()], uid: 0, firsts: Vec::new() };
            parse(&monitor).map(|(path, name)| (path.to_owned(), name))
        };
        let expected = |path: &str, name: &str| Some((path.to_owned(), name.to_owned()));
        assert_eq!(parsed("[lxc monitor] /var/lib/lxc web"), expected("/var/lib/lxc", "web"));
        assert_eq!(parsed("[lxc monitor] /a b web"), expected("/a b", "web"));
        assert_eq!(parsed("[lxc monitor] /var/lib/lxc ../x"), None);
        assert_eq!(parsed("lxc-start"), None);
    }
}
