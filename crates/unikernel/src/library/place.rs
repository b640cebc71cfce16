//! A new library: what it must be to be put in another's place, and its bytes as they will be in memory.
//!
//! It is linked here, once for each process, and not by the program's loader, which cannot be asked to: so **it must need
//! nothing that only running code could do**: no function that chooses functions, no data of threads, nothing to be done at
//! its beginning or end beyond what compilers put into every library, which does nothing.

use super::elf::{Bytes, EXECUTE, Shape, WRITE, number};
use super::linked::{Depth, Kind, Linked, kind, tag};
use super::{Malformed, Trouble};

/// No list of functions to be called is longer that does nothing.
const LONGEST_LIST: u64 = 64;

/// The new library.
pub(crate) struct New {
    pub(crate) shape: Shape,
    pub(crate) linked: Linked,
    /// As it is in memory before it is linked.
    pub(crate) image: Vec<u8>,
}

impl New {
    /// Reads and checks a file.
    pub(crate) fn read(file: &[u8]) -> Result<Self, Malformed> {
        let shape = Shape::parse(file)?;
        let image = shape.lay_out(file)?;
        let linked = Linked::parse(image.as_slice(), shape.dynamic, 0, Depth::Whole)?;
        let new = Self { shape, linked, image };
        new.check()?;
        Ok(new)
    }

    fn check(&self) -> Result<(), Malformed> {
        for it in &self.shape.segments {
            if it.rights & (WRITE | EXECUTE) == WRITE | EXECUTE {
                return Err("a part of it could be written and executed");
            }
            if it.rights & WRITE == 0 && it.in_file != it.in_memory {
                return Err("a part of it that cannot be written is longer than its file");
            }
        }
        if self.shape.has_threads_data {
            return Err("it has data of its own for each thread");
        }
        if self.linked.tag(tag::TEXT_RELOCATIONS).is_some() {
            return Err("its code is changed when it is linked");
        }
        if self.linked.exported().any(|(_, it)| it.kind() == Kind::Indirect) {
            return Err("it has functions that choose functions");
        }
        for it in &self.linked.relocations {
            match it.kind {
                kind::NONE => continue,
                kind::WORD | kind::GLOBAL | kind::JUMP | kind::RELATIVE => {}
                kind::INDIRECT => return Err("it has functions that choose functions"),
                _ => return Err("it is linked in a way that is not known here"),
            }
            self.must_be_writable(it.at)?;
        }
        self.linked.relative.iter().try_for_each(|at| self.must_be_writable(*at))?;
        if !self.does_nothing_by_itself() {
            return Err("it has something to do at its beginning or end");
        }
        Ok(())
    }

    fn must_be_writable(&self, at: u64) -> Result<(), Malformed> {
        let segment = self.shape.segment(at, 8).filter(|it| it.rights & WRITE != 0);
        segment.map(drop).ok_or("it is linked where it cannot be written")
    }

    /// Whether what is done when it is loaded and unloaded is what every library has, and nothing.
    pub(crate) fn does_nothing_by_itself(&self) -> bool {
        let of_table = |at: u64, length: u64| -> Option<Vec<u64>> {
            let (at, length) = (self.linked.place(at), self.linked.tag(length));
            let Some((at, length)) = at.zip(length) else { return Some(Vec::new()) };
            if length > LONGEST_LIST {
                return None;
            }
            (0..length / 8).map(|index| self.pointer(at.checked_add(index * 8)?)).collect()
        };
        let single = |at| self.linked.place(at).filter(|it| *it != 0);
        let all = |list: Option<Vec<u64>>, is_nothing: fn(&Self, u64) -> bool| {
            list.is_some_and(|list| list.iter().all(|at| is_nothing(self, *at)))
        };
        single(tag::INIT).is_none_or(|at| self.begins(at, INIT))
            && single(tag::FINI).is_none_or(|at| self.begins(at, FINI))
            && all(of_table(tag::INIT_ARRAY, tag::INIT_ARRAY_SIZE), Self::is_empty_beginning)
            && all(of_table(tag::FINI_ARRAY, tag::FINI_ARRAY_SIZE), |it, at| it.begins(at, END))
    }

    /// The pointer that a word will be, where it is in the library itself.
    fn pointer(&self, at: u64) -> Option<u64> {
        match self.linked.relocations.iter().find(|it| it.at == at) {
            Some(it) => (it.kind == kind::RELATIVE).then_some(it.addend),
            None => self.image.word(at).ok(),
        }
    }

    /// Compilers' `frame_dummy` jumps to `register_tm_clones`, which has none to register.
    fn is_empty_beginning(&self, at: u64) -> bool {
        const JUMP: &[i16] = &[0xe9];
        let at = self.behind_mark(at);
        if !self.begins(at, JUMP) {
            return false;
        }
        let mut distance = [0; 4];
        let read = at.checked_add(1).and_then(|it| self.image.read(it, &mut distance));
        let target = at.wrapping_add(5).wrapping_add(i64::from(i32::from_le_bytes(distance)) as u64);
        read.is_some() && self.begins(target, REGISTER)
    }

    /// Where code begins behind the mark of a place that may be jumped to.
    fn behind_mark(&self, at: u64) -> u64 {
        const MARK: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
        let mut code = [0; 4];
        match self.image.read(at, &mut code) {
            Some(()) if code == MARK => at + 4,
            _ => at,
        }
    }

    fn begins(&self, at: u64, pattern: &[i16]) -> bool {
        let mut code = vec![0; pattern.len()];
        let read = self.image.read(self.behind_mark(at), &mut code);
        read.is_some() && code.iter().zip(pattern).all(|(is, wanted)| *wanted == ANY || *wanted == i16::from(*is))
    }

    /// Links it to be at that address; `resolve` gives what a symbol is.
    pub(crate) fn link(
        &self,
        base: u64,
        mut resolve: impl FnMut(u32) -> Result<u64, Trouble>,
    ) -> Result<Vec<u8>, Trouble> {
        let mut image = self.image.clone();
        let mut put = |at: u64, value: u64| {
            if let Some(word) = image.get_mut(at as usize..at as usize + 8) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        };
        for at in &self.linked.relative {
            put(*at, number::<8>(&self.image, *at as usize).wrapping_add(base));
        }
        for it in &self.linked.relocations {
            match it.kind {
                kind::NONE => {}
                kind::RELATIVE => put(it.at, base.wrapping_add(it.addend)),
                kind::WORD => put(it.at, resolve(it.symbol)?.wrapping_add(it.addend)),
                _ => put(it.at, resolve(it.symbol)?),
            }
        }
        Ok(image)
    }
}

/// A byte of code that may be any.
const ANY: i16 = -1;

/// `_init`: calls what profilers define, if it is there.
const INIT: &[i16] = &[
    0x48, 0x83, 0xec, 8, 0x48, 0x8b, 5, ANY, ANY, ANY, ANY, 0x48, 0x85, 0xc0, 0x74, 2, 0xff, 0xd0, 0x48, 0x83, 0xc4, 8,
    0xc3,
];

/// `_fini`.
const FINI: &[i16] = &[0x48, 0x83, 0xec, 8, 0x48, 0x83, 0xc4, 8, 0xc3];

/// `register_tm_clones`.
const REGISTER: &[i16] =
    &[0x48, 0x8d, 0x3d, ANY, ANY, ANY, ANY, 0x48, 0x8d, 0x35, ANY, ANY, ANY, ANY, 0x48, 0x29, 0xfe];

/// `__do_global_dtors_aux`.
const END: &[i16] = &[0x80, 0x3d, ANY, ANY, ANY, ANY, 0, 0x75];
