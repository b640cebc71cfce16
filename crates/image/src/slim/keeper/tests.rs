//! Trees of a few files, what is observed in them, and what must and must not be kept.

use model::ObjectId;
use proptest::prelude::*;
use store::{Metadata, Node};

use super::super::{misses, split};
use super::*;

/// A tree with the bytes of its files.
#[derive(Default)]
struct Image {
    tree: Tree,
    bytes: Vec<Vec<u8>>,
}

impl Files for Image {
    fn beginning(&self, content: &Content, most: u64) -> Result<Vec<u8>> {
        let index = usize::from(content.id.as_bytes()[0]) | usize::from(content.id.as_bytes()[1]) << 8;
        Ok(self.bytes[index].iter().take(most as usize).copied().collect())
    }
}

impl Image {
    fn put(&mut self, path: &str, node: Node) {
        self.tree.make_parents(path, &Metadata::new(0o755)).unwrap();
        self.tree.insert(path, node).unwrap();
    }

    fn file(&mut self, path: &str, bytes: &[u8]) {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&(self.bytes.len() as u16).to_le_bytes());
        self.bytes.push(bytes.to_vec());
        let content = Content { id: ObjectId::from_bytes(id), size: bytes.len() as u64 };
        self.put(path, Node::file(Metadata::new(0o644), content));
    }

    /// `a -> b` is a link, `a` a file of no bytes, `a: text` one of that text.
    fn of(files: &[&str]) -> Self {
        let mut image = Self::default();
        for text in files {
            match (text.split_once(" -> "), text.split_once(": ")) {
                (Some((path, target)), _) => {
                    image.put(path, Node::symlink(Metadata::new(0o777), target.as_bytes()));
                }
                (_, Some((path, text))) => image.file(path, text.as_bytes()),
                _ => image.file(text, b""),
            }
        }
        image
    }

    fn kept(&self, observed: &Observed) -> Kept {
        Keeper::new(&self.tree, self, observed).unwrap().finish().unwrap()
    }
}

fn opened(paths: &[&str]) -> Observed {
    Observed { opened: paths.iter().map(|it| TreePath::new(it.as_bytes())).collect(), ..Observed::default() }
}

/// Those files, of which these were opened, are kept but for the ones marked with a `-`.
#[track_caller]
fn check(files: &[&str], used: &[&str]) {
    let plain = |text: &str| text.trim_start_matches("- ").to_owned();
    let described: Vec<String> = files.iter().map(|it| plain(it)).collect();
    let image = Image::of(&described.iter().map(String::as_str).collect::<Vec<_>>());
    let kept = image.kept(&opened(used));
    for file in files {
        let text = plain(file);
        let path = text.split(" -> ").next().unwrap().split(": ").next().unwrap();
        let is_kept = kept.contains_key(&TreePath::new(path.as_bytes()));
        assert_eq!(
            is_kept,
            !file.starts_with("- "),
            "{file}: {:?}",
            kept.keys().map(ToString::to_string).collect::<Vec<_>>()
        );
    }
}

#[test]
fn links_scripts_and_programs_named_by_env_are_followed() {
    check(
        &[
            "bin -> usr/bin",
            "usr/bin/script: #!/usr/bin/env -S perl -w\n",
            "usr/bin/env",
            "usr/bin/perl -> perl5",
            "usr/bin/perl5",
            "usr/bin/other: #!/usr/bin/env python\n",
            "- usr/bin/none",
        ],
        &["/bin/script", "bin/other"],
    );
}

#[test]
fn packages_of_languages_stay_whole() {
    check(
        &[
            "usr/lib/python3.11/os.py: import stat\nfrom json import loads\nimport _x, .y\n",
            "usr/lib/python3.11/stat.py",
            "usr/lib/python3.11/json/__init__.py: import decimal",
            "usr/lib/python3.11/lib-dynload/_x.cpython-311.so",
            "- usr/lib/python3.11/json/decoder.py",
            "- usr/lib/python3.11/decimal.py",
            "usr/lib/python3/dist-packages/flask/app.py",
            "usr/lib/python3/dist-packages/flask/cli.py",
            "- usr/lib/python3/dist-packages/flask/tests/test_app.py",
            "- usr/lib/python3/dist-packages/click/core.py",
            "usr/share/perl/5.36/IO/File.pm: use IO::Seekable;",
            "usr/share/perl/5.36/IO/Seekable.pm",
            "usr/share/perl/5.36/IO/File/More.pm",
            "- usr/share/perl/5.36/CPAN.pm",
            "app/node_modules/a/index.js",
            "app/node_modules/a/lib/b.js",
            "- app/node_modules/c/index.js",
            "usr/lib/ruby/3.1.0/erb.rb",
            "usr/lib/ruby/3.1.0/erb/util.rb",
            "- usr/lib/ruby/3.1.0/csv.rb",
        ],
        &[
            "usr/lib/python3.11/os.py",
            "usr/lib/python3/dist-packages/flask/app.py",
            "usr/share/perl/5.36/IO/File.pm",
            "app/node_modules/a/index.js",
            "usr/lib/ruby/3.1.0/erb.rb",
        ],
    );
}

