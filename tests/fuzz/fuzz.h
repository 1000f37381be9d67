/* fuzz.h -- what the fuzz targets share.
 *
 * A target is one file, fuzz_NAME.c, with LLVMFuzzerTestOneInput, and one line in targets.txt.
 * run.sh builds it with libFuzzer where there is clang, with driver.c otherwise. It may also define
 * fuzz_words (pieces of text that mutations put in) and fuzz_seed (inputs made by code: unlike
 * files they follow when a format changes).
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cf_dispatch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Ends with NULL; "" stands for a NUL byte. */
extern const char *const fuzz_words[] __attribute__((weak));

/* Writes seed `i` to out[0, room) and returns its length; 0: there are no more. */
size_t fuzz_seed(size_t i, uint8_t *out, size_t room) __attribute__((weak));

#define CHECK(claim)                                                                               \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim);                    \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Memory of exactly n bytes, so that the sanitizer sees any step outside; what it holds at first is
 * the same in every run. */
static inline void *exactly(size_t n) {
    void *memory = malloc(n);
    CHECK(memory != NULL);
    return memset(memory, 0xa5, n);
}

static inline void *copy_exactly(const void *bytes, size_t n) {
    void *copy = exactly(n);
    if (n != 0)
        memcpy(copy, bytes, n);
    return copy;
}

static inline int same_bytes(const void *a, const void *b, size_t n) {
    return n == 0 || memcmp(a, b, n) == 0;
}

/* The i-th table of kernels that this CPU can run, best first; NULL past the last, the scalar. The
 * CPU is asked once: in a virtual machine each cpuid leaves it, for tens of microseconds. */
static inline const cf_kernels *usable_kernels(size_t i) {
    static int is_known;
    static unsigned cpu;
    if (!is_known)
        cpu = cf_cpu_features();
    is_known = 1;
    for (size_t k = 0; cf_kernels_at(k) != NULL; k++)
        if ((cf_kernels_at(k)->needs & ~cpu) == 0 && i-- == 0)
            return cf_kernels_at(k);
    return NULL;
}

static inline const cf_kernels *scalar_kernels(void) {
    size_t i = 0;
    while (cf_kernels_at(i + 1) != NULL)
        i++;
    return cf_kernels_at(i);
}

#endif
