//! From runs to rows: what each piece of work takes on ours and on each of qemu's, and what is promised.

use super::programs;
use super::target::{Peer, Target};
use super::watch::{Cost, Run};
use crate::Result;
use crate::bench::sample::median;
use crate::bench::{Bound, Row};

/// Work that is told of by one mean.
pub(super) struct Set {
    pub(super) name: &'static str,
    work: Vec<&'static str>,
    /// How many times faster than qemu the mean has to be, and the best of them.
    mean: f64,
    best: Option<f64>,
    /// And each.
    each: f64,
}

/// What is measured in a guest.
pub(super) fn sets(target: &Target) -> Vec<Set> {
    let kernels = ["intloop", "fib", "sieve", "chase", "sort", "hash", "icall", "mixed"];
    let integer = kernels.into_iter().chain(programs::NAMES).collect();
    let float = vec!["matmul", "nbody", "mandel", "fft", "fsum", "spectral", "linpack"];
    let system = vec!["syscall", "fork", "fault", "pipe", "switch"];
    vec![
        Set { name: "coremark", work: vec!["coremark"], mean: target.coremark, best: None, each: target.coremark },
        Set { name: "integer", work: integer, mean: target.integer, best: None, each: 1.0 },
        Set { name: "float", work: float, mean: target.float, best: Some(6.5), each: 1.0 },
        Set { name: "system", work: system, mean: 2.0, best: None, each: 2.0 },
    ]
}

/// So many times faster, as a ratio of times.
pub(super) fn times(faster: f64) -> Bound {
    Bound::RatioAtMost((1e3 / faster).round() / 1e3)
}

/// Runs of ours, and of each of some peers.
pub(super) struct Series<'a> {
    pub(super) target: &'a Target,
    pub(super) peers: Vec<&'a Peer>,
    pub(super) ours: Vec<Run>,
    pub(super) theirs: Vec<Vec<Run>>,
}

type Of<'a> = dyn Fn(&Run) -> Option<Cost> + 'a;

