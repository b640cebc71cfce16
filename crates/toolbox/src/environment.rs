//! The environment of a session's program: the target's, with what names files of the toolbox taken from the toolbox.

use std::ffi::CString;

use crate::session::Arrangement;
use crate::swap::LAUNCHERS;

/// Where programs are in a toolbox.
const TOOLS: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by which a program is made to load files: with the toolbox as the root they would name other files than the
/// target means, or files of the target, which nothing is to load.
const LOADER: [&[u8]; 6] = [b"LD_PRELOAD", b"LD_LIBRARY_PATH", b"LD_AUDIT", b"GCONV_PATH", b"LOCPATH", b"BASH_ENV"];

/// The variables of a session: `target` is the text of the target's `/proc/PID/environ`, `image` what the toolbox's
/// configuration says, `asked` what the command line sets (as `NAME=value`), which comes last and counts most.
pub(crate) fn compose(
    target: &[u8],
    image: &[String],
    asked: &[String],
    terminal: Option<&str>,
    arrangement: Arrangement,
) -> Vec<CString> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut set = |pair: &[u8]| {
        let Some(at) = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) else { return };
        let (name, value) = (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default());
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => found.push((name.to_vec(), value.to_vec())),
        }
    };
    target.split(|byte| *byte == 0).for_each(&mut set);
    if let Some(terminal) = terminal {
        set(format!("TERM={terminal}").as_bytes());
    }
    let own_path = image.iter().find_map(|it| it.strip_prefix("PATH=")).map_or(TOOLS, str::as_bytes).to_vec();
    match arrangement {
        Arrangement::ToolboxAsRoot => {
            found.retain(|(name, _)| !LOADER.contains(&name.as_slice()));
            replace(&mut found, b"PATH", own_path);
        }
        Arrangement::TargetAsRoot => {
            // Without any of the target's variables, its programs are not to be found by name either.
            let theirs = found.iter().find(|(name, _)| name == b"PATH").map(|(_, value)| value.clone());
            let path = theirs.map(|it| [it.as_slice(), b":", LAUNCHERS.as_bytes()].concat());
            let without =
                if target.is_empty() { LAUNCHERS.into() } else { [TOOLS, b":", LAUNCHERS.as_bytes()].concat() };
            replace(&mut found, b"PATH", path.unwrap_or(without));
        }
    }
    for pair in asked {
        if let Some((name, value)) = pair.split_once('=') {
            replace(&mut found, name.as_bytes(), value.as_bytes().to_vec());
        }
    }
    found.into_iter().filter_map(|(name, value)| CString::new([name.as_slice(), b"=", &value].concat()).ok()).collect()
}

fn replace(found: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: Vec<u8>) {
    match found.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = value,
        None => found.push((name.to_vec(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_variables_but_the_toolboxs_files() {
        let check = |arrangement, expected: &[&str]| {
            let target = b"PATH=/app/bin\0LD_PRELOAD=/app/x.so\0A=1\0odd\0=x\0B=\xff\0A=2\0";
            let asked = ["C=3".to_owned(), "A=4".to_owned()];
            let found = compose(target, &["PATH=/tools".to_owned()], &asked, Some("vt"), arrangement);
            let found: Vec<_> = found.iter().map(|it| String::from_utf8_lossy(it.to_bytes()).into_owned()).collect();
            assert_eq!(found, expected);
        };
        check(Arrangement::ToolboxAsRoot, &["PATH=/tools", "A=4", "B=\u{fffd}", "TERM=vt", "C=3"]);
        let swapped = ["PATH=/app/bin:/toolbox/launch", "LD_PRELOAD=/app/x.so", "A=4", "B=\u{fffd}", "TERM=vt", "C=3"];
        check(Arrangement::TargetAsRoot, &swapped);
    }
}
