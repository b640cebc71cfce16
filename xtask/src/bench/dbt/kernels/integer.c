// What whole numbers, memory and jumps take.

#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static u64 intloop(void) {
    u64 a = 1, b = 2;
    for (u64 i = 0; i < 200000000; i++) {
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
    for (int round = 0; round < 40; round++) {
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
    u64 seed = SEED;
    for (int i = 0; i < N; i++) order[i] = i;
    for (int i = N - 1; i > 0; i--) {
        int j = next(&seed) % (i + 1), t = order[i];
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
    u64 seed = SEED;
    for (int i = 0; i < N; i++) list[i] = next(&seed);
    qsort(list, N, sizeof *list, compare);
    return list[N / 2];
}

static u64 hash(void) {
    static unsigned char text[1 << 16];
    for (size_t i = 0; i < sizeof text; i++) text[i] = i * 7;
    u64 h = 14695981039346656037ull;
    for (int round = 0; round < 3000; round++)
        for (size_t i = 0; i < sizeof text; i++) h = (h ^ text[i]) * 1099511628211ull;
    return h;
}

static __attribute__((noinline)) u64 add1(u64 x) { return x + 1; }
static __attribute__((noinline)) u64 add3(u64 x) { return x + 3; }
static __attribute__((noinline)) u64 twice(u64 x) { return x * 2; }
static u64 icall(void) {
    u64 (*volatile table[4])(u64) = {add1, add3, twice, add1};
    u64 x = 0;
    for (int i = 0; i < 40000000; i++) x = table[i & 3](x);
    return x;
}

// What programs of embedded processors do, in turn: a list that is sorted and reversed, a matrix of small numbers, words that
// are told apart by a machine of states, and a check sum of all that.
struct item {
    struct item *next;
    int16_t value, place;
};

static uint16_t checksum(uint16_t sum, uint16_t value) {
    for (int bit = 0; bit < 16; bit++, value >>= 1) sum = (sum ^ value) & 1 ? (sum >> 1) ^ 0xa001 : sum >> 1;
    return sum;
}

static struct item *merge(struct item *a, struct item *b) {
    struct item head, *last = &head;
    while (a && b) {
        struct item **least = a->value <= b->value ? &a : &b;
        last = last->next = *least;
        *least = (*least)->next;
    }
    last->next = a ? a : b;
    return head.next;
}

static struct item *sorted(struct item *list) {
    if (!list || !list->next) return list;
    struct item *middle = list;
    for (struct item *end = list->next; end && end->next; end = end->next->next) middle = middle->next;
    struct item *rest = middle->next;
    middle->next = 0;
    return merge(sorted(list), sorted(rest));
}

static uint16_t lists(uint16_t sum) {
    enum { N = 80 };
    struct item items[N], *list = 0;
    for (int i = 0; i < N; i++) {
        items[i] = (struct item){list, (int16_t)(sum * (i + 3) ^ i << 4), (int16_t)i};
        list = &items[i];
    }
    for (int wanted = 0; wanted < N; wanted += 5)
        for (struct item *at = list; at; at = at->next)
            if (at->place == wanted) sum = checksum(sum, at->value);
    list = sorted(list);
    struct item *reversed = 0;
    while (list) {
        struct item *rest = list->next;
        list->next = reversed;
        reversed = list;
        list = rest;
    }
    for (; reversed; reversed = reversed->next) sum = checksum(sum, reversed->value);
    return sum;
}

static uint16_t matrices(uint16_t sum) {
    enum { N = 16 };
    int16_t a[N][N], b[N][N];
    int32_t c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = sum + i * j;
            b[i][j] = (sum >> 3) - i + j;
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            c[i][j] = 0;
            for (int k = 0; k < N; k++) c[i][j] += (int32_t)a[i][k] * b[k][j];
            c[i][j] = (c[i][j] >> 2 & 15) * (c[i][j] >> 5 & 127);
        }
    for (int i = 0; i < N; i++) sum = checksum(sum, (uint16_t)c[i][(i * 7) % N]);
    return sum;
}

static uint16_t states(uint16_t sum) {
    static const char text[] = "5012,+1234,-874,0x1f,1.5e+3,-.5,T0.3e-1F,abc,-110.700,+0.64400,+1e,99999,5.5.5,";
    enum state { START, SIGN, WHOLE, POINT, FRACTION, POWER, POWER_SIGN, EXPONENT, WRONG, STATES } state = START;
    int counts[STATES] = {0};
    for (const char *at = text; *at; at++) {
        int is_digit = *at >= '0' && *at <= '9', is_sign = *at == '+' || *at == '-';
        if (*at == ',') {
            counts[state]++;
            state = START;
            continue;
        }
        switch (state) {
        case START: state = is_digit ? WHOLE : is_sign ? SIGN : *at == '.' ? POINT : WRONG; break;
        case SIGN: state = is_digit ? WHOLE : *at == '.' ? POINT : WRONG; break;
        case WHOLE: state = is_digit ? WHOLE : *at == '.' ? FRACTION : *at == 'e' ? POWER : WRONG; break;
        case POINT:
        case FRACTION: state = is_digit ? FRACTION : *at == 'e' ? POWER : WRONG; break;
        case POWER: state = is_sign ? POWER_SIGN : is_digit ? EXPONENT : WRONG; break;
        case POWER_SIGN:
        case EXPONENT: state = is_digit ? EXPONENT : WRONG; break;
        default: break;
        }
        counts[WRONG] += (*at ^ sum) & 1;
    }
    for (int i = 0; i < STATES; i++) sum = checksum(sum, counts[i]);
    return sum;
}

static u64 mixed(void) {
    uint16_t sum = 1;
    for (int round = 0; round < 15000; round++) sum = states(matrices(lists(sum)));
    return sum;
}

const struct kernel integer[] = {
    {"intloop", intloop}, {"fib", calls}, {"sieve", sieve}, {"chase", chase}, {"sort", sort},
    {"hash", hash},       {"icall", icall}, {"mixed", mixed}, {0},
};