impl<'a> Series<'a> {
    pub(super) fn new(target: &'a Target, peers: Vec<&'a Peer>) -> Series<'a> {
        let theirs = peers.iter().map(|_| Vec::new()).collect();
        Series { target, peers, ours: Vec::new(), theirs }
    }

    /// What a piece of work takes of the host's processors on all, of which it was asked whether they did the same.
    pub(super) fn work(&self, work: &str, bound: Bound) -> Result<Row> {
        self.check(work)?;
        Ok(self.row(work, &|run| run.work.get(work).copied(), bound))
    }

    /// What each piece of work of a set takes of the host's processors.
    pub(super) fn rows(&self, set: &Set) -> Result<Vec<Row>> {
        set.work.iter().map(|work| self.work(work, times(set.each))).collect()
    }

    /// The geometric means of a set's ratios, of processor time and of the wall's, and its best.
    pub(super) fn means(&self, set: &Set) -> Vec<Row> {
        let ratios = |part: fn(Cost) -> f64| -> Vec<f64> {
            let ratio = |work: &&'static str| {
                let of = |run: &Run| run.work.get(*work).copied();
                self.median(&self.ours, &of, part) / self.best(&of, part).1
            };
            set.work.iter().map(ratio).collect()
        };
        let mean = |ratios: &[f64]| (ratios.iter().map(|it| it.ln()).sum::<f64>() / ratios.len() as f64).exp();
        let (processor, wall) = (ratios(|cost| cost.processor), ratios(|cost| cost.wall));
        let row = |what: &str, ours: f64, promised: f64| {
            let name = format!("{} {}, {what}", self.target.name, set.name);
            Row::new(&name, "", ours, Some(("qemu", Some(1.0))), self.ours.len(), times(promised))
        };
        if set.work.len() == 1 {
            return Vec::new();
        }
        let best = set.best.map(|best| row("best", processor.iter().copied().fold(f64::INFINITY, f64::min), best));
        let means = [
            row("geometric mean", mean(&processor), set.mean),
            row("geometric mean of the wall's time", mean(&wall), set.mean),
        ];
        means.into_iter().chain(best).collect()
    }

    /// One thing's processor time on all.
    pub(super) fn row(&self, what: &str, of: &Of<'_>, bound: Bound) -> Row {
        let part = |cost: Cost| cost.processor;
        let ours = self.median(&self.ours, of, part) * 1e3;
        let (peer, theirs) = self.best(of, part);
        let name = format!("{} {what}", self.target.name);
        let peer = format!("qemu {peer}");
        let each = self.peers.iter().zip(&self.theirs);
        let each = each.map(|(peer, runs)| (peer.name.to_owned(), self.median(runs, of, part) * 1e3)).collect();
        Row::new(&name, "ms", ours, Some((&peer, Some(theirs * 1e3))), self.ours.len(), bound).beside(each)
    }

    fn median(&self, runs: &[Run], of: &Of<'_>, part: fn(Cost) -> f64) -> f64 {
        median(&runs.iter().filter_map(of).map(part).collect::<Vec<_>>())
    }

    /// The fastest peer, and its median.
    fn best(&self, of: &Of<'_>, part: fn(Cost) -> f64) -> (&'static str, f64) {
        let medians = self.theirs.iter().map(|runs| self.median(runs, of, part));
        let each = self.peers.iter().map(|peer| peer.name).zip(medians);
        each.fold(("", f64::INFINITY), |best, it| if it.1 < best.1 { it } else { best })
    }

    /// Whether a piece of work was done in each run, and gave the same in all.
    fn check(&self, work: &str) -> Result {
        let mut results = Vec::new();
        for (run, whose) in self.named() {
            match (run.work.get(work), run.results.get(work)) {
                (Some(_), Some(result)) => results.push((result, whose)),
                _ => return Err(format!("{work} did not come to its end on {whose}")),
            }
        }
        match results.iter().find(|(result, _)| *result != results[0].0) {
            None => Ok(()),
            Some((result, whose)) => {
                let (first, one) = &results[0];
                Err(format!("{work} computed different things: {first} on {one}, {result} on {whose}"))
            }
        }
    }

    /// All runs, and on what each was.
    fn named(&self) -> impl Iterator<Item = (&Run, String)> {
        let ours = self.ours.iter().map(|run| (run, "ours".to_owned()));
        let peers = self.peers.iter().zip(&self.theirs);
        ours.chain(peers.flat_map(|(peer, runs)| runs.iter().map(|run| (run, format!("qemu {}", peer.name)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::dbt::target::ARM;

    fn run(processor: f64, result: &str) -> Run {
        let cost = Cost { processor, wall: processor };
        let (work, results) = ([("fft".to_owned(), cost)].into(), [("fft".to_owned(), result.to_owned())].into());
        Run { boot: cost, work, results }
    }

    #[test]
    fn the_best_of_peers_counts_and_all_have_to_agree() {
        let peers: Vec<&Peer> = ARM.peers.iter().take(2).collect();
        let mut series = Series::new(&ARM, peers);
        series.ours = vec![run(1.0, "x"), run(9.0, "x"), run(2.0, "x")];
        series.theirs = vec![vec![run(8.0, "x")], vec![run(4.0, "x")]];
        let row = series.work("fft", times(2.0)).unwrap();
        assert_eq!((row.ours, row.theirs, row.holds), (2000.0, Some(4000.0), Some(true)));
        assert_eq!(row.peer.as_deref(), Some("qemu max off"));
        assert_eq!(row.each.iter().map(|(_, time)| *time).collect::<Vec<_>>(), [8000.0, 4000.0]);
        series.theirs[1] = vec![run(4.0, "y")];
        assert!(series.work("fft", times(2.0)).unwrap_err().contains("different"));
        assert!(series.work("nbody", times(2.0)).unwrap_err().contains("nbody"));
    }
}
