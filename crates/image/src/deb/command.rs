//! What an image of packages runs when it is told nothing: the daemon of the first package asked for, in the foreground.

use model::ImageConfig;

use super::finish::Root;
use super::known::{Known, KnownPackage};
use super::unit::Unit;
use super::universe::Package;

/// What any program of Debian's expects.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration, and what should be known about it.
pub(crate) struct Decision {
    pub(crate) config: ImageConfig,
    pub(crate) notes: Vec<String>,
}

/// Decides by what is known about the package, by its service unit, by its main program, by a shell, in that order.
/// `packages` begins with the one asked for first.
pub(crate) fn decide(root: &Root, known: &Known, packages: &[Package<'_>]) -> Decision {
    let mut decision = Decision { config: ImageConfig::default(), notes: Vec::new() };
    let Some(first) = packages.first() else { return decision };
    // nginx-light has no unit: that of nginx-common, made from the same source, is its own.
    let of_its_source = |package: &&Package<'_>| package.source() == first.source();
    let stands_for = |package: &&Package<'_>| {
        known.about(first.name).flat_map(|about| &about.stands_for).any(|name| name == package.name)
    };
    let others = packages.iter().skip(1).filter(|package| of_its_source(package) || stands_for(package));
    let kin: Vec<&Package<'_>> = std::iter::once(first).chain(others).collect();
    let about: Vec<&KnownPackage> = kin.iter().flat_map(|package| known.about(package.name)).collect();
    let unit = find_unit(root, first, &kin);
    let config = &mut decision.config;
    config.env.push(PATH.to_owned());
    if let Some((_, unit)) = unit {
        apply_unit(config, unit);
    }
    for known in &about {
        apply_known(config, known);
    }
    if config.command.is_empty() {
        config.command = main_program(root, first);
    }
    if config.command.is_empty() && exists(root, "usr/bin/sh") {
        config.command = vec!["/bin/sh".to_owned()];
    }
    let told = about.iter().any(|known| !known.command.is_empty());
    if let Some((name, unit)) = unit.filter(|_| !told) {
        match unit.kind.as_str() {
            "forking" => decision
                .notes
                .push(format!("{name} expects its program to go into the background; give a command that stays")),
            "oneshot" => decision.notes.push(format!("{name} is no daemon: its command ends by itself")),
            _ => {}
        }
    }
    if config.command.is_empty() {
        decision.notes.push(format!("{} has no program of its own: give a command", first.name));
    }
    decision
}

fn find_unit<'r>(root: &'r Root, first: &Package<'_>, kin: &[&Package<'_>]) -> Option<(&'r str, &'r Unit)> {
    let named = |name: &str| root.units.get_key_value(&format!("{name}.service"));
    let ours = |owner: &str| kin.iter().any(|package| package.name == owner);
    let runs = |unit: &Unit| !unit.command.is_empty();
    let by_name = [first.name, first.source()].into_iter().filter_map(named);
    let of_first = root.units.iter().filter(|(_, (owner, _))| owner == first.name);
    let mut only = of_first.clone();
    let only = only.next().filter(|_| only.next().is_none());
    by_name
        .chain(only)
        .find(|(_, (owner, unit))| ours(owner) && runs(unit))
        .map(|(name, (_, unit))| (name.as_str(), unit))
}

fn apply_unit(config: &mut ImageConfig, unit: &Unit) {
    config.command = unit.command.clone();
    config.user = if unit.group.is_empty() { unit.user.clone() } else { format!("{}:{}", unit.user, unit.group) };
    if unit.user.is_empty() && !unit.group.is_empty() {
        config.user = format!("root:{}", unit.group);
    }
    config.workdir = if unit.workdir == "~" { String::new() } else { unit.workdir.clone() };
    config.env.extend(unit.environment.iter().map(|(name, value)| format!("{name}={value}")));
    config.stop_signal = unit.kill_signal.clone();
}

fn apply_known(config: &mut ImageConfig, known: &KnownPackage) {
    if !known.command.is_empty() {
        config.command = known.command.clone();
        config.user = known.user.clone();
    }
    if !known.workdir.is_empty() {
        config.workdir = known.workdir.clone();
    }
    if !known.stop_signal.is_empty() {
        config.stop_signal = known.stop_signal.clone();
    }
    config.env.extend(known.env.iter().cloned());
    config.exposed_ports.extend(known.ports.iter().cloned());
    config.volumes.extend(known.volumes.iter().cloned());
}

/// The program called like the package, like its name without an ending that tells the variant, or its only one.
fn main_program(root: &Root, package: &Package<'_>) -> Vec<String> {
    let stem = package.name.rsplit_once('-').map_or(package.name, |(stem, _)| stem);
    for name in [package.name, stem] {
        for dir in ["usr/bin", "usr/sbin", "usr/games"] {
            if exists(root, &format!("{dir}/{name}")) {
                return vec![format!("/{dir}/{name}")];
            }
        }
    }
    let mut own = root.executables.iter().filter(|(path, owner)| {
        *owner == package.name
            && ["usr/bin/", "usr/sbin/", "usr/games/"].iter().any(|dir| path.starts_with(dir.as_bytes()))
    });
    match (own.next(), own.next()) {
        (Some((path, _)), None) => vec![format!("/{}", String::from_utf8_lossy(path))],
        _ => Vec::new(),
    }
}

fn exists(root: &Root, path: &str) -> bool {
    root.tree.resolve(path).is_some_and(|path| root.tree.get(path).is_some())
}
