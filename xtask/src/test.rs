//! `cargo xtask test`: every test, after installing what they need.

use std::process::Command;

use crate::debian::{self, Tool};
use crate::{Result, cargo, must};

/// Programs that tests run for real: servers, engines to compare with, checkers of our formats.
const TOOLS: &[Tool] = &[
    Tool { program: "aarch64-linux-gnu-objdump", package: "binutils-aarch64-linux-gnu" },
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "conmon", package: "conmon" },
    Tool { program: "containerd", package: "containerd" },
    Tool { program: "curl", package: "curl" },
    Tool { program: "docker-registry", package: "docker-registry" },
    Tool { program: "dockerd", package: "docker.io" },
    Tool { program: "debugfs", package: "e2fsprogs" },
    Tool { program: "e2fsck", package: "e2fsprogs" },
    Tool { program: "fio", package: "fio" },
    Tool { program: "fsck.erofs", package: "erofs-utils" },
    Tool { program: "gdb-multiarch", package: "gdb-multiarch" },
    Tool { program: "lxc-start", package: "lxc" },
    Tool { program: "mke2fs", package: "e2fsprogs" },
    Tool { program: "newuidmap", package: "uidmap" },
    Tool { program: "podman", package: "podman" },
    Tool { program: "qemu-aarch64", package: "qemu-user" },
    Tool { program: "qemu-riscv64", package: "qemu-user" },
    Tool { program: "qemu-img", package: "qemu-utils" },
    Tool { program: "riscv64-linux-gnu-objdump", package: "binutils-riscv64-linux-gnu" },
    Tool { program: "runc", package: "runc" },
    Tool { program: "skopeo", package: "skopeo" },
    Tool { program: "systemd-nspawn", package: "systemd-container" },
    Tool { program: "umoci", package: "umoci" },
];

pub(crate) fn run(filters: &[&str]) -> Result {
    let missing = debian::ensure(TOOLS);
    for (tool, why) in &missing {
        println!("xtask: SKIPPING the tests that need {}: {why}", tool.program);
    }
    if !rustix::process::geteuid().is_root() {
        println!("xtask: SKIPPING the tests that need root: run this as root to have them");
    }
    // The end-to-end tests run the binary itself.
    must(&mut cargo(&["build", "--package", "skep"]))?;
    let mut tests = if has_nextest() {
        let mut command = cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "fail"]);
        command.args(["--failure-output", "final"]);
        command
    } else {
        println!("xtask: cargo-nextest is not installed; cargo test does the same, more slowly");
        cargo(&["test", "--workspace", "--no-fail-fast"])
    };
    let names: Vec<_> = missing.iter().map(|(tool, _)| tool.program).collect();
    must(tests.args(filters).env("SKEP_TESTS_WITHOUT", names.join(",")))
}

fn has_nextest() -> bool {
    let version = Command::new("cargo-nextest").args(["nextest", "--version"]).output();
    version.is_ok_and(|it| it.status.success())
}
