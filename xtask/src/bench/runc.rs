//! Containers of runc, for comparison: bundles as `runc spec` makes them, with little in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Result, must};

/// A container that can be run. It is removed with this.
pub(super) struct Bundle {
    dir: PathBuf,
    state: PathBuf,
    name: String,
}

impl Bundle {
    fn new(dir: &Path, program: &Path, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let stem = program.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("skep-bench-{stem}-{}", std::process::id());
        let bundle = Self { dir: dir.join(&name), state: dir.join("runc"), name };
        for inside in ["proc", "sys", "dev"] {
            std::fs::create_dir_all(bundle.dir.join("rootfs").join(inside)).map_err(|e| e.to_string())?;
        }
        let path = bundle.dir.join("config.json");
        if !path.exists() {
            must(Command::new("runc").arg("spec").current_dir(&bundle.dir))?;
        }
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let mut spec: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        spec["process"]["terminal"] = false.into();
        // Not everybody may raise them.
        spec["process"]["rlimits"] = json!([]);
        change(&mut spec);
        std::fs::write(&path, spec.to_string()).map_err(|e| e.to_string())?;
        Ok(bundle)
    }

    /// Runs it in the foreground.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state).arg("run").arg("--bundle").arg(&self.dir).arg(&self.name);
        command
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let mut delete = Command::new("runc");
        delete.arg("--root").arg(&self.state).args(["delete", "--force", &self.name]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A container with that program, a static one, and nothing else.
pub(super) fn alone(dir: &Path, program: &Path) -> Result<Bundle> {
    let bundle = Bundle::new(dir, program, |spec| spec["process"]["args"] = json!(["/program"]))?;
    std::fs::copy(program, bundle.dir.join("rootfs/program")).map_err(|e| e.to_string())?;
    Ok(bundle)
}

/// A container in which a program finds the host's files where it looks for them, and its network.
pub(super) fn with_the_hosts_files(dir: &Path, program: &Path, arguments: &[String]) -> Result<Bundle> {
    const SHOWN: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/var"];
    let mount = |path: &str| json!({"destination": path, "source": path, "options": ["bind", "rw"]});
    let dir_text = dir.to_string_lossy().into_owned();
    Bundle::new(dir, program, |spec| {
        let words = std::iter::once(program.to_string_lossy().into_owned()).chain(arguments.iter().cloned());
        spec["process"]["args"] = words.collect::<Vec<_>>().into();
        spec["root"]["readonly"] = false.into();
        // As the peer on the host, which is root with all that belongs to it.
        let capabilities = json!(["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE"]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = capabilities.clone();
        }
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|it| it["type"] != "network");
        }
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            // Of a network that is the host's, there is no /sys to mount.
            mounts.retain(|it| it["type"] != "sysfs" && it["type"] != "cgroup");
            mounts.extend(SHOWN.iter().filter(|it| Path::new(it).exists()).map(|it| mount(it)));
            mounts.push(mount(&dir_text));
        }
    })
}
