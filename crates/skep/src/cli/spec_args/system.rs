//! A cell that is a whole system of a disk's: what it can be told, and what is refused of what only an image's can.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::CellRequest;
use model::{Arch, Boundary, CellSpec, DiskFormat, DiskSpec, FirstProgram, NetMode};

use super::SpecArgs;
use crate::error::{CommandError, Kind, Result};

/// What a file of qcow2 begins with.
const QCOW2: &[u8; 4] = b"QFI\xfb";

impl SpecArgs {
    /// The specification of a cell without an image.
    pub(super) fn specify_system(self, engine: &engine::Engine) -> Result<CellSpec> {
        let arch = self.arch.unwrap_or(Arch::HOST);
        if self.boundary.is_some_and(|it| it != Boundary::Machine) {
            return Err(CommandError::usage("the system of a disk needs a machine").hinted("leave out --as"));
        }
        if arch == Arch::HOST {
            engine::native_machines()?;
        } else if engine::machine_processor(arch).is_none() {
            let what = format!("there are no machines for {arch}");
            return Err(CommandError::new(Kind::Unsupported, what)
                .hinted("--arch arm64 or --arch riscv64 says which the disk's system is for"));
        }
        if self.net == NetMode::Host {
            return Err(CommandError::usage("a machine has a kernel of its own, and so a network of its own")
                .hinted("leave out --net host; -p leads ports of the host into it"));
        }
        if let Some(option) = self.of_programs() {
            let what = format!("{option} is for programs of an image: the disk's system has its own");
            return Err(CommandError::usage(what).hinted("--cloud-init tells a system what to make of itself"));
        }
        let (id, record) = image::of_disk(engine.store(), arch)?;
        let machine = Some(self.machine(engine, &record, FirstProgram::Disks)?);
        let name = self.disk.first().map_or_else(String::new, |it| format!("disk:{}", it.file.display()));
        let stop_signal = self.stop_signal.clone();
        let request = CellRequest { machine, ..self.request(stop_signal.as_deref(), Boundary::Machine)? };
        let image = engine::NamedImage { name: &name, id, record: &record };
        engine::specify(request, image, engine.fresh_id()?, engine::now())
            .map_err(|engine::NoCommand| CommandError::usage("the disk's system has no first program"))
    }

    /// An option that was given and says something about a program of an image, or its root.
    fn of_programs(&self) -> Option<&'static str> {
        let given = [
            (!self.env.is_empty(), "--env"),
            (self.workdir.is_some(), "--workdir"),
            (self.user.is_some(), "--user"),
            (self.entrypoint.is_some(), "--entrypoint"),
            (!self.volume.is_empty(), "--volume"),
            (!self.tmpfs.is_empty(), "--tmpfs"),
            (self.read_only, "--read-only"),
            (self.configure, "--configure"),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, option)| option)
    }
}

/// A disk, by its whole path. A file that has the looks of a format that nobody has called it is not taken for it, and not
/// for anything else either.
pub(super) fn disk(disk: &DiskSpec) -> Result<DiskSpec> {
    let path = std::path::absolute(&disk.file)?;
    let is_named = disk.file.extension().is_some_and(|it| it == "qcow2" || it == "img" || it == "raw");
    if disk.format == DiskFormat::Raw && !is_named && begins_with(&path, QCOW2) {
        let file = disk.file.display();
        return Err(CommandError::usage(format!("{file} has the looks of a qcow2 file, and not the name of one"))
            .hinted(format!("--disk qcow2:{file} if you made it, --disk raw:{file} if a machine wrote that")));
    }
    Ok(DiskSpec { file: path, ..disk.clone() })
}

fn begins_with(path: &Path, bytes: &[u8; 4]) -> bool {
    let mut found = [0; 4];
    File::open(path).and_then(|file| file.read_exact_at(&mut found, 0)).is_ok() && found == *bytes
}
