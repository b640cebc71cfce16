//! What `/proc` tells of a process, parsed: pure functions on the text of its files.

use rustix::process::Resource;
use sys::capability::CapabilitySet;

/// What `/proc/PID/status` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The effective user and group, by the reader's numbers.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    /// Who traces it; 0 for nobody.
    pub(crate) tracer: u32,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) bounding: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: SeccompMode,
    /// How many filters it is under, when the kernel tells (Linux 5.9).
    pub(crate) filters: Option<usize>,
}

/// The kernel's system call filtering of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeccompMode {
    Off,
    /// Nothing but `read`, `write`, `exit` and `sigreturn`.
    Strict,
    Filter,
}

impl Status {
    /// What the file's text tells; nothing when it lacks something or does not read.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let numbers = |name: &str| -> Option<Vec<u32>> {
            field(name)?.split_ascii_whitespace().map(|it| it.parse().ok()).collect()
        };
        let set = |name: &str| u64::from_str_radix(field(name)?, 16).ok().map(CapabilitySet);
        Some(Self {
            uid: *numbers("Uid")?.get(1)?,
            gid: *numbers("Gid")?.get(1)?,
            groups: numbers("Groups")?,
            umask: u32::from_str_radix(field("Umask")?, 8).ok()?,
            tracer: *numbers("TracerPid")?.first()?,
            inheritable: set("CapInh")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            no_new_privileges: field("NoNewPrivs")? != "0",
            seccomp: match field("Seccomp")? {
                "0" => SeccompMode::Off,
                "1" => SeccompMode::Strict,
                "2" => SeccompMode::Filter,
                _ => return None,
            },
            filters: field("Seccomp_filters").and_then(|it| it.parse().ok()),
        })
    }
}

/// A limit as `/proc/PID/limits` has it; none is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) resource: Resource,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

const RESOURCES: [(&str, Resource); 16] = [
    ("Max cpu time", Resource::Cpu),
    ("Max file size", Resource::Fsize),
    ("Max data size", Resource::Data),
    ("Max stack size", Resource::Stack),
    ("Max core file size", Resource::Core),
    ("Max resident set", Resource::Rss),
    ("Max processes", Resource::Nproc),
    ("Max open files", Resource::Nofile),
    ("Max locked memory", Resource::Memlock),
    ("Max address space", Resource::As),
    ("Max file locks", Resource::Locks),
    ("Max pending signals", Resource::Sigpending),
    ("Max msgqueue size", Resource::Msgqueue),
    ("Max nice priority", Resource::Nice),
    ("Max realtime priority", Resource::Rtprio),
    ("Max realtime timeout", Resource::Rttime),
];

/// The limits that the text of `/proc/PID/limits` tells. Lines of no known resource are left out.
pub(crate) fn limits(text: &str) -> Vec<Limit> {
    let value = |word: &str| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    let line = |line: &str| {
        let (name, resource) = RESOURCES.iter().find(|(name, _)| line.starts_with(name))?;
        let mut words = line.get(name.len()..)?.split_ascii_whitespace();
        let (soft, hard) = (value(words.next()?)?, value(words.next()?)?);
        Some(Limit { resource: *resource, soft, hard })
    };
    text.lines().filter_map(line).collect()
}

/// A map of user or group ids, as `/proc/PID/uid_map` has it: `(inside, outside, count)` a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdMap(Vec<(u32, u32, u32)>);

impl IdMap {
    /// That of who is in no other user namespace than the reader.
    pub(crate) fn identity() -> Self {
        Self(vec![(0, 0, u32::MAX)])
    }

    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// What the namespace calls the id that the reader calls `outside`.
    pub(crate) fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|(inside, first, count)| {
            let offset = outside.checked_sub(*first).filter(|it| it < count)?;
            inside.checked_add(offset)
        })
    }

    /// What the reader calls the id that is `inside` in the namespace.
    pub(crate) fn outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|(first, outside, count)| {
            let offset = inside.checked_sub(*first).filter(|it| it < count)?;
            outside.checked_add(offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tnginx: x\nUmask:\t0027\nTracerPid:\t0\nUid:\t33\t34\t33\t33\nGid:\t33\t33\t33\t33\n\
        Groups:\t33 44 \nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
        CapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn a_status_is_read_whole_or_not_at_all() {
        let status = Status::parse(STATUS).unwrap();
        assert_eq!((status.uid, status.gid, status.umask), (34, 33, 0o27));
        assert_eq!(status.groups, [33, 44]);
        assert_eq!(status.effective, CapabilitySet(0xa804_25fb));
        assert_eq!((status.no_new_privileges, status.seccomp, status.filters), (true, SeccompMode::Filter, Some(1)));
        assert_eq!(Status::parse(&STATUS.replace("Seccomp_filters:\t1\n", "")).unwrap().filters, None);
        for missing in ["Umask", "Uid", "CapBnd", "NoNewPrivs", "Seccomp:"] {
            assert_eq!(Status::parse(&STATUS.replace(missing, "X")), None, "{missing}");
        }
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max cpu time              unlimited            unlimited            seconds   \n\
            Max open files            1024                 20000                files     \n\
            Max nice priority         0                    0                    \n";
        let found = limits(text);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].soft, found[0].hard), (None, None));
        assert_eq!((found[1].resource, found[1].soft, found[1].hard), (Resource::Nofile, Some(1024), Some(20000)));
    }

    #[test]
    fn ids_are_mapped_both_ways() {
        let map = IdMap::parse("         0       1000          1\n         1     100000      65536\n");
        let check = |inside, outside: Option<u32>| {
            assert_eq!(map.outside(inside), outside, "{inside}");
            assert!(outside.is_none_or(|it| map.inside(it) == Some(inside)), "{inside}");
        };
        check(0, Some(1000));
        check(1, Some(100_000));
        check(65_536, Some(165_535));
        check(65_537, None);
        assert_eq!(IdMap::parse("0 0 4294967295\n").outside(33), Some(33));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_harm(text in "(Uid|Cap|Max open files|[0-9 ]|\\n|:|\\t|.){0,60}") {
            let _ = (Status::parse(&text), limits(&text), IdMap::parse(&text).outside(7));
        }
    }
}
