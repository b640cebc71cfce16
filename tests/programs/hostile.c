/* A guest that does what no guest should: its tender must outlive it. The first argument says what. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where a guest and its tender meet: crates/abi/src/layout.rs and port.rs. */
#define LIBOS 0x700000000000ul
#define PORT 0x702000000000ul
#define CONTROL 0x702100000000ul
#define DOORBELL 0x702300000000ul
#define LINEAR 0x704000000000ul

struct call {
    volatile uint32_t state, number;
    volatile uint64_t arguments[6];
};
static struct call *const call = (struct call *)(PORT + 64);
static volatile uint32_t *const engine = (uint32_t *)(PORT + 4);

static uint64_t state = 88172645463325252ull;
static uint64_t next(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static char room[1 << 16];

static uint64_t argument(void) {
    switch (next() % 8) {
    case 0: return next();
    case 1: return next() % 8;
    case 2: return (uint64_t)room + next() % sizeof room;
    case 3: return (uint64_t)-100;
    case 4: return PORT + next() % 4096;
    case 5: return LIBOS + next() % (1 << 20);
    case 6: return 1ull << next() % 64;
    default: return ~0ull - next() % 16;
    }
}

/* Calls with arguments that mean nothing. Left out are those that end or stop others by right: kill and its kin; and the one
   that waits for as long as it is told; and fork, which has a test of its own. */
static void calls(void) {
    for (int i = 0; i < (*engine == 2 ? 4000 : 60); i++) {
        uint32_t number = next() % 8 ? next() % 440 : 0x1000 + next() % 16;
        if (number == 62 || number == 200 || number == 234 || number == 0x1003 || number == 0x1004 || number == 0x1005)
            continue;
        for (int j = 0; j < 6; j++) call->arguments[j] = argument();
        call->number = number;
        call->state = 1;
        if (*engine == 2) *(volatile uint32_t *)DOORBELL = 1;
        else usleep(0);
    }
}

static void scribble(void) {
    for (int i = 0; i < 4096 / 8; i++) ((volatile uint64_t *)PORT)[i] = next();
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (count > 2) state ^= strtoull(words[2], 0, 10) * 0x9e3779b97f4a7c15ull;
    if (!strcmp(what, "calls")) calls();
    if (!strcmp(what, "scribble")) { scribble(); getppid(); }
    if (!strcmp(what, "unmap")) munmap((void *)((uintptr_t)&what & ~4095ul) - (4 << 20), (4 << 20) + 4096), puts("still here");
    if (!strcmp(what, "jump")) ((void (*)(void))(LIBOS + 0x1234 + next() % 65536))();
    if (!strcmp(what, "text")) *(volatile char *)(LIBOS + 64) = 0;
    if (!strcmp(what, "gates")) { memset((void *)CONTROL, 0xa5, 4096 * 2); *(volatile char *)0; }
    if (!strcmp(what, "tables")) {
        /* Every page table of a machine is in here, and everything else of it. */
        for (unsigned long at = 4096; at < (1ul << 20); at += 8) *(volatile uint64_t *)(LINEAR + at) = next();
        getppid();
    }
    if (!strcmp(what, "stack")) { __asm__ volatile("mov $8, %rsp; push %rax"); }
    if (!strcmp(what, "bomb")) for (;;) fork();
    if (!strcmp(what, "memory")) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    return 3;
}
