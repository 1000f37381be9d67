/* fuzz_arrays.h -- bytes to arrays that may say anything: positions, ids and row numbers are mostly
 * plausible, sometimes far outside. Every array has exactly the size it claims. */
#ifndef FUZZ_ARRAYS_H
#define FUZZ_ARRAYS_H

#include <math.h>

#include "cf_csr.h"
#include "fuzz.h"

/* Bytes are taken one by one; past the end they are 0. */
typedef struct {
    const uint8_t *at, *end;
} byte_source;

static inline uint8_t take_byte(byte_source *in) { return in->at < in->end ? *in->at++ : 0; }

static inline uint32_t take_u32(byte_source *in) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v = v << 8 | take_byte(in);
    return v;
}

static inline uint64_t take_u64(byte_source *in) {
    const uint64_t high = take_u32(in);
    return high << 32 | take_u32(in);
}

static inline float take_float(byte_source *in) {
    static const float ODD[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f};
    const uint8_t b = take_byte(in);
    if (b >= 0xf8)
        return ODD[b & 7];
    if (b < 0xf0)
        return (float)(b - 100) / 16;
    const uint32_t bits = take_u32(in);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Numbers below n, nearly all of them. */
static inline uint32_t *take_ids(byte_source *in, size_t count, size_t n) {
    static const uint32_t FAR[] = {0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    uint32_t *ids = exactly(4 * count);
    for (size_t i = 0; i < count; i++) {
        const uint8_t b = take_byte(in);
        if (b == 0xfe)
            ids[i] = take_u32(in);
        else if (b == 0xff)
            ids[i] = take_byte(in) % 2 ? (uint32_t)n : FAR[take_byte(in) % 4];
        else
            ids[i] = n == 0 ? b : (uint32_t)(b % n);
    }
    return ids;
}

static inline float *take_floats(byte_source *in, size_t count) {
    float *values = exactly(4 * count);
    for (size_t i = 0; i < count; i++)
        values[i] = take_float(in);
    return values;
}

/* Positions that grow up to nnz, but for the odd one. */
static inline int64_t *take_positions(byte_source *in, size_t n_rows, size_t nnz, int64_t start) {
    static const int64_t FAR[] = {-1, INT64_MIN, INT64_MAX, INT32_MIN, INT64_C(1) << 32, 1 << 27};
    int64_t *indptr = exactly(8 * (n_rows + 1));
    int64_t at = start;
    for (size_t i = 0; i <= n_rows; i++) {
        indptr[i] = at;
        const uint8_t b = take_byte(in);
        if (b == 0xff)
            indptr[i] = FAR[take_byte(in) % 6];
        else if (b == 0xfe)
            indptr[i] = (int64_t)take_u64(in);
        else if (b == 0xfd)
            indptr[i] = (int64_t)nnz + 1;
        else
            at += b % 8;
        if (at > (int64_t)nnz || i + 1 == n_rows)
            at = (int64_t)nnz;
    }
    return indptr;
}

typedef struct {
    cf_csr rows;
    void *owned[5];
} fuzz_csr;

static inline fuzz_csr take_csr(byte_source *in, size_t n_ids) {
    const uint8_t flags = take_byte(in);
    fuzz_csr csr = {{0}, {0}};
    cf_csr *rows = &csr.rows;
    rows->n_rows = take_byte(in) % 24;
    rows->nnz = take_byte(in);
    int64_t *indptr =
        take_positions(in, rows->n_rows, rows->nnz, flags & 2 ? (int64_t)rows->nnz / 3 : 0);
    uint32_t *indices = take_ids(in, rows->nnz, n_ids);
    float *data = take_floats(in, rows->nnz), *labels = take_floats(in, rows->n_rows);
    float *weights = flags & 1 ? take_floats(in, rows->n_rows) : NULL;
    /* Increasing ids within a row are a precondition of nothing, but most code's daily bread. */
    for (size_t i = 1; (flags & 4) != 0 && i < rows->nnz; i++)
        if (indices[i] <= indices[i - 1] && indices[i - 1] + 1 < n_ids && i % 5 != 0)
            indices[i] = indices[i - 1] + 1;
    rows->indptr = csr.owned[0] = indptr;
    rows->indices = csr.owned[1] = indices;
    rows->data = csr.owned[2] = data;
    rows->labels = csr.owned[3] = labels;
    rows->weights = csr.owned[4] = weights;
    return csr;
}

static inline void free_csr(fuzz_csr csr) {
    for (size_t i = 0; i < sizeof csr.owned / sizeof *csr.owned; i++)
        free(csr.owned[i]);
}

/* Seeds: bytes of an even spread, none of which is an odd one. */
static inline size_t plain_seed(size_t i, uint8_t *out, size_t room) {
    const size_t n = 64 + 40 * i;
    if (i >= 16 || n > room)
        return 0;
    uint64_t state = i + 1;
    for (size_t k = 0; k < n; k++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        out[k] = (uint8_t)((state >> 33) % 0xf0);
    }
    return n;
}

#endif
