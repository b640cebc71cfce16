//! systemd-nspawn: a directory for each machine that was installed, and for each that runs a process which has its name
//! on its command line and its first process as its child.

use std::path::Path;

use model::Foreign;

use super::place::{Keeper, Place};
use super::process::watchers;
use super::{Found, Query, Roots, plain_id};

/// As the kernel calls it: names are cut after 15 bytes.
const PROGRAM: &[u8] = b"systemd-nspawn";

pub(super) fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    let found = |scope, name: String, process, image| Found {
        engine: Foreign::Nspawn,
        scope,
        id: name.clone(),
        names: vec![name],
        process,
        image,
    };
    let running = watchers(&[PROGRAM]).into_iter().filter_map(|it| {
        let Machine { name, directory } = parse(&it.words)?;
        let place = Path::new("/var/lib/machines").join(directory.as_deref().unwrap_or(&name));
        roots.is_below(&place).then_some(())?;
        Some(found(it.scope(), name, Some(it.kept()?), directory))
    });
    let mut all: Vec<Found> = running.collect();
    let installed = Place::open(&roots.at("/var/lib/machines"), Keeper::Trusted);
    for entry in installed.iter().flat_map(Place::entries) {
        let Some(name) = plain_id(entry.strip_suffix(".raw").unwrap_or(&entry)) else { continue };
        if !all.iter().any(|it| it.scope.is_none() && it.id == name) {
            all.push(found(None, name, None, None));
        }
    }
    all.retain(|it| query.wants(it.scope.as_deref(), &it.id, &it.names));
    all
}

/// What a command line of systemd-nspawn says of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    name: String,
    directory: Option<String>,
}

/// Options with a value in the next word, as far as those come before the command.
const WITH_VALUE: &str = "DMiuSpZUjLMxEP";

fn parse(words: &[String]) -> Option<Machine> {
    let (mut name, mut directory, mut image) = (None, None, None);
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let (option, value) = match word.strip_prefix("--") {
            Some("") => break,
            Some(long) => match long.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                // A value in the next word is as good.
                None if ["machine", "directory", "image"].contains(&long) => (long, words.next().map(String::as_str)),
                None => continue,
            },
            None => match word.strip_prefix('-').and_then(|it| it.split_at_checked(1)) {
                Some((letter, rest)) if WITH_VALUE.contains(letter) => {
                    let value = if rest.is_empty() { words.next().map(String::as_str) } else { Some(rest) };
                    (letter, value)
                }
                Some(_) => continue,
                // The container's own command begins.
                None => break,
            },
        };
        match option {
            "M" | "machine" => name = value,
            "D" | "directory" => directory = value,
            "i" | "image" => image = value,
            _ => {}
        }
    }
    let base = |path: &str| Some(Path::new(path).file_name()?.to_str()?.trim_end_matches(".raw").to_owned());
    let name = name.map(str::to_owned).or_else(|| directory.or(image).and_then(base))?;
    Some(Machine { name: plain_id(&name)?, directory: directory.or(image).and_then(super::plain) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_as_the_command_line_says() {
        let check = |line: &str, expected: Option<(&str, Option<&str>)>| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let found = parse(&words);
            let found = found.as_ref().map(|it| (it.name.as_str(), it.directory.as_deref()));
            assert_eq!(found, expected, "{line}");
        };
        check("systemd-nspawn -q -M web -D /srv/tree /bin/sleep", Some(("web", Some("/srv/tree"))));
        check("systemd-nspawn --machine=web -D/srv/tree -b", Some(("web", Some("/srv/tree"))));
        check("systemd-nspawn --quiet --keep-unit --boot --machine=web", Some(("web", None)));
        check("systemd-nspawn -D /srv/tree -- sh -M no", Some(("tree", Some("/srv/tree"))));
        check("systemd-nspawn -i /srv/disk.raw", Some(("disk", Some("/srv/disk.raw"))));
        check("systemd-nspawn -D /srv/tree -u user sh -M no", Some(("tree", Some("/srv/tree"))));
        check("systemd-nspawn -M ../x", None);
        check("systemd-nspawn", None);
    }
}
