/* Threads that share words, and code that one writes while another executes it. Prints what went as it must. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void add_exclusive(void *, long), add_ordered(void *, long), add_byte(void *, long), add_atomic(void *, long);
extern void add_pair(void *, long), add_compared(void *, long), add_locked(void *, long);
extern void store_and_load(unsigned *, unsigned *, unsigned *, long);
extern void store_and_load_ordered(unsigned *, unsigned *, unsigned *, long);
extern void send(unsigned *, unsigned *, long);
extern long receive(unsigned *, unsigned *, long);
extern void publish(void *);
extern void synchronise(void);
extern void fence(void);

#ifdef __aarch64__
#define RETURNS(number) { 0x52800000u | (number) << 5, 0xd65f03c0u }
#define JUMPS_OVER_THREE 0x14000003u
#define DOES_NOTHING 0xd503201fu
#else
#define RETURNS(number) { 0x00000513u | (number) << 20, 0x00008067u }
#define JUMPS_OVER_THREE 0x00c0006fu
#define DOES_NOTHING 0x00000013u
#endif

enum { THREADS = 4, PAGE = 4096, LITMUS = 200000 };
static long times;

static void must(int is_so, const char *what)
{
    if (!is_so) {
        printf("WRONG: %s\n", what);
        exit(1);
    }
}

/* Counters. */
struct adder {
    void (*add)(void *, long);
    void *where;
};

static void *adds(void *it)
{
    struct adder *adder = it;
    adder->add(adder->where, times);
    return 0;
}

static void together(void (*add)(void *, long), void *where, int apart)
{
    pthread_t threads[THREADS];
    struct adder adders[THREADS];
    int i;
    for (i = 0; i < THREADS; i++) {
        adders[i].add = add;
        adders[i].where = (char *)where + i * apart;
        pthread_create(&threads[i], 0, adds, &adders[i]);
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], 0);
}

static void counters(void)
{
    static unsigned words[7] __attribute__((aligned(64)));
    static unsigned char bytes[THREADS] __attribute__((aligned(64)));
    static unsigned long pair[2] __attribute__((aligned(64)));
    int i;
    together(add_exclusive, &words[0], 0);
    together(add_ordered, &words[1], 0);
    together(add_atomic, &words[2], 0);
    together(add_compared, &words[3], 0);
    together(add_locked, &words[4], 0);
    together(add_byte, bytes, 1);
    together(add_pair, pair, 0);
    for (i = 0; i < 6; i++)
        must(words[i] == (i == 4 ? 0 : THREADS * times), "a counter");
    for (i = 0; i < THREADS; i++)
        must(bytes[i] == (unsigned char)times, "a byte beside others");
    must(pair[0] == THREADS * times && pair[1] == pair[0], "a pair");
    printf("counters\n");
}

/* What two see of each other's stores. */
static unsigned one[LITMUS], two[LITMUS], seen_of_one[LITMUS], seen_of_two[LITMUS];
static volatile int met;
static void (*exchange)(unsigned *, unsigned *, unsigned *, long);

static void meet(void)
{
    add_atomic((void *)&met, 1);
    while (met < 2)
        ;
}

static void *other_side(void *nothing)
{
    meet();
    exchange(two, one, seen_of_one, LITMUS);
    return nothing;
}

static void *sends(void *nothing)
{
    meet();
    send(one, two, LITMUS);
    return nothing;
}

static void order(void)
{
    pthread_t thread;
    int round, i;
    for (round = 0; round < 20; round++) {
        exchange = round % 2 ? store_and_load : store_and_load_ordered;
        memset(one, 0, sizeof one);
        memset(two, 0, sizeof two);
        met = 0;
        pthread_create(&thread, 0, other_side, 0);
        meet();
        exchange(one, two, seen_of_two, LITMUS);
        pthread_join(thread, 0);
        for (i = 0; i < LITMUS; i++)
            must(seen_of_one[i] || seen_of_two[i], "neither saw the other's store");
        memset(one, 0, sizeof one);
        memset(two, 0, sizeof two);
        met = 0;
        pthread_create(&thread, 0, sends, 0);
        meet();
        must(receive(one, two, LITMUS) == 0, "a flag came before its datum");
        pthread_join(thread, 0);
    }
    printf("order\n");
}

