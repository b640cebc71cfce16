//! A language for instruction sets, and its compiler.
//!
//! A description says what instructions look like and what they do, which registers there are, how system registers
//! answer, how addresses are translated and how exceptions are taken. It is data: the compiler makes tables of it
//! ([`Isa`]), and whatever works with an architecture works from those tables. A new architecture is a new description.
//!
//! **Invariants: every mistake in a description has a file, a line and a column; what compiled has widths that agree, and
//! each of its operations is total.** [`plan`] says what is made of an instruction. What compiled can be kept: whoever
//! embeds a description compiles it when it is built.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

mod ast;
mod compile;
mod decode;
mod disassemble;
mod error;
mod fixed;
mod lexer;
pub mod ops;
mod parser;
pub mod plan;
mod tables;

pub use decode::Decoder;
pub use error::{Error, Located, Place, Result, Source};
pub use tables::{Assembly, Entry, Extern, Field, Instruction, Isa, Part, Register};

/// Compiles a description, which may be in several sources.
pub fn compile(sources: &[Source]) -> std::result::Result<Isa, Located> {
    let mut items = Vec::new();
    let mut hasher = DefaultHasher::new();
    sources.iter().for_each(|source| source.text.hash(&mut hasher));
    let mut compile = || {
        for (number, source) in sources.iter().enumerate() {
            items.extend(parser::parse(number as u32, &source.text)?);
        }
        compile::compile(&items, hasher.finish())
    };
    compile().map_err(|error| error.locate(sources))
}
