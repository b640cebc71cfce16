//! What a machine finds at its start: the agent, the kernel's modules, and the records that the agent begins with.

use super::agent;
use super::archive::Archive;
use super::link::{LINE, serve};
use super::script::{Call, Script, Value};
use crate::arch::Arch;

/// A module of the kernel.
#[derive(Debug, Clone)]
pub struct Module {
    /// What it is called.
    pub name: String,
    /// Its file.
    pub content: Vec<u8>,
}

/// A machine's first root file system, and where in its agent it serves.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) archive: Vec<u8>,
    pub(crate) server: u64,
}

/// The current directory, for calls that take one.
pub(crate) const HERE: i64 = -100;
pub(crate) const READ_WRITE: i64 = 2;
pub(crate) const CLOSE_ON_EXEC: i64 = 0o2_000_000;
const ABSENT: i64 = -2;
/// So many devices of virtio may come before the one with the line.
const DEVICES: u32 = 8;

/// Makes it.
pub(crate) fn first(arch: Arch, modules: &[Module]) -> First {
    let mut script = Script::new();
    let (dev, devtmpfs, null) = (script.text("/dev"), script.text("devtmpfs"), script.text("/dev/null"));
    script.call(Call::Mount, [dev.into(), dev.into(), devtmpfs.into(), 0.into(), 0.into()]);
    // The three that every program takes for its streams are taken.
    for _ in 0..3 {
        script.call(Call::Openat, [HERE.into(), null.into(), READ_WRITE.into()]);
    }
    let nothing = script.text("");
    for (number, _) in modules.iter().enumerate() {
        let path = script.text(format!("/modules/{number}"));
        let file = script.call(Call::Openat, [HERE.into(), path.into(), CLOSE_ON_EXEC.into()]);
        script.call(Call::FinitModule, [file.into(), nothing.into(), 0.into()]);
        script.call(Call::Close, [file.into()]);
    }
    find_line(&mut script);
    // Ends of programs are heard of by a descriptor.
    let ends = script.data(&(1u64 << 16).to_le_bytes());
    script.call(Call::RtSigprocmask, [0.into(), ends.into(), 0.into(), 8.into()]);
    let server = serve(&mut script);
    let mut archive = Archive::default();
    ["dev", "modules", "root"].iter().for_each(|it| archive.directory(it));
    for (number, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{number}"), &module.content);
    }
    archive.file("init", &agent::file(arch, &script.encode(agent::RECORDS)));
    First { archive: archive.finish(), server }
}

/// Waits for the port to the host: its driver makes it when it has spoken with the device.
fn find_line(script: &mut Script) {
    let (again, found) = (script.label(), script.label());
    let moment = script.data(&[0u64.to_le_bytes(), 500_000u64.to_le_bytes()].concat());
    script.place(again);
    for device in 0..DEVICES {
        let next = script.label();
        let path = script.text(format!("/dev/vport{device}p1"));
        let port = script.call(Call::Openat, [HERE.into(), path.into(), (READ_WRITE | CLOSE_ON_EXEC).into()]);
        script.jump_if_equal(port.into(), ABSENT.into(), next);
        script.call(Call::Dup3, [port.into(), LINE.into(), CLOSE_ON_EXEC.into()]);
        script.jump(found);
        script.place(next);
    }
    script.call(Call::Nanosleep, [Value::Data(moment), 0.into()]);
    script.jump(again);
    script.place(found);
}