/* Code. The writer says by `ready` what is to be executed, the executor by `done` what it was. */
static volatile unsigned ready, done;
static unsigned *volatile code;

static void pass(volatile unsigned *word, unsigned number)
{
    fence();
    *word = number;
}

static void await(volatile unsigned *word, unsigned number)
{
    while (*word != number)
        sched_yield();
    fence();
}

static void *executes(void *rounds)
{
    unsigned number;
    for (number = 1; number <= (unsigned)(long)rounds; number++) {
        await(&ready, number);
        synchronise();
        must(((unsigned (*)(void))code)() == number % 2000, "old code was executed");
        pass(&done, number);
    }
    return 0;
}

enum way { AT_ONCE, FLIPPED, TWICE_MAPPED, MAPPED_ANEW };

static void write_code(enum way way, unsigned *where, unsigned number)
{
    unsigned words[] = RETURNS(number % 2000);
    if (way == FLIPPED)
        must(mprotect(where, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
    if (way == MAPPED_ANEW) {
        munmap(where, PAGE);
        must(mmap(where, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == where, "mmap");
    }
    memcpy(where, words, sizeof words);
    publish(where);
    if (way == FLIPPED || way == MAPPED_ANEW)
        must(mprotect(where, PAGE, PROT_READ | PROT_EXEC) == 0, "mprotect");
}

static void written(enum way way, const char *name, long rounds)
{
    pthread_t thread;
    unsigned number, *where;
    int both = PROT_READ | PROT_WRITE | PROT_EXEC;
    if (way == TWICE_MAPPED) {
        int file = memfd_create("code", 0);
        must(ftruncate(file, PAGE) == 0, "ftruncate");
        where = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        code = mmap(0, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
        close(file);
    } else {
        code = where = mmap(0, PAGE, both, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    must(where != MAP_FAILED && code != MAP_FAILED, "mmap");
    ready = done = 0;
    pthread_create(&thread, 0, executes, (void *)rounds);
    for (number = 1; number <= (unsigned)rounds; number++) {
        write_code(way, where, number);
        if (way == TWICE_MAPPED)
            publish(code);
        pass(&ready, number);
        await(&done, number);
    }
    pthread_join(thread, 0);
    printf("%s\n", name);
}

/* One instruction that may be changed while it is executed, and nobody waits for anybody. */
static volatile int is_over;

static void *executes_on(void *counts)
{
    while (!is_over) {
        unsigned number = ((unsigned (*)(void))code)();
        must(number == 1 || number == 2, "code that never was");
        ((volatile long *)counts)[number - 1]++;
    }
    return 0;
}

static void changed_meanwhile(void)
{
    static volatile long counts[2];
    unsigned first[] = RETURNS(1), second[] = RETURNS(2), *where;
    pthread_t thread;
    long i;
    where = mmap(0, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(where != MAP_FAILED, "mmap");
    where[0] = DOES_NOTHING;
    memcpy(where + 1, first, sizeof first);
    memcpy(where + 3, second, sizeof second);
    publish(where);
    code = where;
    pthread_create(&thread, 0, executes_on, (void *)counts);
    for (i = 0; i < 200 || counts[0] < 1000 || counts[1] < 1000; i++) {
        long before = counts[0] + counts[1];
        *(volatile unsigned *)where = i % 2 ? JUMPS_OVER_THREE : DOES_NOTHING;
        publish(where);
        while (counts[0] + counts[1] < before + 20)
            sched_yield();
    }
    is_over = 1;
    pthread_join(thread, 0);
    printf("changed while it is executed\n");
}

int main(int count, char **arguments)
{
    long rounds = count > 1 ? atol(arguments[1]) : 2000;
    times = rounds * 50;
    counters();
    order();
    written(AT_ONCE, "written", rounds);
    written(FLIPPED, "flipped between writing and executing", rounds);
    written(TWICE_MAPPED, "mapped twice", rounds);
    written(MAPPED_ANEW, "mapped anew", rounds);
    changed_meanwhile();
    return 0;
}