#[test]
fn rules_of_the_system_hold() {
    check(
        &[
            "etc/nsswitch.conf: hosts: files mymachines [NOTFOUND=return] dns\n",
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/x86_64-linux-gnu/libnss_mymachines.so.2",
            "usr/lib/x86_64-linux-gnu/libnss_dns.so.2",
            "- usr/lib/x86_64-linux-gnu/libnss_ldap.so.2",
            "usr/lib/x86_64-linux-gnu/libssl.so.3",
            "etc/ssl/certs/ca-certificates.crt",
            "usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so",
            "usr/lib/x86_64-linux-gnu/libpam.so.0",
            "etc/pam.d/sshd: @include common-auth\n",
            "etc/pam.d/common-auth: auth required pam_unix.so nullok\n",
            "usr/lib/x86_64-linux-gnu/security/pam_unix.so",
            "- usr/lib/x86_64-linux-gnu/security/pam_ldap.so",
            "usr/lib/x86_64-linux-gnu/gconv/gconv-modules",
            "usr/lib/x86_64-linux-gnu/gconv/EUC-JP.so",
            "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
            "- usr/lib/x86_64-linux-gnu/gconv/BIG5.so",
            "etc/localtime -> /usr/share/zoneinfo/Etc/UTC",
            "usr/share/zoneinfo/Etc/UTC",
            "usr/share/zoneinfo/Asia/Tokyo",
            "usr/share/zoneinfo/Europe/Berlin",
            "- usr/share/zoneinfo/right/Asia/Tokyo",
            "var/lib/app/data",
            "- var/cache/apt/pkgcache.bin",
            "- var/lib/dpkg/info/libc6.list",
            "var/lib/dpkg/status.d/libc6",
            "- var/lib/dpkg/status.d/libc6.md5sums: 0123456789abcdef0123456789abcdef  usr/lib/x86_64-linux-gnu/libc.so.6\n",
            "- var/lib/dpkg/status.d/gone",
            "- var/lib/dpkg/status.d/gone.md5sums: 0123456789abcdef0123456789abcdef  usr/share/gone\n",
            "- usr/share/gone",
            "usr/share/web/html/index.html",
            "usr/share/web/html/other.html",
        ],
        &[
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/x86_64-linux-gnu/libssl.so.3",
            "usr/lib/x86_64-linux-gnu/libpam.so.0",
            "etc/pam.d/sshd",
            "usr/lib/x86_64-linux-gnu/gconv/EUC-JP.so",
            "usr/share/zoneinfo/Asia/Tokyo",
            "usr/share/web/html/index.html",
        ],
    );
}

/// The machine's own time zone alone is no reason to keep all.
#[test]
fn the_local_time_keeps_no_other_zone() {
    check(
        &[
            "etc/localtime -> /usr/share/zoneinfo/Etc/UTC",
            "usr/share/zoneinfo/Etc/UTC",
            "- usr/share/zoneinfo/Asia/Tokyo",
        ],
        &["/etc/localtime", "/usr/share/zoneinfo/Etc/UTC"],
    );
}

/// A program of this machine in an image with the machine's libraries: they are found as the loader finds them.
#[test]
fn a_real_program_keeps_its_libraries() {
    let mut image = Image::default();
    let libraries = ["libc.so.6", "libselinux.so.1", "libpcre2-8.so.0", "libz.so.1"];
    for name in libraries {
        if let Ok(bytes) = std::fs::read(format!("/usr/lib/x86_64-linux-gnu/{name}")) {
            image.file(&format!("opt/libraries/{name}"), &bytes);
        }
    }
    image.file("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n");
    image.file("etc/ld.so.conf.d/x.conf", b"# where they are\n/opt/libraries\n");
    image.file("usr/bin/ls", &std::fs::read("/bin/ls").unwrap());
    let kept = image.kept(&opened(&["usr/bin/ls"]));
    let why = |path: &str| kept.get(&TreePath::new(path.as_bytes())).cloned().unwrap_or_default();
    assert!(why("opt/libraries/libc.so.6").contains(&Reason::Library(TreePath::new(b"usr/bin/ls"))), "{kept:?}");
    assert!(why("opt/libraries/libz.so.1").is_empty(), "nothing needs it");
}

#[test]
fn what_is_asked_for_is_kept_whole() {
    let image = Image::of(&["usr/share/app/a/b", "usr/share/app/c", "usr/share/other"]);
    let observed = Observed::default();
    let mut keeper = Keeper::new(&image.tree, &image, &observed).unwrap();
    keeper.ask(&"/usr/share/a*".parse().unwrap());
    let kept = keeper.finish().unwrap();
    let has = |path: &str| kept.contains_key(&TreePath::new(path.as_bytes()));
    assert!(has("usr/share/app/a/b") && has("usr/share/app/c") && !has("usr/share/other"));
}

proptest! {
    /// Whatever was looked up leads to the same on the slim tree, so a second run of the same misses nothing.
    #[test]
    fn what_was_looked_up_is_not_missed(
        links in prop::collection::vec(("[a-c]/[a-c]", "(/|\\.\\./)?[a-c](/[a-c])?"), 0..8),
        files in prop::collection::vec("[a-c]/[a-c]/[a-c]", 0..8),
        paths in prop::collection::vec("/?[a-c](/(\\.\\.|[a-c])){0,4}", 1..8),
    ) {
        let mut image = Image::default();
        for path in &files {
            if image.tree.make_parents(path, &Metadata::new(0o755)).is_ok() {
                image.file(path, b"");
            }
        }
        for (path, target) in &links {
            if image.tree.make_parents(path, &Metadata::new(0o755)).is_ok() {
                image.put(path, Node::symlink(Metadata::new(0o777), target.as_bytes()));
            }
        }
        let looked_up = paths.iter().map(|it| TreePath::new(it.as_bytes())).collect();
        let observed = Observed { looked_up, ..Observed::default() };
        let (slim, _) = split(&image.tree, &image.kept(&observed).into_keys().collect()).unwrap();
        let missed = misses(&image.tree, &slim, &observed);
        prop_assert!(missed.is_empty(), "{:?}", missed);
    }
}
