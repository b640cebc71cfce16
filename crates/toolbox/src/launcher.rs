//! Programs of a toolbox run where their loader and libraries are not in their usual places.
//!
//! A dynamic program names its loader by an absolute path, which leads into the target when the target's file system is
//! the root. A **launcher** is a tiny static program that executes the toolbox's own loader with the directories of its
//! libraries and the program: what the loader then starts has an environment as clean as if it had been executed itself, so
//! whatever a tool starts in turn finds its own libraries and not the toolbox's.

/// A static x86-64 program that executes `prefix[0]` with the arguments `prefix`, followed by its own arguments from the
/// second on, in its own environment. It ends with 127 when that fails.
///
/// One segment, mapped readable and executable at a fixed address; see the System V gABI (ELF header, program header) and
/// the x86-64 psABI, 3.4.1 (what is on the stack when a program begins).
pub(crate) fn x86_64(prefix: &[&[u8]]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: usize = 64 + 56;
    let count = prefix.len() as u32;
    let mut code = Vec::with_capacity(96);
    code.extend([0xfc]); // cld
    code.extend([0x48, 0x8b, 0x1c, 0x24]); // mov rbx, [rsp]: how many arguments
    code.extend([0x4c, 0x8d, 0x44, 0x24, 0x08]); // lea r8, [rsp+8]: the arguments
    code.extend([0x49, 0x8d, 0x54, 0xd8, 0x08]); // lea rdx, [r8+rbx*8+8]: the environment
    code.extend([0x48, 0x8d, 0x8b]); // lea rcx, [rbx+count]
    code.extend(count.to_le_bytes());
    code.extend([0x48, 0xc1, 0xe1, 0x03]); // shl rcx, 3
    code.extend([0x48, 0x29, 0xcc]); // sub rsp, rcx: room for the new arguments
    code.extend([0x48, 0x89, 0xe7]); // mov rdi, rsp
    code.extend([0x48, 0x8d, 0x35]); // lea rsi, [rip+table]
    let table_at = code.len();
    code.extend([0; 4]);
    code.extend([0xb9]); // mov ecx, count
    code.extend(count.to_le_bytes());
    code.extend([0xf3, 0x48, 0xa5]); // rep movsq: the prefix
    code.extend([0x49, 0x8d, 0x70, 0x08]); // lea rsi, [r8+8]
    code.extend([0x48, 0x89, 0xd9]); // mov rcx, rbx
    code.extend([0xf3, 0x48, 0xa5]); // rep movsq: the arguments from the second on, and the zero
    code.extend([0x48, 0x8b, 0x3c, 0x24]); // mov rdi, [rsp]
    code.extend([0x48, 0x89, 0xe6]); // mov rsi, rsp
    code.extend([0xb8, 59, 0, 0, 0, 0x0f, 0x05]); // execve
    code.extend([0xbf, 127, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // exit(127)
    let table = code.len();
    let distance = (table - table_at - 4) as u32;
    code.splice(table_at..table_at + 4, distance.to_le_bytes());

    let mut strings = Vec::new();
    let first = BASE + (HEADERS + table + 8 * prefix.len()) as u64;
    for text in prefix {
        code.extend((first + strings.len() as u64).to_le_bytes());
        strings.extend_from_slice(text);
        strings.push(0);
    }
    code.extend(strings);

    let size = (HEADERS + code.len()) as u64;
    let mut file = Vec::with_capacity(HEADERS + code.len());
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    file.extend((BASE + HEADERS as u64).to_le_bytes());
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    file.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    for number in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_launcher_puts_its_prefix_before_its_own_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let check = |prefix: &[&[u8]], arguments: &[&str], expected: &str| {
            let path = dir.path().join(format!("launcher{}", arguments.len()));
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path).unwrap();
            file.write_all(&x86_64(prefix)).unwrap();
            drop(file);
            let output = Command::new(&path).args(arguments).env("BEE", "busy").output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{:?}", output.status);
        };
        let show: &[u8] = b"echo \"$BEE $0\"; for it; do echo \"<$it>\"; done";
        check(&[b"/bin/sh", b"-c", show, b"zero"], &[], "busy zero\n");
        check(&[b"/bin/sh", b"-c", show, b"zero", b"one two"], &["", "three"], "busy zero\n<one two>\n<>\n<three>\n");
        check(&[b"/no/such/file"], &["x"], "");
    }
}
