//! Images of Debian packages, from a repository made here and read by the machine's own apt. No network.

use std::path::{Path, PathBuf};

use image::{Error, FetchOptions, SecurityUpdates};
use model::Arch;

use crate::env::{Env, has, write};
use crate::tar::{Entry, Size, Tar, gzip, sha256};

/// A repository on disk with two suites: `test` and `test-security`.
struct Repository {
    dir: PathBuf,
    etc: PathBuf,
}

struct Deb {
    name: &'static str,
    version: &'static str,
    arch: &'static str,
    fields: &'static str,
    /// What lies beside its description.
    about: Tar,
    files: Tar,
}

fn deb(name: &'static str, version: &'static str, fields: &'static str, files: Tar) -> Deb {
    Deb { name, version, arch: "amd64", fields, about: Tar::default(), files }
}

impl Repository {
    fn new(env: &Env) -> Self {
        let (dir, etc) = (env.path("repository"), env.path("apt"));
        for parts in ["apt.conf.d", "preferences.d", "trusted.gpg.d", "auth.conf.d"] {
            std::fs::create_dir_all(etc.join(parts)).unwrap();
        }
        let line = |suite| format!("deb [trusted=yes] file:{} {suite} main\n", dir.display());
        write(&etc.join("sources.list.d/test.list"), line("test") + &line("test-security"));
        Self { dir, etc }
    }

    fn publish(&self, suite: &str, arch: &str, packages: &[Deb]) {
        let mut index = String::new();
        for package in packages {
            let Deb { name, version, arch, fields, about, files } = package;
            let description = format!(
                "Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: T <t@example.org>\n{fields}Description: test\n"
            );
            let control = gzip(&about.clone().file("./control", description.as_bytes()).end());
            let data = gzip(&files.clone().end());
            let file = archive(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &data)]);
            let path = format!("pool/{name}_{version}_{arch}.deb");
            write(&self.dir.join(&path), &file);
            let digest = sha256(&file);
            index.push_str(&format!(
                "{description}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                file.len(),
                &digest[7..]
            ));
        }
        let path = format!("main/binary-{arch}/Packages");
        let label = if suite.ends_with("security") { "Debian-Security" } else { "Debian" };
        write(&self.dir.join("dists").join(suite).join(&path), &index);
        let release = format!(
            "Origin: Test\nLabel: {label}\nSuite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64 arm64\n\
             Components: main\nSHA256:\n {} {} {path}\n",
            &sha256(index.as_bytes())[7..],
            index.len()
        );
        write(&self.dir.join("dists").join(suite).join("Release"), release);
    }

    fn options(&self, env: &Env) -> FetchOptions {
        FetchOptions { apt: Some(self.etc.clone()), refresh: model::Span::millis(0), ..env.options.clone() }
    }
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in members {
        out.extend_from_slice(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
        );
        out.extend_from_slice(content);
        out.extend(std::iter::repeat_n(b'\n', content.len() % 2));
    }
    out
}

fn program(tar: Tar, path: &str, text: &[u8]) -> Tar {
    tar.raw(&Entry { mode: 0o755, size: Size::Number(text.len() as u64), ..Entry::new(b'0', path) }, text)
}

const UNIT: &[u8] =
    b"[Service]\nType=notify\nExecStart=/usr/sbin/webd --foreground $EXTRA\nUser=web\nStateDirectory=web\n\
                      Environment=MODE=plain\nEnvironmentFile=-/etc/default/webd\nKillSignal=SIGQUIT\n";

