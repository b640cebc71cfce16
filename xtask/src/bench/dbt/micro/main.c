// What a processor does beside computing, a piece at a time, on a bare machine: the categories are those in which emulators of
// whole systems are usually compared. Each says when it begins and ends, and gives a number that must be the same everywhere.
//
// The board is what both machines have: memory at 1 GiB, a PL011, a GICv3, firmware behind HVC.

#include <stdint.h>

typedef uint64_t u64;

#define READ(name) ({ u64 value_; asm volatile("mrs %0, " #name : "=r"(value_)); value_; })
#define WRITE(name, value) asm volatile("msr " #name ", %0" ::"r"((u64)(value)))
#define BARRIER() asm volatile("dsb sy\n isb" ::: "memory")

static volatile uint32_t *const serial = (volatile uint32_t *)0x09000000;
static volatile uint32_t *const distributor = (volatile uint32_t *)0x08000000;
static volatile uint32_t *const redistributor = (volatile uint32_t *)0x080a0000;
// Memory behind all that a machine starts with, in pages of 4 KiB, which programs without privileges may use, too.
static volatile u64 *const pages = (volatile u64 *)0x50000000;
enum { PAGES = 16384, PAGE = 4096 / 8 };
// Nothing is here.
static const u64 nowhere = 0x80000000;

volatile u64 taken;
u64 same_page_direct(u64), same_page_indirect(u64), other_page_direct(u64), other_page_indirect(u64);
void power_off(void);

static void put(char c) {
    while (serial[6] & 32) {}
    serial[0] = c;
}

static void say(const char *text) {
    for (; *text; text++) put(*text);
}

static void say_number(u64 value) {
    for (int at = 60; at >= 0; at -= 4) put("0123456789abcdef"[value >> at & 15]);
}

void report_wrong(u64 syndrome, u64 at) {
    say("unexpected exception ");
    say_number(syndrome);
    say(" at ");
    say_number(at);
    put('\n');
}

// Code that is written while it is used: words, and a return behind them.
static uint32_t code[1 << 14] __attribute__((aligned(4096)));
enum { RETURN = 0xd65f03c0, ADD = 0x91000000 };

static void write_code(uint32_t *at, int words, u64 immediate) {
    for (int i = 0; i < words; i++) at[i] = ADD | (immediate & 0xfff) << 10; // add x0, x0, #immediate
    at[words] = RETURN;
    for (char *line = (char *)at; line <= (char *)(at + words); line += 64) asm volatile("dc cvau, %0" ::"r"(line));
    asm volatile("dsb ish");
    for (char *line = (char *)at; line <= (char *)(at + words); line += 64) asm volatile("ic ivau, %0" ::"r"(line));
    asm volatile("dsb ish\n isb" ::: "memory");
}

static u64 call(uint32_t *at, u64 value) { return ((u64(*)(u64))at)(value); }

static u64 small_code(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) {
        uint32_t *at = code + i % 64 * 64;
        write_code(at, 3, i);
        sum = call(at, sum);
    }
    return sum;
}

static u64 large_code(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) {
        write_code(code, 900, i);
        sum = call(code, sum);
    }
    return sum;
}

static u64 calls(u64 count) {
    u64 before = taken;
    for (u64 i = 0; i < count; i++) asm volatile("svc #0" ::: "memory");
    return taken - before;
}

static u64 undefined(u64 count) {
    u64 before = taken;
    for (u64 i = 0; i < count; i++) asm volatile(".inst 0" ::: "memory");
    return taken - before;
}

static u64 data_fault(u64 count) {
    u64 before = taken;
    for (u64 i = 0; i < count; i++) asm volatile("ldr x9, [%0]" ::"r"(nowhere) : "x9", "memory");
    return taken - before;
}

static u64 instruction_fault(u64 count) {
    u64 before = taken;
    for (u64 i = 0; i < count; i++) asm volatile("blr %0" ::"r"(nowhere) : "x30", "memory");
    return taken - before;
}

static u64 interrupt(u64 count) {
    u64 before = taken;
    for (u64 i = 0; i < count; i++) {
        WRITE(s3_0_c12_c11_5, 1 << 24 | 1); // ICC_SGI1R_EL1: number 1 to processor 0
        asm volatile("isb");
        while (taken == before + i) {}
    }
    return taken - before;
}

static u64 hot(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) {
        sum += *pages;
        *pages = i;
    }
    return sum;
}

static u64 cold(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) sum += pages[i % PAGES * PAGE]++;
    return sum;
}

