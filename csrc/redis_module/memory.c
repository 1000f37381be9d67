/* Memory of commands, kept from one to the next while it is small. */
#include "module.h"

enum { MOST_KEPT = 4 << 20 };

static struct {
    void *at;
    size_t n;
} kept[N_PURPOSES];

void *command_memory(memory_purpose purpose, size_t n) {
    const size_t had = kept[purpose].n;
    if (n <= had && (had <= MOST_KEPT || n > MOST_KEPT / 2))
        return kept[purpose].at;
    redis.Free(kept[purpose].at);
    kept[purpose].n = n + n / 4 + 64;
    kept[purpose].at = redis.Alloc(kept[purpose].n);
    return kept[purpose].at;
}

size_t command_memory_bytes(void) {
    size_t n = 0;
    for (int i = 0; i < N_PURPOSES; i++)
        n += kept[i].n;
    return n;
}
