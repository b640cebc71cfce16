//! What a toolbox can be attached to, as somebody types it: `web`, `podman:web`, `k8s:shop/web`, `pid:4711`.

use std::fmt;
use std::str::FromStr;

use crate::boundary::named_enum;
use crate::parse::{ParseError, serde_as_text};

named_enum! {
    /// Another program that runs containers.
    Foreign, "container engine" {
        /// Podman, root's and everybody's own.
        Podman = "podman",
        /// Docker.
        Docker = "docker",
        /// The pods of Kubernetes, as containerd runs them.
        Kubernetes = "k8s",
        /// containerd by itself.
        Containerd = "containerd",
        /// LXC.
        Lxc = "lxc",
        /// systemd-nspawn.
        Nspawn = "nspawn",
    }
}

/// A target as it was typed. Whether there is such a one is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetRef {
    /// A cell of ours: `skep:NAME`.
    Cell(String),
    /// A process of this machine: `pid:NUMBER`.
    Process(u32),
    /// A container of one engine: `ENGINE:NAME`.
    Container(Foreign, String),
    /// Whatever has that name.
    Named(String),
}

/// What stands before the name of a cell.
const CELL: &str = "skep";
/// What stands before the number of a process.
const PROCESS: &str = "pid";

impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cell(name) => write!(f, "{CELL}:{name}"),
            Self::Process(pid) => write!(f, "{PROCESS}:{pid}"),
            Self::Container(engine, name) => write!(f, "{engine}:{name}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl FromStr for TargetRef {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((kind, name)) = text.split_once(':') else { return Ok(Self::Named(parse_name(text, text)?)) };
        match kind {
            CELL => Ok(Self::Cell(parse_name(name, text)?)),
            PROCESS => match process_number(name) {
                Some(pid) => Ok(Self::Process(pid)),
                None => Err(ParseError::new("target", text, "the number of a process, like pid:4711")),
            },
            _ => Ok(Self::Container(kind.parse()?, parse_name(name, text)?)),
        }
    }
}

serde_as_text!(TargetRef);

/// The number of a process: digits, and not zero.
pub fn process_number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|it| it.is_ascii_digit());
    text.parse().ok().filter(|pid| digits && *pid != 0)
}

fn parse_name(name: &str, whole: &str) -> Result<String, ParseError> {
    let pieces = name.split('/').count();
    let has_form = name.split('/').all(|it| !it.is_empty()) && pieces <= 3;
    if has_form && name.len() <= 512 && name.bytes().all(|it| it.is_ascii_graphic() && it != b':') {
        return Ok(name.to_owned());
    }
    Err(ParseError::new("target", whole, "a name, or ENGINE:NAME like podman:web, or pid:NUMBER"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_people_type_them() {
        let check = |text: &str, expected: TargetRef| {
            assert_eq!(text.parse::<TargetRef>(), Ok(expected), "{text}");
        };
        let container = |engine, name: &str| TargetRef::Container(engine, name.to_owned());
        check("web", TargetRef::Named("web".into()));
        check("4711", TargetRef::Named("4711".into()));
        check("skep:web", TargetRef::Cell("web".into()));
        check("pid:4711", TargetRef::Process(4711));
        check("podman:web", container(Foreign::Podman, "web"));
        check("podman:alice/web", container(Foreign::Podman, "alice/web"));
        check("docker:3d2a18b0d629", container(Foreign::Docker, "3d2a18b0d629"));
        check("containerd:default/web", container(Foreign::Containerd, "default/web"));
        check("k8s:shop/web-0/nginx", container(Foreign::Kubernetes, "shop/web-0/nginx"));
        check("lxc:web", container(Foreign::Lxc, "web"));
        check("nspawn:web", container(Foreign::Nspawn, "web"));
    }

    #[test]
    fn what_is_no_target_is_refused_with_what_was_expected() {
        let refused = |text: &str| text.parse::<TargetRef>().unwrap_err().to_string();
        for text in ["", "pid:", "pid:x", "pid:0", "pid:+1", "pid:4294967296", "podman:", "a b", "a\x1b[m", "a//b"] {
            assert!(refused(text).contains("expected"), "{text}");
        }
        assert!(refused("rkt:web").contains("podman, docker"), "{}", refused("rkt:web"));
        refused("k8s:a/b/c/d");
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "((podman|k8s|pid|skep|[a-z]{1,3}):)?[ -~]{0,12}(/[a-z0-9]{0,3}){0,4}") {
            if let Ok(target) = text.parse::<TargetRef>() {
                proptest::prop_assert_eq!(target.to_string().parse::<TargetRef>(), Ok(target));
            }
        }
    }
}
