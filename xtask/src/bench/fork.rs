//! `bench fork`: a program of 64 MiB, all touched, makes itself twice; the child dirties fifty pages and ends.

use super::guest::{self, Way};
use super::sample::median;
use super::{Bound, Row};
use crate::Result;

/// Prints, for each fork, how many microseconds the call took and how many until the child had ended.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec it;
    clock_gettime(CLOCK_MONOTONIC, &it);
    return it.tv_sec * 1e6 + it.tv_nsec / 1e3;
}

int main(void)
{
    const size_t size = 64 << 20;
    char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 1, size);
    for (int round = 0; round < 12; round++) {
        double begun = now();
        pid_t child = fork();
        if (child == 0) {
            for (int page = 0; page < 50; page++)
                memory[page * 300 * 4096]++;
            _exit(0);
        }
        double made = now();
        if (child < 0 || waitpid(child, 0, 0) != child)
            return 1;
        double ended = now();
        // The first two make what the others share.
        if (round >= 2)
            printf("%.1f %.1f\n", made - begun, ended - begun);
    }
}
"#;

const ROUNDS: usize = 5;

pub(crate) fn run() -> Result<Vec<Row>> {
    guest::prepare()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let program = guest::compile(dir.path(), "forks", PROGRAM)?;
    let all = guest::columns::<2>(&program, &[], ROUNDS)?;
    let host = all.iter().find(|it| it.0 == Way::Host).map(|it| &it.1);
    let mut rows = Vec::new();
    for (way, columns) in all.iter().filter(|it| it.0 != Way::Host) {
        for (index, what) in ["fork of 64 MiB, the call", "fork of 64 MiB, to the child's end"].iter().enumerate() {
            let name = format!("{what} ({})", way.name());
            let theirs = host.map(|it| median(&it[index]) / 1e3);
            let bound = if index == 0 { Bound::AtMost(0.8) } else { Bound::RatioAtMost(3.0) };
            let ours = median(&columns[index]) / 1e3;
            rows.push(Row::new(&name, "ms", ours, Some(("host process", theirs)), columns[index].len(), bound));
        }
    }
    Ok(rows)
}
