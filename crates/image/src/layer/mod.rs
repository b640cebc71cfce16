//! Layers: tars applied to a tree, one above the other, and tars made from what is stored.
//!
//! **Nothing is ever written to a file system here.** A layer's names go into a [`store::Tree`], which is data in memory,
//! and its bytes into the pool; so a name that would leave the image has nowhere to lead to, and is refused.

pub(crate) mod apply;
pub(crate) mod canonical;
pub(crate) mod header;
mod pax;
pub(crate) mod reader;
pub(crate) mod recipe;
mod sparse;
pub(crate) mod unpack;

#[cfg(test)]
mod tests;