/// A daemon with a library, a user, a script, and a dependency that only scripts use.
fn publish(repository: &Repository) {
    let web =
        program(Tar::default().dir("./").dir("./usr/").dir("./usr/sbin/"), "./usr/sbin/webd", b"\x7fELF not really")
            .file("./lib/systemd/system/webd.service", UNIT)
            .file("./etc/default/webd", b"EXTRA=\"--port 80\"\n")
            .file("./usr/lib/sysusers.d/web.conf", b"u web - \"Web\" /var/lib/web\n")
            .file("./usr/lib/tmpfiles.d/web.conf", b"d /run/web 0750 web web -\n");
    let web = program(web, "./usr/bin/webctl", b"#!/bin/sh\nexit 0\n");
    let packages = [
        deb("webd", "1.0-1", "Depends: libweb (>= 1), debconf (>= 0.5) | debconf-2.0\nPre-Depends: certs\n", web),
        deb("libweb", "1.5", "", Tar::default().dir("./lib/").file("./lib/libweb.so.1", b"old library")),
        deb(
            "certs",
            "1",
            "",
            Tar::default()
                .file("./usr/share/ca-certificates/x/b.crt", b"CERT B\n")
                .file("./usr/share/ca-certificates/x/a.crt", b"CERT A"),
        ),
        deb(
            "dash",
            "0.5",
            "Essential: yes\n",
            program(Tar::default().dir("./bin/"), "./bin/dash", b"\x7fELF").symlink("./bin/sh", "dash"),
        ),
        deb(
            "base-files",
            "12",
            "Essential: yes\n",
            Tar::default().dir("./var/run/").file("./usr/lib/os-release", b"ID=test\n"),
        ),
        deb("debconf", "1.5", "", Tar::default().file("./usr/share/debconf/x", b"x")),
        deb("evil", "1", "", Tar::default().file("./../../outside", b"x")),
        deb("broken", "1", "Depends: nothing-has-this\n", Tar::default()),
        deb(
            "postgresql",
            "15+248",
            "Source: postgresql-common\nDepends: postgresql-common, postgresql-15\n",
            Tar::default(),
        ),
        deb(
            "postgresql-common",
            "248",
            "",
            Tar::default().file("./lib/systemd/system/postgresql.service", b"[Service]\nExecStart=/bin/true\n"),
        ),
        deb("postgresql-15", "15.1", "", program(Tar::default(), "./usr/lib/postgresql/15/bin/postgres", b"\x7fELF")),
    ];
    repository.publish("test", "amd64", &packages);
    let newer = deb("libweb", "1.5+sec1", "", Tar::default().file("./lib/libweb.so.1", b"mended library"));
    repository.publish("test-security", "amd64", &[newer]);
}

fn fetch(env: &Env, options: &FetchOptions, source: &str) -> image::Result<image::Fetched> {
    image::fetch(&env.store, &crate::env::parse(source), options, &())
}

#[test]
fn packages_become_an_image_without_running_anything() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    publish(&repository);
    let options = repository.options(&env);
    let fetched = fetch(&env, &options, "deb:webd").unwrap();
    let config = &fetched.record.config;
    assert_eq!(config.command, ["/usr/sbin/webd", "--foreground", "--port", "80"]);
    assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("web", "SIGQUIT"));
    assert!(config.env.contains(&"MODE=plain".to_owned()));
    let names: Vec<&str> = fetched.record.inputs.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        names,
        ["base-files", "certs", "dash", "libweb", "webd"],
        "the shell comes for webctl, debconf does not"
    );
    assert!(fetched.notes.iter().any(|note| note.contains("debconf")), "{:?}", fetched.notes);
    let listing = env.listing(&fetched);
    let has_line = |line: &str| assert!(listing.iter().any(|found| found == line), "{line} in {listing:#?}");
    for line in [
        "bin -> usr/bin 777 0:0",
        "lib -> usr/lib 777 0:0",
        "usr/bin/sh -> dash 777 0:0",
        "usr/bin/dash file 4 755 0:0",
        "var/run -> /run 777 0:0",
        "tmp dir 1777 0:0",
        "run/web dir 750 100:100",
        "var/lib/web dir 755 100:100",
    ] {
        has_line(line);
    }
    let text = |path: &str| String::from_utf8(env.content(&fetched, path).unwrap()).unwrap();
    assert_eq!(text("/usr/lib/libweb.so.1"), "mended library");
    assert_eq!(text("/etc/ssl/certs/ca-certificates.crt"), "CERT A\nCERT B\n");
    assert!(text("/etc/passwd").contains("web:x:100:100:Web:/var/lib/web:/usr/sbin/nologin\n"));
    assert!(text("/var/lib/dpkg/status.d/libweb").contains("Version: 1.5+sec1\n"));
    assert!(env.content(&fetched, "/etc/nsswitch.conf").is_some());
}

