//! `bench unikernel`: what the library operating system costs and spares, beside the same programs as processes of the host.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::guest::{self, Way};
use super::sample::{Contender, interleave, median};
use super::servers::{self, Load};
use super::{Bound, Row};
use crate::{Result, cargo, must, target_dir};

/// Prints how many nanoseconds a call takes that asks for nothing.
const NULL_CALL: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    const int calls = 200000;
    struct timespec begun, ended;
    for (int round = 0; round < 5; round++) {
        clock_gettime(CLOCK_MONOTONIC, &begun);
        for (int call = 0; call < calls; call++)
            syscall(SYS_getpid);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        double took = (ended.tv_sec - begun.tv_sec) * 1e9 + (ended.tv_nsec - begun.tv_nsec);
        if (round > 0)
            printf("%.2f\n", took / calls);
    }
}
"#;

/// Makes as many children as it is told to, which sleep, and says so.
const CLONES: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **words)
{
    (void)count;
    for (int left = atoi(words[1]); left > 0; left--) {
        if (fork() == 0)
            for (;;)
                pause();
    }
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
"#;

/// Makes as many children as it is told to, asks each for a word, says how many answered, and waits for the end.
const CROWD: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **words)
{
    int count = atoi(words[1]), questions[2], answers[2], answered = 0;
    char byte[4096] = "?";
    if (pipe(questions) != 0 || pipe(answers) != 0)
        return 1;
    for (int child = 0; child < count; child++) {
        if (fork() == 0) {
            if (read(questions[0], byte, 1) == 1)
                write(answers[1], byte, 1);
            for (;;)
                pause();
        }
    }
    for (int child = 0; child < count; child++)
        write(questions[1], byte, 1);
    while (answered < count)
        answered += read(answers[0], byte, sizeof byte);
    printf("%d\n", answered);
    fflush(stdout);
    getchar();
}
"#;

/// What databases do most, without waiting for the disk: half a million calls. It takes a second, as what takes less would
/// tell how fast programs start, which `bench boot` does.
const SPEEDTEST: &str = "
pragma synchronous=off;
create table t(a integer primary key, b integer, c text);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 400000)
insert into t select i, i * 7919 % 100003, printf('%d in words', i) from n;
commit;
create index tb on t(b); create index tc on t(c);
select count(*), avg(b) from t where b between 1000 and 60000;
select count(*) from t where c like '%99%';
update t set b = b + 1 where a % 3 = 0;
delete from t where a % 5 = 0;
select count(*) from t as x join t as y on x.b = y.a;
vacuum;
";

const ROUNDS: usize = 20;
const CLONE_COUNT: usize = 256;
const CROWD_COUNT: usize = 1000;

pub(crate) fn run() -> Result<Vec<Row>> {
    guest::prepare()?;
    must(&mut cargo(&["build", "--release", "--package", "skep"]))?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut rows = null_call(dir.path())?;
    rows.extend(servers::rows(dir.path(), Load::Redis, ROUNDS)?);
    rows.extend(servers::rows(dir.path(), Load::Nginx, ROUNDS)?);
    rows.extend(sqlite(dir.path(), Journal::Rollback)?);
    rows.extend(sqlite(dir.path(), Journal::WriteAhead)?);
    rows.extend(clones(dir.path())?);
    rows.extend(crowds(dir.path())?);
    rows.push(size()?);
    Ok(rows)
}

fn null_call(dir: &Path) -> Result<Vec<Row>> {
    let program = guest::compile(dir, "null_call", NULL_CALL)?;
    let all = guest::columns::<1>(&program, &[], ROUNDS / 4)?;
    let host = all.iter().find(|it| it.0 == Way::Host).map(|it| median(&it.1[0]));
    let ours = all.iter().filter(|it| it.0 != Way::Host);
    Ok(ours
        .map(|(way, [times])| {
            let name = format!("null call ({})", way.name());
            Row::new(&name, "ns", median(times), Some(("host", host)), times.len(), Bound::AtMost(20.0))
        })
        .collect())
}

/// How sqlite keeps what it will have to take back.
#[derive(Clone, Copy)]
enum Journal {
    /// As it comes.
    Rollback,
    WriteAhead,
}

impl Journal {
    fn title(self) -> &'static str {
        match self {
            Self::Rollback => "sqlite",
            Self::WriteAhead => "sqlite, WAL",
        }
    }

    fn script(self) -> String {
        match self {
            Self::Rollback => SPEEDTEST.to_owned(),
            Self::WriteAhead => format!("pragma journal_mode=wal; {SPEEDTEST}"),
        }
    }
}

