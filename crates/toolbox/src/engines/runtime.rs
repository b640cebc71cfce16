//! What the runtimes below the engines note of a container: its first process, and when that began.

use serde::Deserialize;

use super::place::Place;

/// A process as a runtime noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) pid: u32,
    pub(super) began: Option<u64>,
    /// Until then the process is the runtime's own, which waits at a pipe and is not confined in full.
    pub(super) is_started: bool,
}

/// What runc keeps in `ROOT/ID/state.json`.
#[derive(Deserialize)]
struct Runc {
    init_process_pid: u32,
    init_process_start: u64,
}

/// What crun keeps in `ROOT/ID/status`.
#[derive(Deserialize)]
struct Crun {
    pid: u32,
    #[serde(rename = "process-start-time")]
    began: Option<u64>,
}

fn parse_runc(bytes: &[u8]) -> Option<Noted> {
    let state: Runc = serde_json::from_slice(bytes).ok()?;
    // Of a container that ended: runc keeps the state, and zero for the process.
    (state.init_process_pid != 0).then_some(Noted {
        pid: state.init_process_pid,
        began: Some(state.init_process_start),
        is_started: true,
    })
}

fn parse_crun(bytes: &[u8]) -> Option<Noted> {
    let state: Crun = serde_json::from_slice(bytes).ok()?;
    // Older versions wrote no beginning, or zero.
    (state.pid != 0).then_some(Noted { pid: state.pid, began: state.began.filter(|it| *it != 0), is_started: true })
}

/// What runc, with its state in `root`, noted of that container.
pub(super) fn runc(root: &Place, id: &str) -> Option<Noted> {
    let noted = parse_runc(&root.read(format!("{id}/state.json"))?)?;
    Some(Noted { is_started: !root.has(format!("{id}/exec.fifo")), ..noted })
}

/// What crun, with its state in `root`, noted of that container.
pub(super) fn crun(root: &Place, id: &str) -> Option<Noted> {
    let noted = parse_crun(&root.read(format!("{id}/status"))?)?;
    Some(Noted { is_started: !root.has(format!("{id}/exec.fifo")), ..noted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_runtimes_are_read() {
        let noted = |pid, began| Some(Noted { pid, began, is_started: true });
        let runc = br#"{"id":"a","init_process_pid":8682,"init_process_start":467210,"config":{"rootfs":"/x"}}"#;
        assert_eq!(parse_runc(runc), noted(8682, Some(467_210)));
        assert_eq!(parse_runc(br#"{"init_process_pid":0,"init_process_start":0}"#), None);
        assert_eq!(parse_runc(br#"{"init_process_pid":"8682"}"#), None);
        assert_eq!(parse_crun(br#"{"pid":7,"process-start-time":99,"cgroup-path":"/x"}"#), noted(7, Some(99)));
        assert_eq!(parse_crun(br#"{"pid":7,"process-start-time":0}"#), noted(7, None));
        assert_eq!(parse_crun(br#"{"pid":-7}"#), None);
        assert_eq!(parse_crun(b""), None);
    }
}
