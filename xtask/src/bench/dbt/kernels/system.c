// What a kernel does for its processes.

#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels.h"

static u64 syscalls(void) {
    for (int i = 0; i < 500000; i++) syscall(SYS_getppid);
    return 0;
}

static u64 forks(void) {
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        waitpid(child, 0, 0);
    }
    return 0;
}

static u64 faults(void) {
    u64 touched = 0;
    for (int round = 0; round < 20; round++) {
        char *at = mmap(0, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t i = 0; i < 16 << 20; i += 4096) at[i] = 1, touched++;
        munmap(at, 16 << 20);
    }
    return touched;
}

static u64 pipes(void) {
    int to[2], from[2];
    char byte = 0;
    if (pipe(to) || pipe(from)) return 0;
    if (fork() == 0) {
        for (int i = 0; i < 20000; i++)
            if (read(to[0], &byte, 1) != 1 || write(from[1], &byte, 1) != 1) break;
        _exit(0);
    }
    for (int i = 0; i < 20000; i++)
        if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1) break;
    wait(0);
    return 0;
}

// A word that goes round eight processes, each of which has some memory of its own to look at.
static u64 ring(void) {
    enum { PROCESSES = 8, ROUNDS = 3000, OWN = 16 << 10 };
    static unsigned char own[OWN];
    int ends[PROCESSES][2];
    for (int i = 0; i < PROCESSES; i++)
        if (pipe(ends[i])) return 0;
    for (int i = 1; i < PROCESSES; i++) {
        if (fork() != 0) continue;
        u64 word;
        for (int round = 0; round < ROUNDS; round++) {
            if (read(ends[i - 1][0], &word, sizeof word) != sizeof word) break;
            for (int k = 0; k < OWN; k += 64) word += ++own[k];
            if (write(ends[i][1], &word, sizeof word) != sizeof word) break;
        }
        _exit(0);
    }
    u64 word = 0;
    for (int round = 0; round < ROUNDS; round++) {
        if (write(ends[0][1], &word, sizeof word) != sizeof word) break;
        if (read(ends[PROCESSES - 1][0], &word, sizeof word) != sizeof word) break;
    }
    while (wait(0) > 0) {}
    return word;
}

const struct kernel sys[] = {
    {"syscall", syscalls}, {"fork", forks}, {"fault", faults}, {"pipe", pipes}, {"switch", ring}, {0},
};