fn sqlite(dir: &Path, journal: Journal) -> Result<Vec<Row>> {
    let path = Path::new("/usr/bin/sqlite3");
    if !path.exists() {
        let missing = |way: Way| {
            let name = format!("{} ({})", journal.title(), way.name());
            Row::new(&name, "ms", f64::NAN, Some(("host", None)), 0, Bound::RatioAtMost(1.0))
        };
        return Ok(guest::ours().into_iter().map(missing).collect());
    }
    let ways: Vec<Way> = guest::ours().into_iter().chain([Way::Host]).collect();
    let contenders: Vec<Contender<'_>> = ways
        .iter()
        .map(|way| {
            let command = move || {
                let file = dir.join(format!("{}.db", way.name()));
                for suffix in ["", "-wal", "-shm"] {
                    let _ = std::fs::remove_file(dir.join(format!("{}.db{suffix}", way.name())));
                }
                let mut command = way.command(path);
                command.arg(file).arg(journal.script());
                command
            };
            Contender { name: way.name(), command: Box::new(command) }
        })
        .collect();
    let times = interleave(&contenders, ROUNDS)?;
    let host = times.last().map(|it| median(it));
    Ok(ways
        .iter()
        .zip(&times)
        .filter(|it| *it.0 != Way::Host)
        .map(|(way, times)| {
            let name = format!("{} ({})", journal.title(), way.name());
            Row::new(&name, "ms", median(times), Some(("host", host)), ROUNDS, Bound::RatioAtMost(1.0))
        })
        .collect())
}

/// What a process takes that sleeps, the tender's share with it: the difference that many make.
fn clones(dir: &Path) -> Result<Vec<Row>> {
    let program = guest::compile(dir, "clones", CLONES)?;
    let host = clone_kib(Way::Host, &program)?;
    guest::ours()
        .into_iter()
        .map(|way| {
            let name = format!("an idle clone of {CLONE_COUNT} ({})", way.name());
            let peer = Some(("host process", Some(host)));
            Ok(Row::new(&name, "KiB", clone_kib(way, &program)?, peer, CLONE_COUNT, Bound::AtMost(320.0)))
        })
        .collect()
}

fn clone_kib(way: Way, program: &Path) -> Result<f64> {
    let few = family_kib(way, program, 1)?;
    let many = family_kib(way, program, CLONE_COUNT + 1)?;
    Ok((many - few) / CLONE_COUNT as f64)
}

/// All that the machine has less while a thousand sleep, each of which has answered: kernel, tender and guests.
fn crowds(dir: &Path) -> Result<Vec<Row>> {
    let program = guest::compile(dir, "crowd", CROWD)?;
    let host = crowd_mib(Way::Host, &program)?;
    let row = |way: Way| {
        let name = format!("{CROWD_COUNT} idle clones ({})", way.name());
        let peer = Some(("host process", Some(host)));
        Ok(Row::new(&name, "MiB", crowd_mib(way, &program)?, peer, CROWD_COUNT, Bound::AtMost(1.2 * 1024.0)))
    };
    guest::ours().into_iter().map(row).collect()
}

fn crowd_mib(way: Way, program: &Path) -> Result<f64> {
    let before = available_mib()?;
    let mut command = way.command(program);
    command.arg(CROWD_COUNT.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut family = Running(command.spawn().map_err(|e| e.to_string())?);
    let mut line = String::new();
    let output = family.0.stdout.take().ok_or("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).map_err(|e| e.to_string())?;
    if line.trim() != CROWD_COUNT.to_string() {
        return Err(format!("{} of {CROWD_COUNT} clones answered ({})", line.trim(), way.name()));
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok(before - available_mib()?)
}

fn available_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<f64> = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.map(|it| it / 1024.0).ok_or_else(|| "no MemAvailable".to_owned())
}

fn family_kib(way: Way, program: &Path, count: usize) -> Result<f64> {
    let mut command = way.command(program);
    let child = command.arg(count.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let family = Running(child.map_err(|e| e.to_string())?);
    std::thread::sleep(Duration::from_secs(2));
    let mut processes = vec![family.0.id()];
    let mut total = 0.0;
    while let Some(process) = processes.pop() {
        total += proportional_kib(process)?;
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).map_err(|e| e.to_string())?;
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            processes.extend(children.split_whitespace().filter_map(|it| it.parse::<u32>().ok()));
        }
    }
    Ok(total)
}

fn proportional_kib(process: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok()).ok_or_else(|| "no Pss".to_owned())
}

/// Ends when dropped, and all that it began with it: whoever runs a guest ends with its first process.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let children: Vec<i32> = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id()))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|it| it.parse().ok())
            .collect();
        let _ = self.0.kill();
        let _ = self.0.wait();
        for child in children.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
    }
}

/// The library operating system as it was built last.
fn size() -> Result<Row> {
    let builds = std::fs::read_dir(target_dir().join("release/build")).map_err(|e| e.to_string())?;
    let newest = builds
        .flatten()
        .map(|it| it.path().join("out/libos"))
        .filter_map(|it| std::fs::metadata(it).ok())
        .max_by_key(|it| it.modified().ok())
        .ok_or("the library operating system was not built")?;
    let kib = newest.len() as f64 / 1024.0;
    Ok(Row::new("library operating system", "KiB", kib, None, 1, Bound::AtMost(400.0)))
}
