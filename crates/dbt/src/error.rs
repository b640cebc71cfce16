//! What can go wrong with a translated processor.

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no processor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A description has a mistake.
    #[error("{0}")]
    Description(#[from] isa::Located),
    /// A description leaves out what every engine calls.
    #[error("the description of {architecture} has no entry '{entry}'")]
    NoEntry {
        /// Of which.
        architecture: String,
        /// What is missing.
        entry: &'static str,
    },
    /// A processor that was kept is of another description.
    #[error("{count} words are not the registers of a processor of {architecture}")]
    Registers {
        /// Of which.
        architecture: String,
        /// How many there are.
        count: usize,
    },
}
