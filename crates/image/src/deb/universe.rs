//! All packages that a set of indexes offers, by name and by what they provide.
//!
//! Everything borrows from the text of the indexes: a suite has some sixty thousand packages, and an image needs a few.

use std::cmp::Ordering;
use std::collections::HashMap;

use model::{Arch, Sha256};

use super::control::{Paragraph, paragraphs};
use super::relation::{Alternative, relations};
use super::version::compare;

/// A package that can be fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its version.
    pub(crate) version: &'a str,
    /// Where its file is, relative to the repository.
    pub(crate) filename: &'a str,
    /// The size of its file in bytes.
    pub(crate) size: u64,
    /// SHA-256 of its file.
    pub(crate) sha256: Sha256,
    /// Which of the indexes lists it.
    pub(crate) index: usize,
    /// Whether every machine has it, so that scripts use it without saying so.
    pub(crate) essential: bool,
    depends: &'a str,
    pre_depends: &'a str,
    conflicts: &'a str,
    breaks: &'a str,
    provides: &'a str,
    source: &'a str,
    architecture: &'a str,
}

/// A package's place in its [`Universe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackageId(u32);

impl<'a> Package<'a> {
    fn read(paragraph: Paragraph<'a>, index: usize) -> Option<Self> {
        let (mut name, mut version, mut filename, mut architecture, mut size, mut sha256) =
            ("", "", "", "", None, None);
        let (mut depends, mut pre_depends, mut conflicts, mut breaks, mut provides) = ("", "", "", "", "");
        let (mut source, mut essential) = ("", false);
        for (field, value) in paragraph.fields() {
            match field {
                "Package" => name = value,
                "Version" => version = value,
                "Architecture" => architecture = value,
                "Filename" => filename = value,
                "Size" => size = value.parse().ok(),
                "SHA256" => sha256 = format!("sha256:{value}").parse().ok(),
                "Depends" => depends = value,
                "Pre-Depends" => pre_depends = value,
                "Conflicts" => conflicts = value,
                "Breaks" => breaks = value,
                "Provides" => provides = value,
                "Source" => source = value,
                "Essential" => essential = value == "yes",
                _ => {}
            }
        }
        if name.is_empty() || version.is_empty() || filename.is_empty() {
            return None;
        }
        let (size, sha256) = (size?, sha256?);
        Some(Self {
            name,
            version,
            filename,
            size,
            sha256,
            index,
            essential,
            depends,
            pre_depends,
            conflicts,
            breaks,
            provides,
            source,
            architecture,
        })
    }

    /// The source package it was built from.
    pub(crate) fn source(&self) -> &'a str {
        match self.source.split_whitespace().next() {
            Some(source) => source,
            None => self.name,
        }
    }

    /// What must be there too, `Pre-Depends` first, as apt takes them.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = super::relation::Relation<'a>> {
        relations(self.pre_depends).chain(relations(self.depends))
    }

    /// What must not be there too.
    pub(crate) fn exclusions(&self) -> impl Iterator<Item = Alternative<'a>> {
        relations(self.conflicts).chain(relations(self.breaks)).flat_map(|relation| relation.alternatives)
    }

    /// The virtual packages it stands for, each with the version it provides, when it tells one.
    pub(crate) fn provisions(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        relations(self.provides)
            .flat_map(|relation| relation.alternatives)
            .map(|provided| (provided.name, provided.constraint.map(|(_, version)| version)))
    }

    /// Whether it satisfies that, by its own name or one that it provides.
    pub(crate) fn satisfies(&self, wanted: &Alternative<'_>) -> bool {
        if self.name == wanted.name {
            return wanted.accepts(self.version);
        }
        !self.provides.is_empty()
            && self.provisions().any(|(name, version)| {
                // Policy 7.5: an unversioned provision satisfies only an unversioned dependency.
                name == wanted.name && (wanted.constraint.is_none() || version.is_some_and(|v| wanted.accepts(v)))
            })
    }
}

/// Every package of the indexes, for one processor.
pub(crate) struct Universe<'a> {
    packages: Vec<Package<'a>>,
    by_name: HashMap<&'a str, Vec<PackageId>>,
    providers: HashMap<&'a str, Vec<PackageId>>,
    arch: Arch,
}

