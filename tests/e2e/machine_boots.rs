//! Debian's kernels start, to a program and to switching off: for each architecture, from an image's root and from a disk's,
//! with one processor and with two. `SKEP_BOOTS` says how often in a row; once, unless it does.

use skep_tests::Run;

use super::machine_disks::System;

/// What each boot is to do: all processors are there, and compute.
const SCRIPT: &str = "echo processors $(busybox nproc); (busybox seq 1 2000 | busybox md5sum) & busybox seq 1 2000 | busybox md5sum; wait";

fn boots() -> u32 {
    std::env::var("SKEP_BOOTS").map_or(1, |it| it.parse().unwrap())
}

/// Boots again and again, and looks at what each printed.
#[track_caller]
fn each(processors: u32, boot: impl Fn(&str) -> Run) {
    for number in 0..boots() {
        let run = boot(&processors.to_string());
        let said = format!("boot {number} with {processors}: {}{}", run.out, run.err);
        assert_eq!(run.code, 0, "{said}");
        assert!(run.out.contains(&format!("processors {processors}")), "{said}");
        let sums: Vec<&str> = run.out.lines().filter_map(|it| it.trim().strip_suffix("  -")).collect();
        assert!(sums.len() == 2 && sums[0] == sums[1], "{said}");
    }
}

fn of_images(arch: &'static str) {
    let Some(system) = System::new(arch) else { return };
    for processors in [1, 2] {
        each(processors, |cpus| {
            let options =
                ["run", "--rm", "--net", "none", "--cpus", cpus, system.image(), "--", "busybox", "sh", "-c", SCRIPT];
            system.env.skep(options)
        });
    }
}

fn of_disks(arch: &'static str) {
    let Some(system) = System::new(arch) else { return };
    let disk = system.disk("disk.img", &format!("{SCRIPT}\nsync; poweroff -f\n"));
    for processors in [1, 2] {
        each(processors, |cpus| system.run(["--rm", "--net", "none", "--cpus", cpus], disk.to_str().unwrap()));
    }
}

#[test]
fn arm_kernels_start_with_an_images_root() {
    of_images("arm64");
}

#[test]
fn arm_kernels_start_with_a_disks_root() {
    of_disks("arm64");
}

#[test]
fn riscv_kernels_start_with_an_images_root() {
    of_images("riscv64");
}

#[test]
fn riscv_kernels_start_with_a_disks_root() {
    of_disks("riscv64");
}
