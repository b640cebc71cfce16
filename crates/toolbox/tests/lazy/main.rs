//! Trees that are mounted before they are unpacked.

#[path = "../../../store/tests/store/compare.rs"]
mod compare;
mod fixture;
mod posix;
mod random;
mod serving;
mod trouble;
mod whole;
