//! The beginning of a boot of Debian's kernels, translated and interpreted at once: all registers of both are the same
//! wherever generated code turns back. `SKEP_LOCKSTEP` says how many instructions; `cargo xtask lockstep` does whole boots.

use dbt::{Mode, Stretch};
use machine::{Arch, Devices, Image, Outside, Pair, Serial, Start};
use skep_tests::{TestEnv, can_run};

/// Some seconds.
const INSTRUCTIONS: u64 = 9_000_000;

fn check(arch: Arch, image: &str, kernel: &str, command_line: &str) {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(image);
    // Its kernel is fetched with the first cell that needs it.
    env.skep(["create", "--net", "none", image, "--", "busybox"]).ok();
    let kernel = env.home().join("cache/kernels").join(kernel).join("kernel");
    let kernel = std::fs::read(&kernel).unwrap_or_else(|error| panic!("{}: {error}", kernel.display()));
    let start = |mode| Start {
        kernel: Image::Bytes(&kernel),
        initrd: &[],
        command_line,
        memory: 128 << 20,
        processors: 1,
        mode,
        serial: Serial { output: Box::new(std::io::sink()), input: None },
        devices: Devices::default(),
        outside: Outside::Nothing,
    };
    let wanted = std::env::var("SKEP_LOCKSTEP").map_or(INSTRUCTIONS, |it| it.parse().unwrap());
    const MODES: [Mode; 3] = [Mode::TranslateAll, Mode::Translate, Mode::TranslateRegions];
    let each = wanted / MODES.len() as u64;
    for mode in MODES {
        let mut pair = Pair::new(&machine::isa(arch).unwrap(), mode, start).unwrap();
        match pair.run(Stretch::Turn, each) {
            Ok(end) => assert_eq!(end, None, "{mode:?}: it ended after {} instructions", pair.instructions()),
            Err(parted) => panic!("{mode:?}: {parted}"),
        }
        assert_eq!(pair.differs_at(), None, "{mode:?}: memory differs");
        // It has done something, and was compared.
        assert!(pair.instructions() >= each && pair.blocks() > 100, "{mode:?}");
        assert!(pair.stretches() > wanted / 1000, "{mode:?}: {} stretches", pair.stretches());
    }
}

#[test]
fn an_arm_kernel_begins_in_lockstep() {
    check(Arch::Arm64, "deb:busybox-static/arm64", "arm64-default", "console=ttyAMA0 panic=-1");
}

#[test]
fn a_riscv_kernel_begins_in_lockstep() {
    check(Arch::Riscv64, "deb:busybox-static@trixie/riscv64", "riscv64-trixie", "console=ttyS0 panic=-1");
}
