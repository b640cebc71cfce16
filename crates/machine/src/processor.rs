//! What a machine needs of a processor, whoever does its instructions: a translator of descriptions (`dbt`), or the host's
//! own processor ([`crate::native`]).

use dbt::Stop;

use crate::error::Result;
use crate::machine::Platform;
use crate::power::Beginning;
use crate::saved::{State, data};

/// A processor. **Whatever it is, it does nothing between two calls.**
pub(crate) trait Processor: Send {
    /// The calling thread is the one that it works on, until it is told of another.
    fn hang_here(&mut self) -> Result<()>;

    /// Works until its bell rings, or it has nothing to do.
    fn work(&mut self, place: &mut dyn Platform) -> Stop;

    /// Is switched on anew, with these arguments.
    fn restart(&mut self, place: &mut dyn Platform, beginning: &Beginning);

    /// What it is, for another to go on from there.
    fn save(&self) -> Result<State>;

    /// The same processor, if it is a description's: it can be looked into, and do one instruction after the other.
    fn described(&self) -> Option<&dbt::Processor>;

    /// The same, to be changed.
    fn described_mut(&mut self) -> Option<&mut dbt::Processor>;
}

impl Processor for dbt::Processor {
    fn hang_here(&mut self) -> Result<()> {
        Ok(())
    }

    fn work(&mut self, place: &mut dyn Platform) -> Stop {
        self.run_fast(place)
    }

    fn restart(&mut self, place: &mut dyn Platform, beginning: &Beginning) {
        self.restart(place, beginning);
    }

    fn save(&self) -> Result<State> {
        data(&self.save())
    }

    fn described(&self) -> Option<&dbt::Processor> {
        Some(self)
    }

    fn described_mut(&mut self) -> Option<&mut dbt::Processor> {
        Some(self)
    }
}
