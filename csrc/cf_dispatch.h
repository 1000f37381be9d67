/* cf_dispatch.h -- which implementation of the kernels runs on this CPU.
 *
 * A cf_kernels is a constant table of function pointers; the caller picks one once and hands it to
 * every kernel that has variants, so the core keeps no mutable state. Scalar defines the answer:
 * text and blocks agree bit for bit in all of them, sums within a tolerance the tests state.
 */
#ifndef CF_DISPATCH_H
#define CF_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_status.h"

/* CPU abilities that a table may need. A bit is set only if the operating system saves the
 * registers too (cpuid says what the chip can do, xgetbv what the system allows). */
enum {
    CF_CPU_AVX2 = 1u << 0,   /* AVX2, BMI1, BMI2, LZCNT, POPCNT */
    CF_CPU_AVX512 = 1u << 1, /* F, CD, BW, DQ, VL, VBMI, VBMI2 on top of the above */
    CF_CPU_CRC32 = 1u << 2,  /* SSE4.2's crc32, or ARMv8's */
    CF_CPU_NEON = 1u << 3
};

struct cf_libsvm_options; /* cf_libsvm.h */
struct cf_libsvm_rows;
struct cf_train_walk;     /* cf_train_rows.h */
struct cf_pulled_scratch; /* cf_pulled.h */
struct cf_places;         /* cf_prepare.h */
struct cf_block_kernels;  /* cf_block_streams.h */
struct cf_grid_kernels;   /* cf_grid_walk.h */

typedef struct {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    unsigned needs;   /* CF_CPU_* bits */

    /* How many of the n bytes equal '\n' and ':'. */
    void (*count_lines_colons)(const uint8_t *text, size_t n, size_t *n_lines, size_t *n_colons);

    /* Parses the lines of text[pos, last), both line starts, up to the first one that is out of the
     * ordinary, whose start it returns, or `last`. It may take any line for such a one. Bytes up to
     * n may be read. See cf_libsvm.c. */
    size_t (*libsvm_rows)(const struct cf_libsvm_options *options, const uint8_t *text, size_t n,
                          size_t pos, size_t last, struct cf_libsvm_rows *rows);
    /* cf_crc32c.h */
    uint32_t (*crc32c)(uint32_t crc, const uint8_t *data, size_t n);
    /* cf_train_rows.h */
    cf_status (*train_rows)(struct cf_train_walk *walk, const uint32_t *order, size_t n);

    /* cf_pulled.h */
    size_t (*rank_ids)(const struct cf_pulled_scratch *scratch, bool find_used, uint32_t *ids,
                       size_t n);

    /* cf_prepare.h */
    size_t (*place_entries)(const struct cf_places *places, const uint32_t *ids,
                            const float *values, size_t n, uint32_t *indices, float *data);

    const struct cf_block_kernels *block;
    const struct cf_grid_kernels *grid;
} cf_kernels;

unsigned cf_cpu_features(void);

/* All tables compiled in, best first; the last is scalar, which needs nothing. NULL past the end.
 */
const cf_kernels *cf_kernels_at(size_t i);

#endif
