// Small programs, each of which asks one thing of a processor: `kernels NAME…` runs those of that name or set, and says when
// each begins and ends, and gives a number that must be the same everywhere.

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t u64;

static u64 seed = 88172645463325252ull;

static u64 next(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static u64 intloop(void) {
    u64 a = 1, b = 2;
    for (u64 i = 0; i < 100000000; i++) {
        a = a * 3 + (b ^ i);
        b += a >> 7;
    }
    return a ^ b;
}

static __attribute__((noinline)) u64 fib(u64 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static u64 calls(void) { return fib(36); }

static u64 sieve(void) {
    enum { N = 1 << 20 };
    static unsigned char composite[N];
    u64 count = 0;
    for (int round = 0; round < 8; round++) {
        memset(composite, 0, N);
        count = 0;
        for (u64 i = 2; i < N; i++) {
            if (composite[i]) continue;
            count++;
            for (u64 j = i * i; j < N; j += i) composite[j] = 1;
        }
    }
    return count;
}

static u64 chase(void) {
    enum { N = 1 << 15 };
    static void *ring[N];
    static int order[N];
    for (int i = 0; i < N; i++) order[i] = i;
    for (int i = N - 1; i > 0; i--) {
        int j = next() % (i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < N; i++) ring[order[i]] = &ring[order[(i + 1) % N]];
    void **at = ring;
    for (int i = 0; i < 60000000; i++) at = *at;
    return (u64)(at == (void **)7) + N;
}

static int compare(const void *a, const void *b) {
    u64 x = *(const u64 *)a, y = *(const u64 *)b;
    return x < y ? -1 : x > y;
}

static u64 sort(void) {
    enum { N = 1 << 19 };
    static u64 list[N];
    for (int i = 0; i < N; i++) list[i] = next();
    qsort(list, N, sizeof *list, compare);
    return list[N / 2];
}

static u64 hash(void) {
    static unsigned char text[1 << 16];
    for (size_t i = 0; i < sizeof text; i++) text[i] = i * 7;
    u64 h = 14695981039346656037ull;
    for (int round = 0; round < 600; round++)
        for (size_t i = 0; i < sizeof text; i++) h = (h ^ text[i]) * 1099511628211ull;
    return h;
}

static __attribute__((noinline)) u64 add1(u64 x) { return x + 1; }
static __attribute__((noinline)) u64 add3(u64 x) { return x + 3; }
static __attribute__((noinline)) u64 twice(u64 x) { return x * 2; }
static u64 icall(void) {
    u64 (*volatile table[4])(u64) = {add1, add3, twice, add1};
    u64 x = 0;
    for (int i = 0; i < 20000000; i++) x = table[i & 3](x);
    return x;
}

static u64 matmul(void) {
    enum { N = 200 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = i + j;
            b[i][j] = i - j;
        }
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = 0;
                for (int k = 0; k < N; k++) s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
    return (u64)(long)c[N / 2][N / 3];
}

static u64 mandel(void) {
    u64 count = 0;
    for (int y = 0; y < 300; y++)
        for (int x = 0; x < 300; x++) {
            double cr = x / 150.0 - 1.5, ci = y / 150.0 - 1, zr = 0, zi = 0;
            int n = 0;
            while (n < 200 && zr * zr + zi * zi < 4) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = t;
                n++;
            }
            count += n;
        }
    return count;
}

static u64 nbody(void) {
    static double p[5][3], v[5][3];
    double m[5] = {40, 0.04, 0.01, 0.002, 0.002};
    for (int i = 0; i < 5; i++)
        for (int d = 0; d < 3; d++) {
            p[i][d] = i * 3 + d + 1;
            v[i][d] = (d - 1) * 0.1 * i;
        }
    for (int step = 0; step < 300000; step++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                double x = p[i][0] - p[j][0], y = p[i][1] - p[j][1], z = p[i][2] - p[j][2];
                double d2 = x * x + y * y + z * z, mag = 0.001 / (d2 * __builtin_sqrt(d2));
                v[i][0] -= x * m[j] * mag;
                v[i][1] -= y * m[j] * mag;
                v[i][2] -= z * m[j] * mag;
                v[j][0] += x * m[i] * mag;
                v[j][1] += y * m[i] * mag;
                v[j][2] += z * m[i] * mag;
            }
        for (int i = 0; i < 5; i++)
            for (int d = 0; d < 3; d++) p[i][d] += 0.001 * v[i][d];
    }
    return (u64)(long)(p[0][0] * 1000);
}

static u64 fsum(void) {
    static float list[1 << 16];
    for (int i = 0; i < 1 << 16; i++) list[i] = i * 0.5f;
    float s = 0;
    for (int round = 0; round < 600; round++)
        for (int i = 0; i < 1 << 16; i++) s = s * 0.999f + list[i];
    return (u64)(long)s;
}

static u64 spectral(void) {
    enum { N = 300 };
    static double u[N], v[N];
    for (int i = 0; i < N; i++) u[i] = 1;
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < N; i++) {
            v[i] = 0;
            for (int j = 0; j < N; j++) v[i] += u[j] / ((i + j) * (i + j + 1) / 2 + i + 1);
        }
        memcpy(u, v, sizeof u);
    }
    return (u64)(u[0] * 1e6);
}

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

static struct {
    const char *set, *name;
    u64 (*run)(void);
} const kernels[] = {
    {"integer", "intloop", intloop}, {"integer", "fib", calls},   {"integer", "sieve", sieve},
    {"integer", "chase", chase},     {"integer", "sort", sort},   {"integer", "hash", hash},
    {"integer", "icall", icall},     {"float", "matmul", matmul}, {"float", "mandel", mandel},
    {"float", "nbody", nbody},       {"float", "fsum", fsum},     {"float", "spectral", spectral},
    {"system", "syscall", syscalls}, {"system", "fork", forks},   {"system", "fault", faults},
    {"system", "pipe", pipes},
};

int main(int count, char **wanted) {
    setvbuf(stdout, 0, _IOLBF, 0);
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        const char *name = kernels[k].name;
        int is_wanted = count < 2;
        for (int i = 1; i < count; i++) is_wanted |= !strcmp(wanted[i], kernels[k].set) || !strcmp(wanted[i], name);
        if (!is_wanted) continue;
        printf("begin %s\n", name);
        u64 value = kernels[k].run();
        printf("end %s\ngave %s %016llx\n", name, name, (unsigned long long)value);
    }
    return 0;
}
