//! Which packages an image needs: the dependency closure, chosen deterministically.
//!
//! Depth-first search with backtracking over the relations in the order they are met. Each relation's options are tried
//! in the order that apt prefers them (first alternative first, real before virtual, newest first), so that the answer is
//! apt's wherever no conflict forces a detour; a test compares the two. Recommended packages are left out, and essential
//! ones come only where a package asks for them by name: an image is not a machine. **A pure function of the indexes.**

use std::collections::BTreeSet;

use super::relation::{Alternative, Relation};
use super::universe::{PackageId, Universe};
use crate::{Error, Result};

/// How many choices are tried before the search gives up. A Debian suite needs one for each package.
const MAX_STEPS: usize = 200_000;

/// The packages to unpack, each after those it was needed by, and what was left out.
#[derive(Debug)]
pub(crate) struct Solution {
    /// Those asked for first, then their dependencies as met.
    pub(crate) packages: Vec<PackageId>,
    /// Names that were needed but left out by the caller's wish, sorted.
    pub(crate) left_out: BTreeSet<String>,
}

/// Whether the first package does without the second though it depends on it.
pub(crate) type Needless<'n> = dyn Fn(&str, &str) -> bool + 'n;

/// Finds the closure of `wanted`, passing over dependencies that are `needless`.
///
/// # Errors
/// [`Error::NoSuchPackage`] for an unknown name, [`Error::Unsolvable`] when no choice satisfies every relation.
pub(crate) fn solve(universe: &Universe<'_>, wanted: &[String], needless: &Needless<'_>) -> Result<Solution> {
    let mut search = Search { universe, needless, chosen: Vec::new(), agenda: Vec::new(), left_out: BTreeSet::new() };
    for name in wanted {
        let root = Relation { text: name, alternatives: vec![Alternative { name, qualifier: None, constraint: None }] };
        search.check_known(name)?;
        search.agenda.push(Wish { by: None, relation: root });
    }
    search.run()?;
    Ok(Solution { packages: search.chosen, left_out: search.left_out })
}

/// A relation that must hold, and whose it is.
#[derive(Clone, Debug)]
struct Wish<'a> {
    by: Option<PackageId>,
    relation: Relation<'a>,
}

/// A place to come back to when a choice turns out wrong.
struct Choice {
    cursor: usize,
    chosen: usize,
    agenda: usize,
    options: std::vec::IntoIter<PackageId>,
}

struct Search<'u, 'a> {
    universe: &'u Universe<'a>,
    needless: &'u Needless<'u>,
    chosen: Vec<PackageId>,
    agenda: Vec<Wish<'u>>,
    left_out: BTreeSet<String>,
}

