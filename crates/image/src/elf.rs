//! What a dynamic ELF file asks its loader for: interpreter, libraries, search paths.
//!
//! System V gABI, chapters 4 and 5. **The file may be hostile:** every offset is checked against the file's length, and a
//! string or table that lies outside is damage. Both classes and both byte orders are read, as the processor may be any.

use model::Arch;

use crate::{Error, Result};

/// The most libraries or search directories of one file.
const MAX_ENTRIES: usize = 4096;

/// What the loader needs to know of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    /// The processor it is for, when it is one of ours.
    pub(crate) arch: Option<Arch>,
    /// 32 or 64.
    pub(crate) class: u8,
    /// The loader's path: absent from libraries and static programs.
    pub(crate) interpreter: Option<Vec<u8>>,
    /// Names of libraries it needs, in order.
    pub(crate) needed: Vec<Vec<u8>>,
    /// `DT_RPATH`: searched first, inherited by libraries.
    pub(crate) rpath: Vec<Vec<u8>>,
    /// `DT_RUNPATH`: searched for its own libraries only, and silences the former.
    pub(crate) runpath: Vec<Vec<u8>>,
    /// Its own name as a library.
    pub(crate) soname: Option<Vec<u8>>,
}

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Whether that is the beginning of an ELF file.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The loader that a program asks for, when the file begins with these bytes: nothing for a static program, a library,
/// or what is no ELF file.
pub fn interpreter(beginning: &[u8]) -> Option<Vec<u8>> {
    if !is_elf(beginning) {
        return None;
    }
    let view = View { bytes: beginning, wide: beginning.get(4) == Some(&2), big: beginning.get(5) == Some(&2) };
    let segment = view.segments().ok()?.into_iter().find(|it| it.kind == PT_INTERP)?;
    let text = view.slice(segment.offset, segment.size).ok()?;
    text.split(|byte| *byte == 0).next().filter(|it| !it.is_empty()).map(<[u8]>::to_vec)
}

/// Reads numbers of the file's own width and byte order.
struct View<'a> {
    bytes: &'a [u8],
    wide: bool,
    big: bool,
}

#[derive(Clone, Copy)]
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

impl<'a> View<'a> {
    fn slice(&self, offset: u64, size: u64) -> Result<&'a [u8]> {
        let range =
            usize::try_from(offset).ok().zip(offset.checked_add(size).and_then(|end| usize::try_from(end).ok()));
        range
            .and_then(|(start, end)| self.bytes.get(start..end))
            .ok_or_else(|| Error::malformed("ELF file", "a table lies beyond its end"))
    }

    fn number(&self, offset: u64, size: u64) -> Result<u64> {
        let bytes = self.slice(offset, size)?;
        let fold = |value, byte: &u8| value << 8 | u64::from(*byte);
        Ok(if self.big { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) })
    }

    /// A field that is 4 or 8 bytes wide by the file's class, at either offset.
    fn word(&self, base: u64, narrow: u64, wide: u64) -> Result<u64> {
        let overflow = || Error::malformed("ELF file", "an offset overflows");
        if self.wide {
            self.number(base.checked_add(wide).ok_or_else(overflow)?, 8)
        } else {
            self.number(base.checked_add(narrow).ok_or_else(overflow)?, 4)
        }
    }

    fn segments(&self) -> Result<Vec<Segment>> {
        let table = self.word(0, 28, 32)?;
        let (entry, count) = if self.wide { (54, 56) } else { (42, 44) };
        let (size, count) = (self.number(entry, 2)?, self.number(count, 2)?);
        (0..count)
            .map(|i| {
                let at = table.saturating_add(i * size);
                Ok(Segment {
                    kind: self.number(at, 4)?,
                    offset: self.word(at, 4, 8)?,
                    address: self.word(at, 8, 16)?,
                    size: self.word(at, 16, 32)?,
                })
            })
            .collect()
    }
}

