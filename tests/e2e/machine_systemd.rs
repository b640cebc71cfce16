//! A whole system of another processor from its disk: Debian's, with systemd as its process 1 and all that it starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

/// With apt it is a system that nothing is left out of.
const IMAGE: &str = "deb:systemd-sysv,udev,dbus,login,kmod,iproute2,apt/arm64";

/// Waits for the end of the start, and tells what became of it.
const PROOF: &str = "[Unit]\nDescription=What became of the start\n\
    [Service]\nExecStart=/bin/sh -c '\
    { echo \"state: $$(systemctl is-system-running --wait)\"; systemctl --failed --plain --no-legend; \
    journalctl -b -o cat -u multi-user.target; dpkg --audit; } > /kept; \
    cat /kept > /dev/console'\n";

/// The root file system of an image in a directory, as the host's tar makes it of a layer.
fn unpack(env: &TestEnv, image: &str) -> PathBuf {
    let (layout, root) = (env.scratch().join("layout"), env.scratch().join("root"));
    env.skep(["image", "export", image, &format!("oci:{}", layout.display())]).ok();
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|it| it.unwrap().path());
    let layer = blobs.max_by_key(|it| it.metadata().unwrap().len()).unwrap();
    std::fs::create_dir(&root).unwrap();
    done(Command::new("tar").arg("--numeric-owner").arg("-xf").arg(layer).arg("-C").arg(&root));
    root
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What somebody who sets up a machine settles: without it the first start asks.
fn settle(root: &Path) {
    let etc = root.join("etc");
    std::fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::write(etc.join("hostname"), "box\n").unwrap();
    std::fs::write(etc.join("systemd/system/proof.service"), PROOF).unwrap();
    let wants = etc.join("systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink("../proof.service", wants.join("proof.service")).unwrap();
}

#[test]
fn debian_starts_with_all_its_services_from_a_disk() {
    if !can_run(&["root", "mke2fs", "debugfs"]) {
        return;
    }
    let env = TestEnv::with(IMAGE);
    let root = unpack(&env, IMAGE);
    settle(&root);
    let disk = env.scratch().join("disk.img");
    done(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&disk).arg("700M"));
    let disk = disk.to_str().unwrap();
    let options = ["-m", "1g", "--net", "none", "--disk", disk];
    env.skep(["run", "-d", "--name", "m", "--arch", "arm64"].iter().chain(&options)).ok();
    let said = || env.skep(["logs", "m"]).out;
    until("somebody may log in", || said().contains("box login:") && said().contains("state: "));
    env.skep(["stop", "--time", "60s", "m"]).ok();
    for what in ["Welcome to ", "state: running", "Finished ", "reboot: Restarting system"] {
        assert!(said().contains(what), "{what}: {}", said());
    }
    assert!(env.skep(["why", "m"]).out.contains("exit code 0"), "{}", env.skep(["why", "m"]).out);
    // No unit has failed, and no package is half there.
    let kept = done(Command::new("debugfs").args(["-R", "cat /kept", disk]));
    assert_eq!(kept, "state: running\nReached target multi-user.target - Multi-User System.\n");
}
