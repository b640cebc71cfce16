//! Slimming an image: run it, watched, under a workload; keep what it needs; prove the rest unneeded.
//!
//! The original runs the workload while it is watched, and the unseen workload while it is not (a workload that fails
//! there is the caller's mistake, and says so). Then slim trees are cut and run both, watched, in fresh cells: whatever
//! they look for in vain and the original has is added, until a run goes well and misses nothing. **No image comes of a
//! slimming that does not end so**, and each image that does was put together with its complement and compared.

mod session;
mod talk;

use std::collections::BTreeMap;

use image::Fetched;
use image::slim::{self, Cut, Glob, Keeper, Kept, Miss, Observed, Report, Round, Sizes, Step, TreePath, Workload};
use model::{ImageName, ImageRecord, ObjectId, Progress, Watch};
use store::Tree;

pub(crate) use self::session::remove_orphaned_files;
use self::session::{Failure, Session, Statuses, Subject};
use crate::error::{Error, Result};
use crate::table::Engine;

/// What to slim, and how.
#[derive(Clone, Copy, Debug)]
pub struct SlimRequest<'a> {
    /// The image's name.
    pub image: &'a str,
    /// Its id.
    pub id: ObjectId,
    /// What it is.
    pub record: &'a ImageRecord,
    /// What it is to do.
    pub workload: &'a Workload,
    /// What to keep beside what is needed.
    pub keep: &'a [Glob],
    /// What to call the slim image.
    pub name: &'a ImageName,
}

/// What came of it.
#[derive(Debug)]
pub struct Slimmed {
    /// The slim image.
    pub image: Fetched,
    /// How it came about.
    pub report: Report,
}

/// So often is a slim tree grown. Each time something is added, and few applications need more than two.
const MAX_ROUNDS: usize = 12;

impl Engine {
    /// Makes a slim image.
    ///
    /// # Errors
    /// [`Error::Workload`] when the workload fails on the original, or on the slim image with nothing left to add.
    pub fn slim(&self, request: &SlimRequest<'_>, progress: &dyn Progress) -> Result<Slimmed> {
        self.remove_orphaned_builds()?;
        let _guard = self.guard_builds()?;
        // Opened before anything is stored, so that no collector takes it away.
        let reader = self.store.reader()?;
        let original = reader.tree(&request.record.tree)?;
        let mut slimming = Slimming {
            engine: self,
            request,
            progress,
            statuses: Statuses::default(),
            observed: Observed::default(),
            rounds: Vec::new(),
        };
        slimming.watch_original()?;
        let (kept, cut) = slimming.grow(&reader, &original)?;
        let report = slimming.report(&original, &cut, &kept);
        let calls = report.calls.iter().map(String::as_str);
        let baseline = container::BASELINE.iter().copied().flatten().copied();
        let profile = slim::profile(calls.chain(baseline), request.record.arch);
        let image = slim::publish(&self.store, &reader, request.record, &cut, &report, &profile, request.name)?;
        Ok(Slimmed { image, report })
    }
}

/// A slimming under way.
struct Slimming<'a> {
    engine: &'a Engine,
    request: &'a SlimRequest<'a>,
    progress: &'a dyn Progress,
    /// What the original answered.
    statuses: Statuses,
    /// What the original used; of the slim trees' runs, the system calls.
    observed: Observed,
    rounds: Vec<Round>,
}

/// The two parts of a workload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Seen,
    Unseen,
}

impl Part {
    /// What it is called in reports.
    const fn words(self) -> &'static str {
        match self {
            Self::Seen => "the workload",
            Self::Unseen => "the unseen workload",
        }
    }

    fn steps(self, workload: &Workload) -> &[Step] {
        match self {
            Self::Seen => &workload.steps,
            Self::Unseen => &workload.unseen,
        }
    }
}

/// What the listings of a round lacked.
fn unlisted<'a>(original: &'a Tree, slim: &'a Tree, round: &'a Round) -> impl Iterator<Item = Miss> + 'a {
    round.listed.iter().flat_map(|directory| {
        let during = format!("a listing of {directory}");
        let lost = slim::lost_entries(original, slim, directory).into_iter();
        lost.map(move |path| Miss { path, during: during.clone() })
    })
}

