// Memory: what is mapped, what faults, what is shared.
#include "case.h"
#include <setjmp.h>

#define PAGE 4096L
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static void *any(long length, int rights, int flags, int fd, long offset) {
    void *at = mmap(NULL, length, rights, flags, fd, offset);
    return at;
}

static long worked(void *at) { return at == MAP_FAILED ? -1 : at != NULL; }

void memory(void) {
    char *a = any(4 * PAGE, RW, ANON, -1, 0);
    T(worked(a));
    T(a[100]);
    T((long)a % PAGE);
    memset(a, 7, 4 * PAGE);
    T(worked(any(0, RW, ANON, -1, 0)));
    T(worked(any(PAGE, RW, MAP_ANONYMOUS, -1, 0)));
    T(worked(any(PAGE, RW, MAP_PRIVATE, 99, 0)));
    T(worked(any(1L << 62, RW, ANON, -1, 0)));
    T(mmap(a + PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0) == a + PAGE);
    T(a[PAGE] * 100 + a[0] * 10 + a[2 * PAGE]);
    T(worked(mmap(a, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0)));
    T(worked(mmap(a + 1, PAGE, RW, ANON | MAP_FIXED, -1, 0)));
    T(munmap(a + 3 * PAGE, PAGE));
    T(munmap(a + 3 * PAGE, PAGE));
    T(munmap(a + 1, PAGE));
    T(munmap(a, 0));
    T(mprotect(a, PAGE, PROT_READ));
    T(a[5]);
    T(mprotect(a + 3 * PAGE, PAGE, PROT_READ));
    T(mprotect(a + 1, PAGE, PROT_READ));
    T(mprotect(a, 0, PROT_READ));
    T(mprotect(a, PAGE, RW));
    T(madvise(a, PAGE, MADV_DONTNEED));
    T(a[5]);
    T(madvise(a + 3 * PAGE, PAGE, MADV_DONTNEED));
    T(madvise(a, PAGE, 9999));
    T(madvise(a, PAGE, MADV_WILLNEED));
    T(madvise(a + 1, PAGE, MADV_DONTNEED));
    char *b = any(2 * PAGE, RW, ANON, -1, 0);
    memset(b, 9, 2 * PAGE);
    T(worked(b = mremap(b, 2 * PAGE, 10 * PAGE, MREMAP_MAYMOVE)));
    T(b[0] * 100 + b[2 * PAGE - 1] * 10 + b[2 * PAGE]);
    T(worked(mremap(b, 10 * PAGE, PAGE, 0)));
    T(worked(mremap(b, PAGE, 0, MREMAP_MAYMOVE)));
    T(worked(mremap(b + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE)));
    T(worked(mremap(b + 5 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE)));
    T(worked(mremap(b, PAGE, PAGE, 99)));
    char *to = any(PAGE, RW, ANON, -1, 0);
    T(mremap(b, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    T(to[0]);
    // The heap.
    char *end = sbrk(0);
    T(sbrk(3 * PAGE) == end);
    end[0] = end[3 * PAGE - 1] = 5;
    T(brk(end));
    T(sbrk(PAGE) == end);
    T(end[0] * 10);
    // Files.
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(write(3, "hello", 5));
    char *f = any(PAGE, RW, MAP_PRIVATE, 3, 0);
    T(worked(f));
    T(f[0] * 1000 + f[5]);
    f[0] = 'J';
    char c = 0;
    T(pread(3, &c, 1, 0));
    T(c);
    char *g = any(PAGE, RW, MAP_SHARED, 3, 0);
    T(worked(g));
    g[1] = 'E';
    T(pread(3, &c, 1, 1));
    T(c);
    T(pwrite(3, "L", 1, 2));
    T(g[2]);
    T(msync(g, PAGE, MS_SYNC));
    T(msync(g + 1, PAGE, MS_SYNC));
    T(msync(a + 3 * PAGE, PAGE, MS_SYNC));
    T(worked(any(PAGE, RW, MAP_SHARED, 3, 5)));
    T(close(3));
    T(g[0]);
    T(open("f", O_RDONLY));
    T(worked(any(PAGE, RW, MAP_SHARED, 3, 0)));
    T(worked(any(PAGE, RW, MAP_PRIVATE, 3, 0)));
    T(worked(any(PAGE, PROT_READ, MAP_SHARED, 3, 0)));
    T(open("f", O_WRONLY));
    T(worked(any(PAGE, PROT_READ, MAP_PRIVATE, 4, 0)));
    T(open(".", O_RDONLY));
    T(worked(any(PAGE, PROT_READ, MAP_PRIVATE, 5, 0)));
    unsigned char in[4];
    T(mincore(a, PAGE, in));
    T(mincore(a + 3 * PAGE, PAGE, in));
    T(mlock(a, PAGE));
    T(munlock(a, PAGE));
    // Code that was written a moment ago.
    unsigned char *code = any(PAGE, RW, ANON, -1, 0);
    memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6);
    T(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
    T(((int (*)(void))code)());
    T(mprotect(code, PAGE, RW));
    code[1] = 43;
    T(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
    T(((int (*)(void))code)());
    // Much of it.
    char *big = any(256 << 20, RW, ANON | MAP_NORESERVE, -1, 0);
    T(worked(big));
    for (long at = 0; at < 256 << 20; at += 8 << 20)
        big[at] = 1;
    T(big[8 << 20] + big[(8 << 20) + PAGE]);
    T(munmap(big, 256 << 20));
    T(worked(any(64L << 30, PROT_NONE, ANON | MAP_NORESERVE, -1, 0)));
    T(write(3 + 1, a + 3 * PAGE, 1));
    T(read(3, a + 3 * PAGE, 1));
    T(pipe((int *)(a + 3 * PAGE)));
}

static sigjmp_buf back;
static siginfo_t what;

static void jump(int signal, siginfo_t *info, void *context) {
    (void)context;
    what = *info;
    siglongjmp(back, signal);
}

static void *volatile where;
static volatile int zero;

static void write_there(void) { *(volatile char *)where = 1; }
static void read_there(void) { (void)*(volatile char *)where; }
static void divide(void) { zero = 1 / zero; }
static void undefined(void) { __asm__ volatile("ud2"); }
static void stop_here(void) { __asm__ volatile("int3"); }
static void call_there(void) { ((void (*)(void))where)(); }

static long try(void (*what_to_do)(void)) {
    what = (siginfo_t){0};
    int signal = sigsetjmp(back, 1);
    if (!signal)
        what_to_do();
    return signal * 100000 + what.si_code * 10 + (what.si_addr == where);
}

void faults(void) {
    struct sigaction action = {.sa_sigaction = jump, .sa_flags = SA_SIGINFO};
    int all[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 5; i++)
        sigaction(all[i], &action, NULL);
    char *a = mmap(NULL, 2 * PAGE, RW, ANON, -1, 0);
    where = a;
    T(try(read_there));
    munmap(a + PAGE, PAGE);
    where = a + PAGE + 17;
    T(try(read_there));
    T(try(write_there));
    where = a + 5;
    T(mprotect(a, PAGE, PROT_READ));
    T(try(write_there));
    T(try(read_there));
    T(mprotect(a, PAGE, PROT_NONE));
    T(try(read_there));
    T(mprotect(a, PAGE, RW));
    where = a;
    a[0] = (char)0xc3;
    T(try(call_there));
    where = NULL;
    T(try(read_there));
    T(try(divide) / 10);
    T(try(undefined) / 100000);
    T(try(stop_here) / 100000);
    where = (void *)0x800000000000;
    T(try(read_there) / 100000);
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    where = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
    T(try(read_there));
    T(IN_CHILD({
        signal(SIGSEGV, SIG_DFL);
        where = NULL;
        read_there();
    }));
    T(IN_CHILD({
        signal(SIGSEGV, SIG_IGN);
        where = NULL;
        read_there();
    }));
    T(IN_CHILD(abort()));
    T(IN_CHILD({
        signal(SIGFPE, SIG_DFL);
        divide();
    }));
    // Kernel memory is nobody's.
    where = (void *)-8L;
    T(try(read_there) / 100000);
    T(write(1, (void *)-8L, 5));
}

void sharing(void) {
    int *a = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *b = mmap(NULL, PAGE, RW, ANON, -1, 0);
    a[0] = b[0] = 1;
    T(IN_CHILD({
        a[0] = 2;
        b[0] = 2;
        a[1]++;
    }));
    T(a[0] * 100 + b[0] * 10 + a[1]);
    T(open("f", O_CREAT | O_RDWR, 0600));
    T(ftruncate(3, PAGE));
    int *c = mmap(NULL, PAGE, RW, MAP_SHARED, 3, 0);
    int *d = mmap(NULL, PAGE, RW, MAP_PRIVATE, 3, 0);
    c[0] = 5;
    T(d[0]);
    T(IN_CHILD(c[0] = 6));
    T(c[0]);
    d[1] = 3;
    T(c[1]);
    T(IN_CHILD({
        T(d[1]);
        d[1] = 4;
        int *again = mmap(NULL, PAGE, RW, MAP_SHARED, 3, 0);
        again[2] = 8;
    }));
    T(d[1]);
    T(c[2]);
    // Nothing of a child's memory is the parent's.
    static char data[3 * PAGE];
    memset(data, 1, sizeof data);
    T(IN_CHILD(memset(data, 2, sizeof data)));
    T(data[0] + data[2 * PAGE]);
    // One that was moved, or made smaller, is the same.
    int *big = mmap(NULL, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    big[0] = 1;
    T(mprotect(big, PAGE, PROT_READ));
    T(big[0]);
    T(mprotect(big, PAGE, RW));
    T(IN_CHILD(big[PAGE / 4 * 3] = 9));
    T(big[PAGE / 4 * 3]);
    big = mremap(big, 4 * PAGE, 2 * PAGE, 0);
    T(IN_CHILD(big[PAGE / 4] = 9));
    T(big[PAGE / 4]);
    int m = memfd_create("m", 0);
    T(ftruncate(m, PAGE));
    int *e = mmap(NULL, PAGE, RW, MAP_SHARED, m, 0);
    e[0] = 77;
    int value = 0;
    T(pread(m, &value, 4, 0));
    T(value);
    T(IN_CHILD({
        int x = 78;
        pwrite(m, &x, 4, 0);
    }));
    T(e[0]);
    // Two processes take turns.
    volatile int *turn = a + 100;
    *turn = 0;
    pid_t child = START({
        for (int i = 0; i < 50; i++) {
            while (*turn != 1)
                sched_yield();
            *turn = 0;
        }
    });
    for (int i = 0; i < 50; i++) {
        while (*turn != 0)
            sched_yield();
        *turn = 1;
    }
    T(waitpid(child, NULL, 0) == child);
}
