/* A program that has taken over its whole guest: it finds the page tables and tries to make code of data. After it was
   kept, when it is an appliance. Each line says what came of an attempt. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LINEAR 0x704000000000ul
#define GATES 0x702100001000ul
#define DESCRIPTORS 0x702100000000ul
#define TRAP_STACK 0x702100005000ul
#define LIBOS 0x700000000000ul
#define ROOT 0x1000ul
#define ADDRESS 0x000ffffffffff000ul
#define NO_EXECUTE (1ul << 63)
#define PAGE 4096ul

static sigjmp_buf back;
static void fault(int signal) { siglongjmp(back, signal); }

static void say(const char *what, int done) {
    printf("%s: %s\n", what, done ? "done" : "refused");
    fflush(stdout);
}

/* The entry of that level for an address, in the linear map; NULL when the way does not lead so far. */
static volatile uint64_t *entry(uint64_t at, int level) {
    uint64_t table = ROOT;
    for (int above = 3; above > level; above--) {
        uint64_t it = ((volatile uint64_t *)(LINEAR + table))[at >> (12 + 9 * above) & 511];
        if (!(it & 1) || (above == 1 && it & 0x80)) return NULL;
        table = it & ADDRESS;
    }
    return (volatile uint64_t *)(LINEAR + table) + (at >> (12 + 9 * level) & 511);
}

static volatile uint64_t *page_entry(void *at) { return entry((uint64_t)at, 0); }

/* mov eax, 42; ret */
static const unsigned char CODE[] = {0xb8, 42, 0, 0, 0, 0xc3};

static int run(void *at) {
    if (sigsetjmp(back, 1)) return 0;
    return ((int (*)(void))at)() == 42;
}

static int poke(volatile uint64_t *at) {
    if (sigsetjmp(back, 1)) return 0;
    *at = *at;
    return 1;
}

/* Some page of code that is in the guest's own memory: of the library operating system, as its tables say. */
static uint64_t code_frame(void) {
    for (uint64_t at = LIBOS; at < LIBOS + (1 << 21); at += PAGE) {
        volatile uint64_t *it = page_entry((void *)at);
        if (it && *it & 1 && !(*it & NO_EXECUTE)) return *it & ADDRESS;
    }
    return 0;
}

int main(int count, char **arguments) {
    signal(SIGSEGV, fault);
    signal(SIGBUS, fault);
    signal(SIGILL, fault);
    puts("warm");
    fflush(stdout);
    /* By then it was kept. */
    sleep(count > 1 ? atoi(arguments[1]) : 1);

    /* A large piece, so that its tables are its own. Nothing of it was touched. */
    char *data = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile uint64_t *its = page_entry(data);
    say("found", its && *its & NO_EXECUTE);
    memcpy((void *)(LINEAR + (*its & ADDRESS)), CODE, sizeof CODE);
    *its &= ~NO_EXECUTE;
    say("write an entry", run(data));
    /* Whoever changes tables is asked to look again. */
    mprotect(data + PAGE, PAGE, PROT_READ);
    mprotect(data + PAGE, PAGE, PROT_READ | PROT_WRITE);
    say("have it followed", run(data));
    /* An entry above: the way to another table, of which all is code. */
    char *more = mmap((void *)0x3000000000, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memcpy(more, CODE, sizeof CODE);
    volatile uint64_t *above = entry((uint64_t)more, 1);
    *above &= ~NO_EXECUTE;
    char *again = more + (4 << 20);
    volatile uint64_t *fresh = entry((uint64_t)again, 1);
    *fresh = *above;
    say("write a large entry", run(again));
    /* By another address of it, code can be written to. */
    uint64_t code = code_frame();
    say("code was found", code != 0);
    say("write to code", poke((volatile uint64_t *)(LINEAR + code)));
    /* The ways into kernel mode. */
    say("write to the gates", poke((volatile uint64_t *)GATES));
    say("write to the descriptors", poke((volatile uint64_t *)DESCRIPTORS));
    volatile uint64_t *gates = page_entry((void *)GATES);
    say("write to the gates' frame", poke((volatile uint64_t *)(LINEAR + (*gates & ADDRESS))));
    /* The rest of it works as ever. */
    char *fine = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(fine, 7, 64 * PAGE);
    munmap(fine, 32 * PAGE);
    if (!sigsetjmp(back, 1)) {
        *(volatile char *)fine;
        say("what is unmapped", 1);
    } else {
        say("what is unmapped", 0);
    }
    mprotect(fine + 32 * PAGE, PAGE, PROT_READ);
    if (!sigsetjmp(back, 1)) {
        *(volatile char *)(fine + 32 * PAGE) = 1;
        say("what is protected", 1);
    } else {
        say("what is protected", 0);
    }
    for (int round = 0; round < 50; round++) {
        char *it = mmap(NULL, 3 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int at = 0; at < 3 << 20; at += PAGE) {
            if (it[at] != 0) say("zeroes", 0);
            it[at] = round + 1;
        }
        it = mremap(it, 3 << 20, 5 << 20, MREMAP_MAYMOVE);
        if (it[(3 << 20) - PAGE] != round + 1 || it[(5 << 20) - 1] != 0) say("moved", 0);
        munmap(it, 5 << 20);
    }
    say("the end", 1);
    return 0;
}