impl<'a> Universe<'a> {
    /// Reads indexes. A paragraph that lacks what it takes to fetch the package is passed over.
    pub(crate) fn read(indexes: &[&'a str], arch: Arch) -> Self {
        let mut universe = Self { packages: Vec::new(), by_name: HashMap::new(), providers: HashMap::new(), arch };
        for (index, text) in indexes.iter().enumerate() {
            for package in paragraphs(text).filter_map(|paragraph| Package::read(paragraph, index)) {
                if package.architecture == "all" || package.architecture == arch.debian() {
                    universe.add(package);
                }
            }
        }
        let Self { packages, by_name, providers, .. } = &mut universe;
        // Later versions first; of the same version, the one listed first.
        let newest_first = |a: &PackageId, b: &PackageId| match (packages.get(a.place()), packages.get(b.place())) {
            (Some(x), Some(y)) => x.name.cmp(y.name).then(compare(y.version, x.version)).then(a.cmp(b)),
            _ => Ordering::Equal,
        };
        by_name.values_mut().chain(providers.values_mut()).for_each(|ids| ids.sort_by(newest_first));
        universe
    }

    fn add(&mut self, package: Package<'a>) {
        let Ok(place) = u32::try_from(self.packages.len()) else { return };
        let id = PackageId(place);
        self.by_name.entry(package.name).or_default().push(id);
        for (name, _) in package.provisions() {
            self.providers.entry(name).or_default().push(id);
        }
        self.packages.push(package);
    }

    /// The package of that place. Ids come from this universe only, so there always is one.
    pub(crate) fn package(&self, id: PackageId) -> &Package<'a> {
        &self.packages[id.place()]
    }

    /// The packages of that name, newest first.
    pub(crate) fn named(&self, name: &str) -> &[PackageId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names of the packages that every machine has: the essential ones, sorted, and an awk. That is essential too, but
    /// only as something that several packages provide: the smallest, as on any machine.
    pub(crate) fn base(&self) -> Vec<String> {
        let mut names = self.essential();
        names.extend(self.offered("mawk"));
        names
    }

    /// What settles, if the suite has it, that /usr is merged without a program that would merge it.
    pub(crate) fn settled(&self) -> Option<String> {
        self.offered("usr-is-merged")
    }

    fn offered(&self, name: &str) -> Option<String> {
        (!self.named(name).is_empty()).then(|| name.to_owned())
    }

    fn essential(&self) -> Vec<String> {
        let newest = self.by_name.values().filter_map(|ids| ids.first()).map(|id| self.package(*id));
        let mut names: Vec<String> = newest.filter(|it| it.essential).map(|it| it.name.to_owned()).collect();
        names.sort();
        names
    }

    /// The packages that provide that name, by name and then newest first.
    pub(crate) fn providers(&self, name: &str) -> &[PackageId] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The packages that satisfy an alternative, best first: real before virtual, newer before older.
    pub(crate) fn candidates(&self, wanted: &Alternative<'_>) -> impl Iterator<Item = PackageId> {
        let ours = wanted
            .qualifier
            .is_none_or(|qualifier| matches!(qualifier, "any" | "native" | "all") || qualifier == self.arch.debian());
        let (named, providers) =
            if ours { (self.named(wanted.name), self.providers(wanted.name)) } else { (&[][..], &[][..]) };
        named.iter().chain(providers).copied().filter(|id| self.package(*id).satisfies(wanted))
    }

    /// Names that differ from `name` by little, for a message.
    pub(crate) fn similar(&self, name: &str) -> Vec<&'a str> {
        let mut found: Vec<_> = self
            .by_name
            .keys()
            .filter(|known| known.len().abs_diff(name.len()) <= 2)
            .filter_map(|known| Some((distance(known, name, 2)?, *known)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, known)| known).take(3).collect()
    }
}

impl PackageId {
    fn place(self) -> usize {
        self.0 as usize
    }
}

/// Levenshtein's edit distance, when it is at most `limit`.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut least = left;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            (diagonal, *cell) = (above, left);
            least = least.min(left);
        }
        if least > limit {
            return None;
        }
    }
    row.last().copied().filter(|&d| d <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found() {
        assert_eq!(distance("nginx", "ngnix", 2), Some(2));
        assert_eq!(distance("nginx", "nginx", 2), Some(0));
        assert_eq!(distance("redis", "nginx", 2), None);
        assert_eq!(distance("", "ab", 2), Some(2));
    }
}