static u64 unprivileged(u64 count) {
    u64 sum = 0, value;
    for (u64 i = 0; i < count; i++) {
        asm volatile("ldtr %0, [%1]" : "=r"(value) : "r"(pages) : "memory");
        asm volatile("sttr %0, [%1]" ::"r"(i), "r"(pages) : "memory");
        sum += value;
    }
    return sum;
}

static u64 flush_all(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) {
        asm volatile("dsb ishst\n tlbi vmalle1\n dsb ish\n isb" ::: "memory");
        sum += pages[i % 16 * PAGE]++;
    }
    return sum;
}

static u64 flush_one(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) {
        volatile u64 *at = pages + i % 16 * PAGE;
        asm volatile("dsb ishst\n tlbi vaae1, %0\n dsb ish\n isb" ::"r"((u64)at >> 12) : "memory");
        sum += (*at)++;
    }
    return sum;
}

static u64 device(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) sum += serial[0xfe0 / 4];
    return sum;
}

static u64 system_register(u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++) {
        WRITE(tpidr_el1, i);
        sum += READ(tpidr_el1) + READ(cpacr_el1);
    }
    return sum;
}

static u64 first[512] __attribute__((aligned(4096))), second[512] __attribute__((aligned(4096)));
static u64 third[PAGES] __attribute__((aligned(4096)));

// The first GiB is devices, the second memory where it is.
static void translate(void) {
    enum { TABLE = 3, BLOCK = 1, LEAF = 3, USED = 1 << 10, INNER = 3 << 8, NORMAL = 1 << 2, EVERYBODY = 1 << 6 };
    for (u64 i = 0; i < PAGES; i++) third[i] = ((u64)pages + i * 4096) | LEAF | USED | INNER | NORMAL | EVERYBODY;
    for (u64 i = 0; i < 512; i++) second[i] = (0x40000000 + (i << 21)) | BLOCK | USED | INNER | NORMAL;
    for (u64 i = 0; i < PAGES / 512; i++) second[((u64)pages >> 21 & 511) + i] = (u64)(third + i * 512) | TABLE;
    first[0] = BLOCK | USED;
    first[1] = (u64)second | TABLE;
    WRITE(mair_el1, 0xff04);
    // 39 bits of addresses, 40 of memory's; tables in what caches keep; no upper half.
    WRITE(tcr_el1, 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2ull << 32);
    WRITE(ttbr0_el1, first);
    asm volatile("dsb sy\n tlbi vmalle1\n dsb sy\n isb" ::: "memory");
    WRITE(sctlr_el1, READ(sctlr_el1) | 1 | 1 << 2 | 1 << 12);
    BARRIER();
}

static void listen(void) {
    distributor[0] = 0x12; // what everybody may use, by names of processors
    redistributor[0x14 / 4] &= ~2u;
    while (redistributor[0x14 / 4] & 4) {}
    volatile uint32_t *own = redistributor + 0x10000 / 4;
    own[0x80 / 4] = ~0u;
    own[0x400 / 4] = 0x80808080;
    own[0x100 / 4] = 1 << 1;
    WRITE(s3_0_c12_c12_5, 7); // ICC_SRE_EL1
    BARRIER();
    WRITE(s3_0_c4_c6_0, 0xff); // ICC_PMR_EL1
    WRITE(s3_0_c12_c12_7, 1); // ICC_IGRPEN1_EL1
    BARRIER();
    asm volatile("msr daifclr, #2");
}

static void measure(const char *name, u64 (*run)(u64), u64 count) {
    say("begin ");
    say(name);
    put('\n');
    u64 value = run(count);
    say("end ");
    say(name);
    say("\ngave ");
    say(name);
    put(' ');
    say_number(value);
    put('\n');
}

int main(void) {
    say("INIT REACHED\n");
    measure("hot-physical", hot, 100000000);
    measure("cold-physical", cold, 3000000);
    translate();
    measure("hot", hot, 100000000);
    measure("cold", cold, 1500000);
    measure("unprivileged", unprivileged, 40000000);
    measure("flush-all", flush_all, 150000);
    measure("flush-one", flush_one, 1000000);
    measure("code-small", small_code, 40000);
    measure("code-large", large_code, 1000);
    measure("direct", same_page_direct, 30000000);
    measure("direct-far", other_page_direct, 2000000);
    measure("indirect", same_page_indirect, 2000000);
    measure("indirect-far", other_page_indirect, 2000000);
    measure("call", calls, 600000);
    measure("undefined", undefined, 400000);
    measure("data-fault", data_fault, 400000);
    measure("code-fault", instruction_fault, 400000);
    listen();
    measure("interrupt", interrupt, 200000);
    measure("device", device, 4000000);
    measure("register", system_register, 20000000);
    power_off();
    return 0;
}