#[test]
fn an_image_with_dpkg_is_a_system_as_dpkg_knows_it() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    let script = program(Tar::default(), "./postinst", b"#!/bin/sh\n").file("./conffiles", b"/etc/dpkg/x\n");
    let lib = Tar::default().file("./triggers", b"interest-noawait /usr/lib/x\n");
    let packages = [
        Deb {
            about: script,
            ..deb("dpkg", "1", "Essential: yes\nDepends: libx, adduser\n", Tar::default().file("./etc/dpkg/x", b"abc"))
        },
        Deb {
            about: lib,
            ..deb("libx", "2", "Multi-Arch: same\n", Tar::default().dir("./usr/").file("./usr/x", b"x"))
        },
        deb("adduser", "3", "", Tar::default()),
        deb("base-files", "12", "Essential: yes\n", Tar::default().file("./usr/lib/os-release", b"ID=test\n")),
        deb("usr-is-merged", "4", "", Tar::default()),
        deb("tool", "5", "", Tar::default()),
        deb("apt", "6", "", program(Tar::default(), "./usr/bin/apt-get", b"\x7fELF")),
    ];
    repository.publish("test", "amd64", &packages);
    repository.publish("test-security", "amd64", &[]);
    let fetched = fetch(&env, &repository.options(&env), "deb:tool,apt").unwrap();
    let names: Vec<&str> = fetched.record.inputs.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["adduser", "apt", "base-files", "dpkg", "libx", "tool", "usr-is-merged"]);
    assert!(fetched.notes.iter().all(|note| !note.contains("left out")), "{:?}", fetched.notes);
    let text = |path: &str| {
        let content = env.content(&fetched, &format!("/var/lib/dpkg/{path}"));
        String::from_utf8(content.unwrap_or_else(|| panic!("{path}"))).unwrap()
    };
    let status = text("status");
    assert_eq!(status.matches("Status: install ok installed\n").count(), 7, "{status}");
    // The digest is that of RFC 1321.
    assert!(status.contains("Conffiles:\n /etc/dpkg/x 900150983cd24fb0d6963f7d28e17f72\n"), "{status}");
    assert_eq!(text("info/dpkg.list"), "/etc/dpkg/x\n");
    assert_eq!(text("info/libx:amd64.list"), "/usr\n/usr/x\n");
    assert_eq!(text("triggers/File"), "/usr/lib/x libx:amd64/noawait\n");
    assert!(env.listing(&fetched).iter().any(|it| it == "var/lib/dpkg/info/dpkg.postinst file 10 755 0:0"));
    assert!(env.content(&fetched, "/var/lib/dpkg/status.d/dpkg").is_none());
    // Without it, an image is what its programs need.
    let fetched = fetch(&env, &repository.options(&env), "deb:tool").unwrap();
    assert!(env.content(&fetched, "/var/lib/dpkg/status.d/tool").is_some());
    assert!(env.content(&fetched, "/var/lib/dpkg/status").is_none());
}

#[test]
fn a_package_that_stands_for_another_runs_its_daemon() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    publish(&repository);
    let fetched = fetch(&env, &repository.options(&env), "deb:postgresql").unwrap();
    let config = &fetched.record.config;
    assert_eq!(config.command.first().map(String::as_str), Some("/usr/lib/postgresql/15/bin/postgres"));
    assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("postgres", "SIGINT"));
    assert!(config.exposed_ports.contains(&"5432/tcp".to_owned()));
}

#[test]
fn the_same_packages_are_the_same_image_in_any_pool_without_the_repository() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let (env, other) = (Env::new(), Env::new());
    let repository = Repository::new(&env);
    publish(&repository);
    let options = repository.options(&env);
    let first = fetch(&env, &options, "deb:webd").unwrap();
    // The lists are of now and the packages are in the cache: the repository may be gone.
    std::fs::remove_dir_all(&repository.dir).unwrap();
    let offline = FetchOptions { refresh: model::Span::seconds(3600), ..options.clone() };
    let second = fetch(&other, &offline, "deb:webd").unwrap();
    assert_eq!((first.id, &first.record), (second.id, &second.record));
    // Lists that must be fetched and cannot be: older ones do, and that is said.
    let third = fetch(&other, &options, "deb:webd").unwrap();
    assert_eq!(third.id, first.id);
    assert!(third.notes.iter().any(|note| note.contains("could not be refreshed")), "{:?}", third.notes);
}

#[test]
fn security_updates_can_be_left_out_and_suites_chosen() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    publish(&repository);
    let options = repository.options(&env);
    let without = FetchOptions { security: SecurityUpdates::LeaveOut, ..options.clone() };
    let library = |options: &FetchOptions, source: &str| {
        let fetched = fetch(&env, options, source).unwrap();
        String::from_utf8(env.content(&fetched, "/lib/libweb.so.1").unwrap()).unwrap()
    };
    assert_eq!(library(&without, "deb:webd"), "old library");
    let (_, _, record) = image::lookup(&env.store, &"deb:webd".parse().unwrap()).unwrap().unwrap();
    assert_eq!(record.config.labels.get("skep.security-updates").map(String::as_str), Some("left out"));
    assert_eq!(library(&options, "deb:webd@test"), "mended library");
    assert_eq!(library(&without, "deb:webd@test"), "old library");
    let error = fetch(&env, &options, "deb:webd@sid").unwrap_err();
    assert!(error.to_string().contains("they offer test, test-security"), "{error}");
}

