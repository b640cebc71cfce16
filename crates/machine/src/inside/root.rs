//! What a machine finds at its start: the agent, the kernel's modules, and the records that the agent begins with.

use super::agent;
use super::archive::Archive;
use super::guest::Network;
use super::link::{LINE, serve};
use super::script::{Call, Script, Value};
use super::setup;
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
    begin(&mut script, modules);
    find_line(&mut script);
    // Ends of programs are heard of by a descriptor.
    let ends = script.data(&(1u64 << 16).to_le_bytes());
    script.call(Call::RtSigprocmask, [0.into(), ends.into(), 0.into(), 8.into()]);
    let server = serve(&mut script);
    First { archive: archive(arch, modules, &script), server }
}

/// What comes first: devices, streams, modules.
fn begin(script: &mut Script, modules: &[Module]) {
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
}

/// The agent with its first records, and the modules.
fn archive(arch: Arch, modules: &[Module], script: &Script) -> Vec<u8> {
    let mut archive = Archive::default();
    ["dev", "modules", "root"].iter().for_each(|it| archive.directory(it));
    for (number, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{number}"), &module.content);
    }
    archive.file("init", &agent::file(arch, &script.encode(arch, agent::RECORDS)));
    archive.finish()
}

/// Makes it for a machine whose system is on a disk.
pub(super) fn of_disk(arch: Arch, modules: &[Module], network: Option<&Network>) -> Vec<u8> {
    archive(arch, modules, &for_disk(modules, network))
}

fn for_disk(modules: &[Module], network: Option<&Network>) -> Script {
    let mut script = Script::new();
    begin(&mut script, modules);
    find_line(&mut script);
    find_system(&mut script, network);
    script
}

/// Says a word to the host.
fn say(script: &mut Script, word: u8) {
    let word = script.data(&[word]);
    script.call(Call::Write, [LINE.into(), word.into(), 1.into()]);
}

/// Becomes process 1 of the first disk that has one.
fn find_system(script: &mut Script, network: Option<&Network>) {
    /// How often it is looked for, with a moment between. Whatever has a driver is there when that was loaded.
    const TRIES: usize = 2;
    const MOVE: i64 = 8192;
    const THE_LINK_ITSELF: i64 = 0x100;
    let (root, kind) = (script.text("/root"), script.text("ext4"));
    let (init, status) = (script.text("/root/sbin/init"), script.room(256));
    let moment = script.data(&[0u64.to_le_bytes(), 500_000_000u64.to_le_bytes()].concat());
    let (found, over) = (script.label(), script.label());
    let disks = ["vda", "vdb", "vdc", "vdd"];
    let parts = disks.iter().flat_map(|disk| (0..16).map(move |part| (disk, part)));
    let names = parts.map(|(disk, part)| if part == 0 { format!("/dev/{disk}") } else { format!("/dev/{disk}{part}") });
    let devices: Vec<_> = names.map(|name| script.text(name)).collect();
    for _ in 0..TRIES {
        for device in &devices {
            let (next, unmount) = (script.label(), script.label());
            let mounted = script.call(Call::Mount, [(*device).into(), root.into(), kind.into(), 0.into(), 0.into()]);
            script.jump_if_equal(mounted.into(), 0.into(), unmount);
            script.jump(next);
            script.place(unmount);
            let is_there =
                script.call(Call::Newfstatat, [HERE.into(), init.into(), status.into(), THE_LINK_ITSELF.into()]);
            script.jump_if_equal(is_there.into(), 0.into(), found);
            script.call(Call::Umount2, [root.into(), 0.into()]);
            script.place(next);
        }
        script.call(Call::Nanosleep, [moment.into(), 0.into()]);
    }
    say(script, super::whole::NOTHING);
    script.jump(over);
    script.place(found);
    setup::connect(script, network);
    let (dev, new_dev, here, top) = (script.text("/dev"), script.text("/root/dev"), script.text("."), script.text("/"));
    script.call(Call::Mount, [dev.into(), new_dev.into(), 0.into(), MOVE.into(), 0.into()]);
    script.call(Call::Chdir, [root.into()]);
    script.call(Call::Mount, [here.into(), top.into(), 0.into(), MOVE.into(), 0.into()]);
    script.call(Call::Chroot, [here.into()]);
    script.call(Call::Chdir, [top.into()]);
    let console = script.text("/dev/console");
    for descriptor in 0..3 {
        script.call(Call::Close, [descriptor.into()]);
    }
    for _ in 0..3 {
        script.call(Call::Openat, [HERE.into(), console.into(), READ_WRITE.into()]);
    }
    say(script, super::whole::READY);
    let program = script.text("/sbin/init");
    let (arguments, environment) = (script.texts(&["/sbin/init"]), script.texts(&["HOME=/", "TERM=vt100"]));
    script.call(Call::Execve, [program.into(), arguments.into(), environment.into()]);
    say(script, super::whole::NO_PROGRAM);
    // Whoever is process 1 does not end; the host ends the machine.
    script.place(over);
    let again = script.label();
    script.place(again);
    script.call(Call::Nanosleep, [moment.into(), 0.into()]);
    script.jump(again);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_records_have_room() {
        let modules = vec![Module { name: "some_module".into(), content: Vec::new() }; 40];
        let length = for_disk(&modules, None).encode(Arch::Arm64, agent::RECORDS).len() as u64;
        assert!(length < agent::MESSAGE - agent::RECORDS - (8 << 10), "{length}");
    }
}