impl Slimming<'_> {
    fn watch_original(&mut self) -> Result<()> {
        let subject = Subject { on: "original", tree: self.request.record.tree };
        self.progress.begin(&format!("watching {}", self.request.image), None);
        let (observed, outcome) = self.run(subject, Watch::Uses, Part::Seen)?;
        outcome.map_err(|failure| failure.on(subject))?;
        self.observed = observed;
        self.progress.begin(&format!("trying the unseen workload on {}", self.request.image), None);
        let (_, outcome) = self.run(subject, Watch::Nothing, Part::Unseen)?;
        outcome.map_err(|failure| failure.on(subject))?;
        self.progress.end();
        Ok(())
    }

    fn run(
        &mut self,
        subject: Subject,
        watch: Watch,
        part: Part,
    ) -> Result<(Observed, std::result::Result<(), Failure>)> {
        let mut statuses = std::mem::take(&mut self.statuses);
        let session = Session::new(self.engine, self.request, subject, watch);
        let outcome = session.and_then(|it| it.run(part.steps(self.request.workload), &mut statuses));
        self.statuses = statuses;
        let (observed, outcome) = outcome?;
        match &observed.lost {
            Some(why) => Err(Error::Refused(format!("the observation is not complete: {why}"))),
            None => Ok((observed, outcome)),
        }
    }

    /// Cuts and runs slim trees until one does everything and misses nothing.
    fn grow(&mut self, reader: &store::Reader, original: &Tree) -> Result<(Kept, Cut)> {
        let mut missed: BTreeMap<TreePath, String> = BTreeMap::new();
        for number in 1..=MAX_ROUNDS {
            self.progress.begin(&format!("round {number}: cutting"), None);
            let kept = self.kept(reader, original, &missed)?;
            let cut = slim::cut(&self.engine.store, (original, self.request.record.tree), &kept)?;
            self.progress.begin(&format!("round {number}: proving"), None);
            let (mut round, failure) = self.prove(original, &cut)?;
            self.progress.end();
            let mut new: Vec<Miss> = round.missed.iter().filter(|it| !missed.contains_key(&it.path)).cloned().collect();
            if failure.is_some() && new.is_empty() {
                // It may have listed what it would have looked up.
                new = unlisted(original, &cut.slim, &round).filter(|it| !missed.contains_key(&it.path)).collect();
                round.missed.extend(new.iter().cloned());
            }
            self.rounds.push(round);
            match failure {
                None if new.is_empty() => return Ok((kept, cut)),
                Some(failure) if new.is_empty() => {
                    return Err(failure.on(Subject { on: "slim", tree: cut.slim_id }));
                }
                _ => missed.extend(new.into_iter().map(|it| (it.path, it.during))),
            }
        }
        Err(Error::Refused(format!("after {MAX_ROUNDS} rounds the slim image still misses files: --keep helps")))
    }

    fn kept(&self, reader: &store::Reader, original: &Tree, missed: &BTreeMap<TreePath, String>) -> Result<Kept> {
        let mut keeper = Keeper::new(original, reader, &self.observed)?;
        self.request.keep.iter().for_each(|it| keeper.ask(it));
        missed.iter().for_each(|(path, during)| keeper.missed(path, during));
        Ok(keeper.finish()?)
    }

    /// Runs both workloads on a slim tree. The second only when the first went well.
    fn prove(&mut self, original: &Tree, cut: &Cut) -> Result<(Round, Option<Failure>)> {
        let subject = Subject { on: "slim", tree: cut.slim_id };
        let mut round = Round::default();
        for part in [Part::Seen, Part::Unseen] {
            let (observed, outcome) = self.run(subject, Watch::Uses, part)?;
            let missed = slim::misses(original, &cut.slim, &observed);
            round.missed.extend(missed.into_iter().map(|path| Miss { path, during: part.words().to_owned() }));
            round.listed.extend(slim::short_listings(original, &cut.slim, &observed).into_keys());
            self.observed.calls.extend(observed.calls);
            if let Err(failure) = outcome {
                round.failed = Some(failure.to_string());
                return Ok((round, Some(failure)));
            }
        }
        Ok((round, None))
    }

    fn report(&self, original: &Tree, cut: &Cut, kept: &Kept) -> Report {
        let shown = |steps: &[Step]| steps.iter().map(ToString::to_string).collect();
        Report {
            original: self.request.image.to_owned(),
            original_id: self.request.id,
            steps: shown(&self.request.workload.steps),
            unseen: shown(&self.request.workload.unseen),
            before: Sizes::of(original),
            after: Sizes::of(&cut.slim),
            rounds: self.rounds.clone(),
            calls: self.observed.calls.clone(),
            kept: slim::kept_paths(original, kept),
        }
    }
}