impl<'u, 'a: 'u> Search<'u, 'a> {
    fn check_known(&self, name: &str) -> Result<()> {
        if !self.universe.named(name).is_empty() {
            return Ok(());
        }
        let providers: BTreeSet<_> =
            self.universe.providers(name).iter().map(|id| self.universe.package(*id).name).collect();
        match providers.len() {
            1 => Ok(()),
            0 => {
                let similar = self.universe.similar(name).into_iter().map(str::to_owned).collect();
                Err(Error::NoSuchPackage { name: name.to_owned(), similar })
            }
            _ => {
                let similar = providers.into_iter().map(str::to_owned).collect();
                Err(Error::NoSuchPackage { name: name.to_owned(), similar })
            }
        }
    }

    fn run(&mut self) -> Result<()> {
        let mut choices: Vec<Choice> = Vec::new();
        let mut cursor = 0;
        let mut first_failure = None;
        for _ in 0..MAX_STEPS {
            let Some(wish) = self.agenda.get(cursor) else { return Ok(()) };
            if self.is_satisfied(&wish.relation) {
                cursor += 1;
                continue;
            }
            let options = self.options(&wish.relation);
            if options.is_empty() && first_failure.is_none() {
                first_failure = Some(self.explain(wish));
            }
            choices.push(Choice {
                cursor,
                chosen: self.chosen.len(),
                agenda: self.agenda.len(),
                options: options.into_iter(),
            });
            cursor = match self.next_option(&mut choices) {
                Some(cursor) => cursor,
                None => return Err(Error::Unsolvable(first_failure.unwrap_or_default())),
            };
        }
        Err(Error::Unsolvable(format!("no answer after {MAX_STEPS} attempts")))
    }

    /// Takes the next untried option of the latest choice that has one.
    fn next_option(&mut self, choices: &mut Vec<Choice>) -> Option<usize> {
        loop {
            let choice = choices.last_mut()?;
            self.chosen.truncate(choice.chosen);
            self.agenda.truncate(choice.agenda);
            if let Some(option) = choice.options.next() {
                let cursor = choice.cursor + 1;
                self.choose(option);
                return Some(cursor);
            }
            choices.pop();
        }
    }

    fn choose(&mut self, id: PackageId) {
        self.chosen.push(id);
        let universe = self.universe;
        let owner = universe.package(id);
        for relation in owner.dependencies() {
            let dropped =
                relation.alternatives.iter().find(|alternative| (self.needless)(owner.name, alternative.name));
            match dropped {
                Some(alternative) => {
                    self.left_out.insert(alternative.name.to_owned());
                }
                None => self.agenda.push(Wish { by: Some(id), relation }),
            }
        }
    }

    fn is_satisfied(&self, relation: &Relation<'_>) -> bool {
        relation
            .alternatives
            .iter()
            .any(|alternative| self.chosen.iter().any(|id| self.universe.package(*id).satisfies(alternative)))
    }

    fn options(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        let mut options = Vec::new();
        for alternative in &relation.alternatives {
            for id in self.universe.candidates(alternative) {
                if !options.contains(&id) && self.fits(id) {
                    options.push(id);
                }
            }
        }
        options
    }

    /// Whether a package can be there beside those already chosen.
    fn fits(&self, id: PackageId) -> bool {
        let package = self.universe.package(id);
        self.chosen.iter().map(|other| self.universe.package(*other)).all(|other| {
            // A package may exclude a name that it provides itself: it then excludes all others of that name.
            other.name != package.name
                && !package.exclusions().any(|excluded| other.satisfies(&excluded))
                && !other.exclusions().any(|excluded| package.satisfies(&excluded))
        })
    }

    fn explain(&self, wish: &Wish<'_>) -> String {
        let text = wish.relation.text;
        let offered = wish.relation.alternatives.iter().any(|a| self.universe.candidates(a).next().is_some());
        let why = if offered { "which conflicts with another package of the image" } else { "which no index offers" };
        match wish.by {
            Some(id) => format!("{} needs {text}, {why}", self.universe.package(id).name),
            None => format!("{text} cannot be chosen: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Arch;

    use super::*;

    /// `a: b|c; !d` lines: a package `a` that depends on `b|c` and conflicts with `d`; `a=2` gives it a version, `a^v` lets
    /// it provide `v`.
    fn index(lines: &str) -> String {
        let digest = "0".repeat(64);
        lines
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .map(|(head, body)| {
                let (head, provides) = head.split_once('^').unwrap_or((head, ""));
                let (name, version) = head.split_once('=').unwrap_or((head, "1"));
                let (depends, conflicts) = body.split_once('!').unwrap_or((body, ""));
                format!(
                    "Package: {name}\nVersion: {version}\nArchitecture: amd64\nDepends: {depends}\n\
                     Conflicts: {conflicts}\nProvides: {provides}\nFilename: x\nSize: 1\nSHA256: {digest}\n\n"
                )
            })
            .collect()
    }

    fn check(lines: &str, wanted: &str, expected: &str) {
        let text = index(lines);
        let universe = Universe::read(&[&text], Arch::Amd64);
        let wanted: Vec<_> = wanted.split(' ').map(str::to_owned).collect();
        let found = match solve(&universe, &wanted, &|_, name| name == "debconf") {
            Ok(solution) => {
                let name = |id: &PackageId| {
                    let package = universe.package(*id);
                    if package.version == "1" {
                        package.name.to_owned()
                    } else {
                        format!("{}={}", package.name, package.version)
                    }
                };
                solution.packages.iter().map(name).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{lines}");
    }

    #[test]
    fn closures() {
        check("a: b, c\nb:\nc: b\nd:", "a", "a b c");
        check("a: x | b\nb:", "a", "a b");
        check("a: b | c\nb:\nc:", "a c", "a c");
        check("a: a", "a", "a");
        check("a: b\nb: a", "a", "a b");
        check("a: b\nb=1:\nb=2:", "a", "a b=2");
        check("a: b (= 1)\nb=1:\nb=2:", "a", "a b");
        check("a: v\nb^v:\nc^v:", "a", "a b");
        check("a: v\nv:\nb^v:", "a", "a v");
        check("a: v (>= 2)\nb^v:\nc^v (= 3):", "a", "a c");
        check("a: debconf (>= 1) | debconf-2.0, b\nb:", "a", "a b");
        check("a: b:any, c:amd64\nb:\nc:", "a", "a b c");
    }

    #[test]
    fn conflicts_force_another_choice() {
        check("a: b | c\nb: !d\nc:\nd:", "d a", "d a c");
        check("a: b | c, d\nb: !d\nc:\nd:", "a", "a c d");
        check("a: v, w\nb^v: !v\nc^v, w:", "a", "a c");
        check("m^mta: !mta\nn^mta: !mta\na: mta", "n a", "n a");
    }

    #[test]
    fn failures_name_the_cause() {
        check(
            "a: b\nb: zz (>= 3)",
            "a",
            "the packages cannot be brought together: b needs zz (>= 3), which no index offers",
        );
        check(
            "a: b\nb: !a",
            "a",
            "the packages cannot be brought together: a needs b, which conflicts with another package of the image",
        );
        check("nginx:", "ngnix", "no package 'ngnix' in the machine's apt sources (did you mean nginx?)");
        check("b^v:\nc^v:", "v", "no package 'v' in the machine's apt sources (did you mean b, c?)");
        check("a: b:arm64\nb:", "a", "the packages cannot be brought together: a needs b:arm64, which no index offers");
    }

    proptest::proptest! {
        #[test]
        fn every_answer_satisfies_every_relation(edges in proptest::collection::vec((0..12u8, 0..12u8, 0..12u8, 0..24u8), 0..24)) {
            let mut lines = String::new();
            for name in 0..12u8 {
                let needs: Vec<_> = edges.iter().filter(|e| e.0 == name).map(|e| format!("p{}|p{}", e.1, e.2)).collect();
                let not: Vec<_> = edges.iter().filter(|e| e.0 == name && e.3 < 12).map(|e| format!("p{}", e.3)).collect();
                lines.push_str(&format!("p{name}: {} ! {}\n", needs.join(","), not.join(",")));
            }
            let text = index(&lines);
            let universe = Universe::read(&[&text], Arch::Amd64);
            if let Ok(solution) = solve(&universe, &["p0".to_owned()], &|_, _| false) {
                let chosen: Vec<_> = solution.packages.iter().map(|id| universe.package(*id)).collect();
                for package in &chosen {
                    for relation in package.dependencies() {
                        proptest::prop_assert!(relation.alternatives.iter().any(|a| chosen.iter().any(|p| p.satisfies(a))));
                    }
                    for excluded in package.exclusions() {
                        proptest::prop_assert!(!chosen.iter().any(|p| p.name != package.name && p.satisfies(&excluded)));
                    }
                }
            }
        }
    }
}