/// Reads the file's headers and dynamic section.
pub(crate) fn parse(bytes: &[u8]) -> Result<Elf> {
    if !is_elf(bytes) {
        return Err(Error::malformed("ELF file", "it does not begin like one"));
    }
    let (class, order) = (bytes.get(4).copied().unwrap_or(0), bytes.get(5).copied().unwrap_or(0));
    if !matches!((class, order), (1 | 2, 1 | 2)) {
        return Err(Error::malformed("ELF file", "an unknown class or byte order"));
    }
    let view = View { bytes, wide: class == 2, big: order == 2 };
    let machine = u16::try_from(view.number(18, 2)?).unwrap_or(0);
    let segments = view.segments()?;
    let mut elf = Elf {
        arch: Arch::from_elf_machine(machine),
        class: if class == 2 { 64 } else { 32 },
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        soname: None,
    };
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        elf.interpreter = Some(text(view.slice(segment.offset, segment.size)?));
    }
    if let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
        read_dynamic(&view, &segments, *dynamic, &mut elf)?;
    }
    Ok(elf)
}

fn read_dynamic(view: &View<'_>, segments: &[Segment], dynamic: Segment, elf: &mut Elf) -> Result<()> {
    let step = if view.wide { 16 } else { 8 };
    let mut entries = Vec::new();
    for i in 0..dynamic.size / step {
        let at = dynamic.offset.saturating_add(i * step);
        let tag = view.word(at, 0, 0)?;
        if tag == 0 {
            break;
        }
        if entries.len() >= 64 * MAX_ENTRIES {
            return Err(Error::limit("dynamic entries of an ELF file", 64 * MAX_ENTRIES));
        }
        entries.push((tag, view.word(at, 4, 8)?));
    }
    let find = |wanted: u64| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let Some(address) = find(DT_STRTAB) else { return Ok(()) };
    let home = segments.iter().find(|segment| {
        segment.kind == PT_LOAD && address >= segment.address && address - segment.address < segment.size
    });
    let home = home.ok_or_else(|| Error::malformed("ELF file", "its string table is not in the file"))?;
    let offset = home.offset.saturating_add(address - home.address);
    let strings = view.slice(offset, find(DT_STRSZ).unwrap_or(0))?;
    let string = |at: u64| -> Result<Vec<u8>> {
        let from = usize::try_from(at).ok().and_then(|at| strings.get(at..));
        from.map(text).ok_or_else(|| Error::malformed("ELF file", "a name lies beyond its string table"))
    };
    for (tag, value) in &entries {
        match *tag {
            DT_NEEDED if elf.needed.len() < MAX_ENTRIES => elf.needed.push(string(*value)?),
            DT_NEEDED => return Err(Error::limit("libraries of an ELF file", MAX_ENTRIES)),
            DT_RPATH => elf.rpath = search_path(&string(*value)?),
            DT_RUNPATH => elf.runpath = search_path(&string(*value)?),
            DT_SONAME => elf.soname = Some(string(*value)?),
            _ => {}
        }
    }
    Ok(())
}

/// The bytes up to the first zero.
fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

fn search_path(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&byte| byte == b':').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).take(MAX_ENTRIES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_machine_is_read() {
        let bytes = std::fs::read("/bin/ls").unwrap();
        let elf = parse(&bytes).unwrap();
        assert_eq!((elf.arch, elf.class), (Some(Arch::HOST), 64));
        assert!(elf.interpreter.is_some() && elf.needed.contains(&b"libc.so.6".to_vec()), "{elf:?}");
    }

    #[test]
    fn no_cut_and_no_flipped_byte_of_the_headers_panics() {
        let whole = std::fs::read("/bin/true").unwrap();
        for end in (0..whole.len()).step_by(97) {
            let _ = parse(&whole[..end]);
        }
        for at in 0..1024 {
            let mut bytes = whole.clone();
            for value in [0, 0x7f, 0xff] {
                bytes[at] = value;
                let _ = parse(&bytes);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(class in 0u8..4, order in 0u8..4, tail in proptest::collection::vec(0u8..255, 0..300)) {
            let _ = parse(&[b"\x7fELF".as_slice(), &[class, order], &tail].concat());
        }
    }
}
