/* cf_prepare.h -- rows made ready for training: in another order, ids replaced by places in the
 * model's state, values divided by their column's divisor.
 *
 * One pass does all three, since each alone would cost a trip through memory.
 */
#ifndef CF_PREPARE_H
#define CF_PREPARE_H

#include "cf_csr.h"
#include "cf_dispatch.h"

/* Where the model keeps an id's coordinate. Popular ids have the first places, so that what is
 * touched all the time shares cache lines, and ids that no row has take no room.
 *
 * Divisors stand apart, by place, and end where all that follow are the same as the last: of click
 * data few columns have one of their own, and those are popular. */
typedef struct cf_places {
    const uint32_t
        *of; /* [n_ids] below n_places, or anything else for an id without a coordinate */
    const float *divisors; /* [n_divisors] */
    size_t n_ids, n_places;
    size_t n_divisors; /* from 1 to n_places, or 0 of no places */
} cf_places;

/* Copies the rows named by order[n_order] one after another. The outputs have room for n_order rows
 * (indptr: one more, counting from first_entry on) and nnz_room entries; `weights` is NULL where
 * rows->weights is. An id without a place is CF_E_ID at its entry of `rows`; the rows before it are
 * complete. */
cf_status cf_prepare(const cf_kernels *kernels, const cf_csr *rows, const uint32_t *order,
                     size_t n_order, const cf_places *places, size_t first_entry, float *labels,
                     int64_t *indptr, uint32_t *indices, float *data, float *weights,
                     size_t nnz_room);

/* Ids and values of n entries, where they are: for rows that nobody needs in another order. An id
 * without a place is CF_E_ID at its entry; of the entries before it some are left as they were. */
cf_status cf_prepare_entries(const cf_kernels *kernels, const cf_places *places, uint32_t *indices,
                             float *data, size_t n);

/* What the tables do of it: n > 0 entries, into other memory or where they are, with an id and a
 * divisor at least. Returns how many are done: n, or at most as many as come before the first id
 * without a place, and the rest are as they were. */
size_t cf_place_entries_scalar(const cf_places *places, const uint32_t *ids, const float *values,
                               size_t n, uint32_t *indices, float *data);
#if defined(__x86_64__)
size_t cf_place_entries_avx2(const cf_places *places, const uint32_t *ids, const float *values,
                             size_t n, uint32_t *indices, float *data);
#endif

#endif
