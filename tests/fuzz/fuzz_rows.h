/* fuzz_rows.h -- well-formed rows for seeds: popular ids and a long tail, as click data has. */
#ifndef FUZZ_ROWS_H
#define FUZZ_ROWS_H

#include "cf_block.h"
#include "fuzz.h"

typedef struct {
    size_t n_rows;
    float *labels;
    int64_t *indptr;
    uint32_t *indices;
    float *data, *weights;
} fuzz_rows;

/* What the values are; LONG_ROWS has ones, and in every fifth row most of the ids. */
enum { ONES, COUNTS, REALS, TABLES, EXCEPTIONS, WIDE, DENSE, LONG_ROWS, N_ROW_KINDS };

static inline uint32_t fuzz_random(uint64_t *state, uint32_t n) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(((*state >> 33) * n) >> 31);
}

/* One row in so many has the k-th id: some are in nearly every row, most are rare. */
static inline uint32_t fuzz_rarity(int kind, uint32_t k) {
    if (kind == DENSE)
        return k < 11 ? 1 : 100000;
    return k % 29 == 0 ? 2 : k % 7 == 0 ? 16 : k % 3 == 0 ? 60 : 400;
}

static inline float fuzz_value(int kind, uint32_t k, uint64_t *state) {
    const float real = (float)fuzz_random(state, 1u << 30) / 3;
    switch (kind) {
    case COUNTS:
        return (float)(fuzz_random(state, 3) * fuzz_random(state, 3));
    case TABLES: /* of some ids, values that repeat and now and then one that does not */
        if (k % 2 != 0)
            return 1.0f;
        return fuzz_random(state, 20) == 0 ? real : (float)(k + fuzz_random(state, 2 + k % 9)) / 7;
    case EXCEPTIONS:
        return fuzz_random(state, 200) == 0 ? -real : 1.0f;
    case REALS:
    case WIDE:
    case DENSE:
        return real;
    default:
        return 1.0f;
    }
}

static inline fuzz_rows make_fuzz_rows(int kind, size_t n_rows, uint64_t seed) {
    enum { POOL = 400 };
    uint64_t state = seed;
    fuzz_rows rows = {
        .n_rows = n_rows,
        .labels = exactly(4 * n_rows),
        .indptr = exactly(8 * (n_rows + 1)),
        .indices = exactly(4 * POOL * n_rows),
        .data = exactly(4 * POOL * n_rows),
        .weights = exactly(4 * n_rows),
    };
    size_t nnz = 0;
    rows.indptr[0] = 0;
    for (size_t row = 0; row < n_rows; row++) {
        rows.labels[row] = (float)fuzz_random(&state, kind == REALS ? 1000 : 2);
        rows.weights[row] = (float)fuzz_random(&state, 7);
        for (uint32_t k = 0; k < POOL; k++) {
            const uint32_t rarity = fuzz_rarity(kind, k);
            if (fuzz_random(&state, kind == LONG_ROWS && row % 5 == 4 ? 2 : rarity) != 0)
                continue;
            rows.indices[nnz] = kind == WIDE ? k * 10000019 : k < 40 ? k : k * k;
            rows.data[nnz++] = fuzz_value(kind, k, &state);
        }
        rows.indptr[row + 1] = (int64_t)nnz;
    }
    return rows;
}

static inline void free_fuzz_rows(fuzz_rows rows) {
    free(rows.labels);
    free(rows.indptr);
    free(rows.indices);
    free(rows.data);
    free(rows.weights);
}

/* Writes a dictionary of these rows to out[0, room); its length. */
static inline size_t write_fuzz_dictionary(fuzz_rows rows, uint32_t max_ids, uint8_t *out,
                                           size_t room) {
    const size_t nnz = (size_t)rows.indptr[rows.n_rows];
    uint64_t *scratch = exactly(8 * cf_dictionary_build_scratch(nnz));
    uint8_t *bytes = exactly(cf_dictionary_bound(nnz, max_ids));
    size_t n = 0;
    CHECK(cf_dictionary_build(scalar_kernels(), rows.n_rows, rows.indptr, rows.indices, rows.data,
                              max_ids, scratch, bytes, &n)
              .code == CF_OK);
    CHECK(n <= room);
    memcpy(out, bytes, n);
    free(scratch);
    free(bytes);
    return n;
}

/* The dictionary that a buffer holds, in memory of exactly its size, or NULL if it is none. */
static inline const cf_dictionary *parse_fuzz_dictionary(const uint8_t *bytes, size_t n,
                                                         uint64_t **memory) {
    size_t n_words = 0;
    *memory = NULL;
    if (cf_dictionary_measure(bytes, n, &n_words).code != CF_OK)
        return NULL;
    *memory = exactly(8 * n_words);
    const cf_status status = cf_dictionary_parse(scalar_kernels(), bytes, n, 1, *memory, n_words);
    CHECK(status.code == CF_OK || (status.code == CF_E_CORRUPT && status.offset <= n));
    return status.code == CF_OK ? (const cf_dictionary *)(void *)*memory : NULL;
}

/* What finds ids and values in a dictionary (NULL: for none), in memory of exactly its size. */
static inline const cf_dictionary_index *make_fuzz_index(const cf_dictionary *dictionary,
                                                         uint64_t **memory) {
    *memory = NULL;
    if (dictionary == NULL)
        return NULL;
    *memory = exactly(8 * cf_dictionary_index_words(dictionary));
    CHECK(cf_dictionary_index_make(dictionary, *memory).code == CF_OK);
    return (const cf_dictionary_index *)(void *)*memory;
}

#endif
