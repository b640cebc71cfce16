/* A guest that does what no guest should: its tender must outlive it. The first argument says what. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where a guest and its tender meet: crates/abi/src/layout.rs and port.rs. */
#define LIBOS 0x700000000000ul
#define PORT 0x702000000000ul
#define CONTROL 0x702100000000ul
#define DOORBELL 0x702300000000ul
#define RINGS 0x703000000000ul
#define RING_ROOM (128ul << 10)
#define COUNTERS 0x703100000000ul
#define LINK 0x703300000000ul
#define LINEAR 0x704000000000ul

struct call {
    volatile uint32_t state, number;
    volatile uint64_t arguments[6];
    volatile int64_t result;
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
        uint32_t number = next() % 8 ? next() % 440 : 0x1000 + next() % 20;
        if (number == 62 || number == 200 || number == 234 || number == 0x1003 || number == 0x1004 || number == 0x1005)
            continue;
        for (int j = 0; j < 6; j++) call->arguments[j] = argument();
        call->number = number;
        call->state = 1;
        if (*engine == 2) *(volatile uint32_t *)DOORBELL = 1;
        else usleep(0);
    }
}

/* Asks the tender for sockets, past the library operating system, which has its own. */
static void sockets(void) {
    int families[] = {2, 10, 16, 17, 40, 1};
    for (int i = 0; i < 6; i++) {
        call->arguments[0] = families[i], call->arguments[1] = families[i] == 16 || families[i] == 17 ? 3 : 1;
        for (int j = 2; j < 6; j++) call->arguments[j] = 0;
        call->number = SYS_socket;
        call->state = 1;
        if (*engine == 2) *(volatile uint32_t *)DOORBELL = 1;
        while (call->state == 1) {}
        printf("%d: %d\n", families[i], call->result < 0 ? (int)-call->result : 0);
    }
    fflush(stdout);
    _exit(0);
}

/* The link's rings are the tender's memory, too: noise in them while frames go. */
static void link_of_noise(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = 9 << 8, .sin_addr.s_addr = 1 | next() << 24 | 10};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    for (int round = 0; round < 400; round++) {
        for (int i = 0; i < 30; i++) sendto(s, room, 1400, 0, (void *)&to, sizeof to);
        volatile uint64_t *page = (void *)LINK;
        /* Which counters there are: crates/abi/src/link.rs. */
        for (int i = 0; i < 4; i++) page[16 * (1 + i)] = next() % 3 ? next() : page[16 * (1 + i)] + next() % 4096;
        for (int i = 0; i < 64; i++) page[512 + next() % 98304] = next() % 2 ? next() : next() % 2000;
        usleep(100);
    }
}

static void scribble(void) {
    for (int i = 0; i < 4096 / 8; i++) ((volatile uint64_t *)PORT)[i] = next();
}

/* Pipes between members are memory of both: one fills it with noise while the other uses them in every way. */
static void rings(void) {
    int pipes[24][2];
    char bytes[5000];
    for (int i = 0; i < 24; i++) {
        pipe2(pipes[i], O_NONBLOCK);
        write(pipes[i][1], bytes, 500), read(pipes[i][0], bytes, 100);
    }
    int *words = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    syscall(SYS_futex, words, 1, 1, 0, 0, 0);
    pid_t child = fork();
    if (child == 0)
        for (;;) {
            volatile uint64_t *ring = (void *)(RINGS + next() % 48 * RING_ROOM);
            /* Which counters there are: crates/abi/src/ring.rs. */
            for (int j = 0; j < 40; j++) ring[j] = next() % 3 ? next() : next() % 3;
            ((volatile uint64_t *)COUNTERS)[next() % 512] = next();
            usleep(10);
        }
    for (int round = 0; round < 400; round++) {
        int i = next() % 24;
        struct pollfd one = {pipes[i][0], POLLIN, 0};
        switch (next() % 40) {
        case 0: poll(&one, 1, 0); break;
        case 1: close(pipes[i][next() % 2]); break;
        case 2: fcntl(pipes[i][0], F_SETPIPE_SZ, 4096 << next() % 5); break;
        case 3: close(dup(pipes[i][1])); break;
        default: write(pipes[i][1], bytes, 1 + next() % 5000), read(pipes[i][0], bytes, 1 + next() % 5000);
        }
        syscall(SYS_futex, words, 1, 1, 0, 0, 0);
    }
    kill(child, SIGKILL);
    wait(0);
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
    if (!strcmp(what, "rings")) signal(SIGPIPE, SIG_IGN), alarm(2), rings();
    if (!strcmp(what, "sockets")) sockets();
    if (!strcmp(what, "link")) link_of_noise();
    if (!strcmp(what, "stack")) { __asm__ volatile("mov $8, %rsp; push %rax"); }
    if (!strcmp(what, "bomb")) for (;;) fork();
    if (!strcmp(what, "memory")) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    return 3;
}
