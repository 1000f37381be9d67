/* cf_csr.h -- sparse rows as the kernels see them. The caller owns every array. */
#ifndef CF_CSR_H
#define CF_CSR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_status.h"

typedef struct {
    const float *labels;     /* [n_rows], or NULL where a kernel needs none */
    const int64_t *indptr;   /* [n_rows + 1] */
    const uint32_t *indices; /* [nnz] */
    const float *data;       /* [nnz] */
    const float *weights;    /* [n_rows], or NULL: every row weighs 1 */
    size_t n_rows;
    size_t nnz;
} cf_csr;

/* Entries of row `i`, which must be below n_rows: [*begin, *end). False if indptr is not a valid
 * partition of the nnz entries there. */
static inline bool cf_csr_row(const cf_csr *rows, size_t i, size_t *begin, size_t *end) {
    const int64_t b = rows->indptr[i], e = rows->indptr[i + 1];
    *begin = (size_t)b;
    *end = (size_t)e;
    return b >= 0 && b <= e && (uint64_t)e <= rows->nnz;
}

/* Asks for the entries of a row to come, which may be no row at all. */
static inline void cf_csr_prefetch(const cf_csr *rows, size_t row) {
    size_t begin, end;
    if (row >= rows->n_rows || !cf_csr_row(rows, row, &begin, &end))
        return;
    for (size_t k = begin; k < end; k += 16) { /* 64-byte lines */
        __builtin_prefetch(rows->indices + k);
        __builtin_prefetch(rows->data + k);
    }
}

/* The same of the row `ahead` places on in order[known], and asks for what says where the row as
 * far behind that one is: neighbours in an order may be far from each other in memory. */
static inline void cf_csr_prefetch_order(const cf_csr *rows, const uint32_t *order, size_t known,
                                         size_t ahead) {
    /* By addresses that nobody checks, since nothing is read by them. */
    if (2 * ahead < known)
        __builtin_prefetch((const void *)((uintptr_t)rows->indptr +
                                          sizeof *rows->indptr * (size_t)order[2 * ahead]));
    if (ahead >= known)
        return;
    cf_csr_prefetch(rows, order[ahead]);
    __builtin_prefetch(
        (const void *)((uintptr_t)rows->labels + sizeof *rows->labels * (size_t)order[ahead]));
}

/* Copies the rows named by `order` one after another. The outputs have room for n_order rows
 * (out_indptr: one more) and *nnz_room entries; out_weights may be NULL if rows->weights is. */
cf_status cf_csr_take(const cf_csr *rows, const uint32_t *order, size_t n_order, float *out_labels,
                      int64_t *out_indptr, uint32_t *out_indices, float *out_data,
                      float *out_weights, size_t nnz_room);

#endif
