//! The architectures, what they run on, and what is promised of each.

/// An architecture.
pub(super) struct Target {
    pub(super) name: &'static str,
    /// What Debian calls it.
    pub(super) debian: &'static str,
    /// The release that has a kernel for it, and a name that depends on the newest.
    pub(super) suite: &'static str,
    pub(super) kernel: &'static str,
    pub(super) console: &'static str,
    /// qemu's program and machine.
    pub(super) qemu: (&'static str, &'static str),
    /// Its fastest configurations.
    pub(super) peers: &'static [Peer],
    /// How many times faster CoreMark has to be.
    pub(super) coremark: f64,
    /// How many times faster each set has to be, its programs' geometric mean.
    pub(super) integer: f64,
    pub(super) float: f64,
    /// How long its description may be.
    pub(super) lines: f64,
}

/// qemu in one of its configurations.
pub(super) struct Peer {
    /// What it is called in a table.
    pub(super) name: &'static str,
    pub(super) processor: &'static str,
    /// What the kernel is told.
    pub(super) arguments: &'static str,
}

const MAX: &str = "max,pauth-impdef=on";
const NEOVERSE: &str = "neoverse-n1";
/// A kernel whose addresses are random hides itself from programs whatever else it is told.
const OFF: &str = "mitigations=off nokaslr kpti=off";

pub(super) const ARM: Target = Target {
    name: "aarch64",
    debian: "arm64",
    suite: "bookworm",
    kernel: "linux-image-arm64",
    console: "ttyAMA0",
    qemu: ("qemu-system-aarch64", "virt,gic-version=3"),
    peers: &[
        Peer { name: "max", processor: MAX, arguments: "" },
        Peer { name: "max off", processor: MAX, arguments: OFF },
        Peer { name: "n1", processor: NEOVERSE, arguments: "" },
        Peer { name: "n1 off", processor: NEOVERSE, arguments: OFF },
    ],
    coremark: 2.2,
    integer: 2.0,
    float: 4.0,
    lines: 12_000.0,
};

pub(super) const RISCV: Target = Target {
    name: "riscv64",
    debian: "riscv64",
    suite: "trixie",
    kernel: "linux-image-riscv64",
    console: "ttyS0",
    qemu: ("qemu-system-riscv64", "virt"),
    peers: &[Peer { name: "rv64", processor: "rv64", arguments: "" }],
    coremark: 1.5,
    integer: 1.5,
    float: 3.0,
    lines: 4_000.0,
};
