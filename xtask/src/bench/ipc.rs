//! `bench ipc`: a byte through a pipe to another process of the family and back.

use super::guest::{self, Way};
use super::sample::median;
use super::{Bound, Row};
use crate::Result;

/// Prints how many microseconds a round trip takes: when both look for the byte all the time, and when the other one sleeps.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec it;
    clock_gettime(CLOCK_MONOTONIC, &it);
    return it.tv_sec * 1e6 + it.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define TRIPS 301

static double measure(int looks)
{
    int there[2], back[2];
    char byte = 0;
    if (pipe2(there, looks ? O_NONBLOCK : 0) || pipe2(back, looks ? O_NONBLOCK : 0))
        exit(1);
    pid_t child = fork();
    if (child == 0) {
        for (;;) {
            if (read(there[0], &byte, 1) == 1) {
                if (byte)
                    _exit(0);
                write(back[1], &byte, 1);
            }
        }
    }
    static double times[TRIPS];
    for (int trip = 0; trip < TRIPS; trip++) {
        if (!looks)
            usleep(300);
        double begun = now();
        write(there[1], &byte, 1);
        while (read(back[0], &byte, 1) != 1)
            ;
        times[trip] = now() - begun;
    }
    byte = 1;
    write(there[1], &byte, 1);
    waitpid(child, 0, 0);
    qsort(times, TRIPS, sizeof *times, compare);
    return times[TRIPS / 2];
}

int main(void)
{
    double looking = measure(1);
    printf("%.2f %.2f\n", looking, measure(0));
}
"#;

const ROUNDS: usize = 20;

pub(crate) fn run() -> Result<Vec<Row>> {
    guest::prepare()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let program = guest::compile(dir.path(), "pipes", PROGRAM)?;
    let all = guest::columns::<2>(&program, &[], ROUNDS)?;
    let host = all.iter().find(|it| it.0 == Way::Host).map(|it| &it.1);
    let mut rows = Vec::new();
    for (way, columns) in all.iter().filter(|it| it.0 != Way::Host) {
        for (index, what) in ["pipe round trip, both look", "pipe round trip, one sleeps"].iter().enumerate() {
            let name = format!("{what} ({})", way.name());
            let theirs = host.map(|it| median(&it[index]));
            let bound = Bound::RatioAtMost(1.1);
            rows.push(Row::new(&name, "us", median(&columns[index]), Some(("host's pipe", theirs)), ROUNDS, bound));
        }
    }
    Ok(rows)
}