#[test]
fn foreign_processors_need_no_configuration() {
    if !has("apt-get") || Arch::HOST != Arch::Amd64 {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    let tool = Deb { arch: "arm64", ..deb("tool", "1", "", program(Tar::default(), "./usr/bin/tool", b"\x7fELF arm")) };
    for suite in ["test", "test-security"] {
        repository.publish(suite, "arm64", if suite == "test" { std::slice::from_ref(&tool) } else { &[] });
    }
    let fetched = fetch(&env, &repository.options(&env), "deb:tool/arm64").unwrap();
    assert_eq!(fetched.record.arch, Arch::Arm64);
    assert_eq!(fetched.record.config.command, ["/usr/bin/tool"]);
    let asked = FetchOptions { arch: Some(Arch::Arm64), ..repository.options(&env) };
    let same = fetch(&env, &asked, "deb:tool").unwrap();
    assert_eq!((same.name.as_str(), same.id), ("deb:tool/arm64", fetched.id));
    let other = FetchOptions { arch: Some(Arch::S390x), ..asked };
    assert!(fetch(&env, &other, "deb:tool/arm64").unwrap_err().to_string().contains("beside it"));
}

#[test]
fn what_cannot_be_had_is_said_plainly() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    publish(&repository);
    let options = repository.options(&env);
    let error = fetch(&env, &options, "deb:webdd").unwrap_err();
    assert!(matches!(&error, Error::NoSuchPackage { similar, .. } if similar == &["webd"]), "{error}");
    let error = fetch(&env, &options, "deb:broken").unwrap_err();
    assert!(error.to_string().contains("broken needs nothing-has-this"), "{error}");
    let error = fetch(&env, &options, "deb:evil").unwrap_err();
    assert!(error.to_string().contains("package evil") && error.to_string().contains("leads upward"), "{error}");
    // A package that is not the one of the index, at the mirror or in the cache.
    for dir in [repository.dir.join("pool"), env.path("cache")] {
        let victim = find(&dir, &|path| path.extension().is_some_and(|it| it == "deb") && names(path, "libweb"));
        let Some(victim) = victim else { continue };
        let mut bytes = std::fs::read(&victim).unwrap();
        let middle = bytes.len() - 20;
        bytes[middle] ^= 1;
        std::fs::write(&victim, bytes).unwrap();
        let error = fetch(&env, &options, "deb:libweb").unwrap_err();
        assert!(matches!(error, Error::Program { .. } | Error::Mismatch { .. }), "{error}");
        publish(&repository);
    }
    let empty = Env::new();
    let nowhere = FetchOptions { apt: Some(empty.path("missing")), ..empty.options.clone() };
    assert!(fetch(&empty, &nowhere, "deb:webd").is_err());
    env.assert_empty();
}

#[test]
fn a_build_cell_is_planned_and_what_it_leaves_becomes_the_image() {
    if Arch::HOST != Arch::Amd64 || !has("apt-get") {
        return;
    }
    let env = Env::new();
    let repository = Repository::new(&env);
    publish(&repository);
    let options = repository.options(&env);
    let plan = image::deb::configure_plan(&env.store, &"webd".parse().unwrap(), &options, &()).unwrap();
    let tree = env.store.reader().unwrap().tree(&plan.tree).unwrap();
    for path in [
        "debs/essential/dash.deb",
        "debs/essential/base-files.deb",
        "debs/wanted/webd.deb",
        "debs/wanted/debconf.deb",
        "debs/configure",
        "usr/sbin/policy-rc.d",
        "usr/bin/sh",
        "var/lib/dpkg/status",
    ] {
        assert!(tree.get(path).is_some(), "{path}");
    }
    assert!(tree.get("usr/sbin/webd").is_none(), "dpkg unpacks it, its scripts before and after");
    assert_eq!(plan.command, ["/bin/sh", "-eu", "/debs/configure"]);
    // What a cell might leave behind.
    let root = env.path("merged");
    for path in ["etc/made-by-a-script", "debs/wanted/webd.deb", "dev/null", "usr/sbin/policy-rc.d", "etc/machine-id"] {
        write(&root.join(path), "x");
    }
    let fetched = image::deb::finish_configured(&env.store, &plan, &root, &options, &()).unwrap();
    let files: Vec<String> = env.listing(&fetched).into_iter().filter(|line| line.contains(" file ")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fetched.name.as_str(), "deb:webd");
    assert_eq!(fetched.record.config.command, ["/usr/sbin/webd", "--foreground", "--port", "80"]);
    assert!(fetched.notes.iter().any(|note| note.contains("another build")));
}

fn names(path: &Path, text: &str) -> bool {
    path.to_string_lossy().contains(text)
}

fn find(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path()).collect();
    entries
        .iter()
        .find(|path| wanted(path))
        .cloned()
        .or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, wanted)))
}
