//! Where contents come from: out of the pool, or out of a registry into the pool.
//!
//! **Whoever wants a content that another thread is at waits for it**, and nobody brings one twice. What a registry sends
//! beside a content that was wanted is kept only if it is right, and fails nobody if it is not. What goes wrong is written
//! down for people ([`Log`]): a program learns no more than that its file cannot be read.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image::{Catalogue, Fetcher, Receiver};
use model::ObjectId;
use store::{Aside, Content, Filler, Need};

/// A registry that was out of reach is not asked again for so long: who reads a thousand files is not to wait for each.
const REST: Duration = Duration::from_secs(5);
/// A session's log holds so many lines at most.
const LINES: usize = 100;

/// Contents that somebody is unpacking or fetching.
#[derive(Default)]
pub(super) struct Flights {
    busy: Mutex<HashSet<ObjectId>>,
    landed: Condvar,
}

/// A content that nobody else brings.
struct Flight<'a> {
    all: &'a Flights,
    id: ObjectId,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.all.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.all.landed.notify_all();
    }
}

impl Flights {
    /// Waits until nobody else is at it.
    fn board(&self, id: &ObjectId) -> Flight<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(id) {
            busy = self.landed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(*id);
        Flight { all: self, id: *id }
    }

    /// Nothing when somebody else is at it.
    fn board_now(&self, id: &ObjectId) -> Option<Flight<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // Made only when it is ours: its end takes the id away again.
        busy.insert(*id).then(|| Flight { all: self, id: *id })
    }
}

/// What went wrong, a line each.
pub(super) struct Log {
    file: File,
    written: Mutex<HashSet<String>>,
    /// When the registry was last found out of reach.
    gone: Mutex<Option<Instant>>,
}

impl Log {
    pub(super) fn new(file: File) -> Self {
        Self { file, written: Mutex::default(), gone: Mutex::default() }
    }

    fn is_gone(&self) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.is_some_and(|since| since.elapsed() < REST)
    }

    /// Notes why a content did not come.
    fn failure(&self, name: &str, error: &image::Error) {
        if matches!(error, image::Error::Registry { .. }) {
            *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        self.line(format!("{name} cannot be had: {error}"));
    }

    /// Writes a line down, once.
    fn line(&self, line: String) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() < LINES && !written.contains(&line) {
            // Whoever cannot write this down has nobody to tell.
            let _ = (&self.file).write_all(format!("{line}\n").as_bytes());
            written.insert(line);
        }
    }
}

/// A content could not be had; why is told elsewhere.
#[derive(Debug)]
pub(super) struct Unavailable;

/// One thread's way to contents.
pub(super) struct Origin<'a> {
    filler: Filler,
    flights: &'a Flights,
    registry: Option<Registry<'a>>,
}

/// What contents that the pool does not have are fetched with.
pub(super) struct Registry<'a> {
    catalogue: &'a Catalogue<'a>,
    log: &'a Log,
    /// Made when it is needed: most threads never ask.
    fetcher: OnceCell<Fetcher<'a>>,
}

impl<'a> Registry<'a> {
    pub(super) fn new(catalogue: &'a Catalogue<'a>, log: &'a Log) -> Self {
        Self { catalogue, log, fetcher: OnceCell::new() }
    }

    fn fetcher(&self) -> image::Result<&Fetcher<'a>> {
        if let Some(fetcher) = self.fetcher.get() {
            return Ok(fetcher);
        }
        let made = Fetcher::open(self.catalogue)?;
        Ok(self.fetcher.get_or_init(|| made))
    }
}

impl<'a> Origin<'a> {
    pub(super) fn new(filler: Filler, flights: &'a Flights, registry: Option<Registry<'a>>) -> Self {
        Self { filler, flights, registry }
    }

