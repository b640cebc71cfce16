// What the files of `kernels` share: a table of each, and numbers that look random.

#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;

// A small program: what it gives must be the same everywhere.
struct kernel {
    const char *name;
    u64 (*run)(void);
};

// Each ends with one without a name.
extern const struct kernel integer[], floating[], sys[];

static inline u64 next(u64 *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

enum { SEED = 88172645 };
