//! How long work tells whoever waits for it how far it is.

/// Receives the progress of long work. The command line draws a bar on a terminal and prints plain lines into a pipe;
/// `()` stays silent.
pub trait Progress: Sync {
    /// A step begins: `what` reads as a line of its own ("fetching nginx-light"), `total` is in bytes when known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// So many further bytes of the step are done.
    fn advance(&self, bytes: u64);
    /// The step is done.
    fn end(&self);
}

impl Progress for () {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