    /// Makes a content be where whoever asks looks next.
    pub(super) fn ask(&self, id: &ObjectId) -> Result<(), Unavailable> {
        let flight = self.flights.board(id);
        let Some(registry) = self.registry.as_ref().filter(|it| it.catalogue.holds(id)) else {
            return self.filler.fill(id, Need::Now).map_err(|_| Unavailable);
        };
        let beside = registry.catalogue.beside(id).into_iter().map(|it| (it, Need::Soon));
        self.fetch(registry, Some((flight, Need::Now)), beside)
    }

    /// Makes contents be there before anybody asks for them: the first where it must be asked for, the others where they
    /// need not. Who asks for one that does not come hears of it.
    pub(super) fn ahead(&self, batch: &[Content]) {
        let need = |number: usize| if number == 0 { Need::Now } else { Need::Soon };
        let needs = batch.iter().enumerate().map(|(number, content)| (content.id, need(number)));
        match &self.registry {
            Some(registry) => drop(self.fetch(registry, None, needs)),
            None => needs.for_each(|(id, need)| {
                let _flight = self.flights.board(&id);
                let _ = self.filler.fill(&id, need);
            }),
        }
    }

    /// Fetches what is not there and nobody else fetches; whether `wanted` came.
    fn fetch(
        &self,
        registry: &Registry<'_>,
        wanted: Option<(Flight<'a>, Need)>,
        beside: impl Iterator<Item = (ObjectId, Need)>,
    ) -> Result<(), Unavailable> {
        let mut delivery = Delivery { filler: &self.filler, flights: Vec::new(), open: None };
        let mut ids = Vec::new();
        let is_wanted = wanted.is_some();
        let others = beside.filter_map(|(id, need)| Some((self.flights.board_now(&id)?, need)));
        for (number, (flight, need)) in wanted.into_iter().chain(others).enumerate() {
            match self.filler.has(&flight.id, need) {
                Ok(true) if number == 0 && is_wanted => return Ok(()),
                Ok(true) => {}
                Ok(false) => {
                    ids.push(flight.id);
                    delivery.flights.push((flight, need));
                }
                Err(error) => {
                    registry.log.line(format!("{}: {error}", registry.catalogue.name(&flight.id)));
                    return Err(Unavailable);
                }
            }
        }
        let Some(first) = ids.first().copied() else { return Ok(()) };
        if registry.log.is_gone() {
            return Err(Unavailable);
        }
        let fetched = registry.fetcher().and_then(|it| it.fetch(&ids, &mut delivery));
        let came = delivery.flights.iter().all(|(flight, _)| flight.id != first);
        if let Err(error) = fetched {
            let failed = delivery.flights.first().map_or(first, |(flight, _)| flight.id);
            registry.log.failure(registry.catalogue.name(&failed), &error);
        }
        if came { Ok(()) } else { Err(Unavailable) }
    }
}

/// Contents on their way into the pool.
struct Delivery<'a> {
    filler: &'a Filler,
    /// Those that have not come yet.
    flights: Vec<(Flight<'a>, Need)>,
    open: Option<(ObjectId, Option<Aside>)>,
}

impl Receiver for Delivery<'_> {
    fn seek(&mut self, id: &ObjectId, offset: u64) -> store::Result<()> {
        match &mut self.open {
            Some((open, aside)) if open == id => aside.as_mut().map_or(Ok(()), |it| it.truncate(offset)),
            _ => {
                let need = self.flights.iter().find(|(flight, _)| flight.id == *id).map_or(Need::Soon, |it| it.1);
                self.open = Some((*id, self.filler.begin(id, need)?));
                Ok(())
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> store::Result<()> {
        match &mut self.open {
            Some((_, Some(aside))) => aside.write(bytes),
            _ => Ok(()),
        }
    }

    fn complete(&mut self, id: &ObjectId) -> store::Result<()> {
        if let Some((_, Some(aside))) = self.open.take() {
            aside.publish()?;
        }
        // Whoever waits for it goes on now.
        self.flights.retain(|(flight, _)| flight.id != *id);
        Ok(())
    }
}
