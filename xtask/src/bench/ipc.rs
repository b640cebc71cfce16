//! `bench ipc`: a byte to another process of the family and back, by each of the ways that there are.

use super::guest::{self, Way};
use super::sample::median;
use super::{Bound, Row};
use crate::Result;

/// Prints how many microseconds a round trip takes, in the order of [`WAYS`].
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/shm.h>
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

// Each side is called with its number, 0 for who asks, and returns when it has asked or answered once.
static double measure(void (*side)(int), int pause)
{
    pid_t child = fork();
    if (child == 0) {
        for (int trip = 0; trip < TRIPS; trip++)
            side(1);
        _exit(0);
    }
    static double times[TRIPS];
    for (int trip = 0; trip < TRIPS; trip++) {
        if (pause)
            usleep(300);
        double begun = now();
        side(0);
        times[trip] = now() - begun;
    }
    waitpid(child, 0, 0);
    qsort(times, TRIPS, sizeof *times, compare);
    return times[TRIPS / 2];
}

static int ends[2][2];

static void pipes(int number)
{
    char byte = 0;
    if (number == 0)
        write(ends[0][1], &byte, 1);
    while (read(ends[number == 0][0], &byte, 1) != 1)
        ;
    if (number == 1)
        write(ends[1][1], &byte, 1);
}

static sem_t *words;

static void semaphores(int number)
{
    if (number == 0)
        sem_post(words);
    sem_wait(words + (number == 0));
    if (number == 1)
        sem_post(words + 1);
}

static int queue;

static void messages(int number)
{
    struct { long kind; char text[8]; } it = {1, "text"};
    if (number == 0)
        msgsnd(queue, &it, 8, 0);
    msgrcv(queue, &it, 8, number == 0 ? 2 : 1, 0);
    it.kind = 2;
    if (number == 1)
        msgsnd(queue, &it, 8, 0);
}

static atomic_int *shared;

static void memory(int number)
{
    if (number == 0)
        atomic_store(shared, 1);
    while (atomic_load(shared) != (number == 0 ? 2 : 1))
        ;
    if (number == 1)
        atomic_store(shared, 2);
}

int main(void)
{
    for (int looks = 1; looks >= 0; looks--) {
        if (pipe2(ends[0], looks ? O_NONBLOCK : 0) || pipe2(ends[1], looks ? O_NONBLOCK : 0))
            return 1;
        printf("%.2f ", measure(pipes, !looks));
    }
    words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(words, 1, 0), sem_init(words + 1, 1, 0);
    printf("%.2f ", measure(semaphores, 0));
    printf("%.2f ", measure(semaphores, 1));
    queue = msgget(IPC_PRIVATE, 0600);
    printf("%.2f ", measure(messages, 0));
    msgctl(queue, IPC_RMID, NULL);
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    shared = shmat(segment, NULL, 0);
    shmctl(segment, IPC_RMID, NULL);
    printf("%.2f\n", measure(memory, 0));
}
"#;

/// What is measured, and what was promised of it: for pipes by ourselves, for the others what KylinX's guests take.
const WAYS: [(&str, Bound); 6] = [
    ("pipe round trip, both look", Bound::AtMost(0.5)),
    ("pipe round trip, one sleeps", Bound::AtMost(35.0)),
    ("semaphore in shared memory, both at it", Bound::AtMost(39.0)),
    ("semaphore in shared memory, one sleeps", Bound::AtMost(39.0)),
    ("message queue of System V", Bound::AtMost(43.0)),
    ("word of System V's shared memory", Bound::AtMost(39.0)),
];

const ROUNDS: usize = 20;

pub(crate) fn run() -> Result<Vec<Row>> {
    guest::prepare()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let program = guest::compile(dir.path(), "pipes", PROGRAM)?;
    let all = guest::columns::<{ WAYS.len() }>(&program, &[], ROUNDS)?;
    let host = all.iter().find(|it| it.0 == Way::Host).map(|it| &it.1);
    let mut rows = Vec::new();
    for (way, columns) in all.iter().filter(|it| it.0 != Way::Host) {
        for (index, (what, bound)) in WAYS.into_iter().enumerate() {
            let name = format!("{what} ({})", way.name());
            let theirs = host.map(|it| median(&it[index]));
            rows.push(Row::new(&name, "us", median(&columns[index]), Some(("host's", theirs)), ROUNDS, bound));
        }
    }
    Ok(rows)
}
