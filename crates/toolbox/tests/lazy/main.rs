//! Trees that are mounted before they are unpacked.

mod fixture;
mod serving;
