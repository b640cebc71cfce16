//! A system call profile in the form that docker, podman and OCI runtimes take.

use std::collections::BTreeSet;

use model::Arch;
use serde_json::{Value, json};

/// Lets through the calls that were seen and the baseline that every program needs; all others fail with `EPERM`.
pub fn profile<'a>(calls: impl IntoIterator<Item = &'a str>, arch: Arch) -> Value {
    let names: BTreeSet<&str> = calls.into_iter().collect();
    let architectures: &[&str] = match arch {
        Arch::Amd64 => &["SCMP_ARCH_X86_64"],
        Arch::Arm64 => &["SCMP_ARCH_AARCH64"],
        Arch::Riscv64 => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures,
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_said_once() {
        let profile = profile(["write", "read", "write"], Arch::Amd64);
        assert_eq!(profile["syscalls"][0]["names"], json!(["read", "write"]));
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    }
}
