/* Integers, floating point, memory, a sort, threads, a signal and a jump out of it: prints what is the same everywhere. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x < y ? -1 : x > y;
}

static void *count(void *sum)
{
    long i;
    for (i = 1; i <= 100000; i++)
        *(long *)sum += i * i % 7;
    return 0;
}

static sigjmp_buf back;

static void hear(int signal)
{
    siglongjmp(back, signal);
}

int main(void)
{
    const int most = 2000000;
    char *is_no_prime = calloc(most, 1);
    unsigned *numbers = malloc(200000 * sizeof *numbers), state = 12345, hash = 2166136261u;
    long sums[4] = { 0 };
    pthread_t threads[4];
    double x = 0;
    int i, j, primes = 0;
    for (i = 2; i < most; i++) {
        if (is_no_prime[i])
            continue;
        primes++;
        for (j = 2 * i; j < most; j += i)
            is_no_prime[j] = 1;
    }
    printf("%d primes\n", primes);
    for (i = 0; i < 200000; i++)
        numbers[i] = state = state * 1664525u + 1013904223u;
    qsort(numbers, 200000, sizeof *numbers, compare);
    for (i = 0; i < 200000; i++)
        hash = (hash ^ numbers[i]) * 16777619u;
    printf("%u %u %u\n", hash, numbers[0], numbers[199999]);
    for (i = 1; i < 100000; i++)
        x += sqrt(i) / (1 + i % 13) - floor(i / 7.0);
    printf("%.6f %.17g\n", x, 1.0 / 3);
    for (i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, count, &sums[i]);
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], 0);
    printf("%ld\n", sums[0] + sums[1] + sums[2] + sums[3]);
    signal(SIGSEGV, hear);
    i = sigsetjmp(back, 1);
    if (i == 0)
        *(volatile int *)16 = 1;
    printf("signal %d\n", i);
    return 0;
}
