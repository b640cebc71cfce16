// Small programs, each of which asks one thing of a processor: `kernels NAME…` runs those of that name or set, and says when
// each begins and ends, and what it gave.

#include <stdio.h>
#include <string.h>

#include "kernels.h"

static const struct {
    const char *name;
    const struct kernel *kernels;
} sets[] = {{"integer", integer}, {"float", floating}, {"system", sys}};

static int is_among(const char *name, char **names) {
    while (*names && strcmp(*names, name)) names++;
    return *names != 0;
}

int main(int count, char **names) {
    setvbuf(stdout, 0, _IOLBF, 0);
    for (size_t set = 0; count > 1 && set < sizeof sets / sizeof *sets; set++)
        for (const struct kernel *kernel = sets[set].kernels; kernel->name; kernel++) {
            if (!is_among(sets[set].name, names + 1) && !is_among(kernel->name, names + 1)) continue;
            printf("begin %s\n", kernel->name);
            u64 value = kernel->run();
            printf("end %s\ngave %s %016llx\n", kernel->name, kernel->name, (unsigned long long)value);
        }
    return 0;
}
