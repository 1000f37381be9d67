/* cf_columns.h -- per-column statistics of stored entries, and the scaling made from them.
 *
 * Absent entries are not looked at here: whoever turns statistics into a scaling knows the number
 * of rows, so it knows from `count` whether a column has any, and what an absent entry means.
 */
#ifndef CF_COLUMNS_H
#define CF_COLUMNS_H

#include <stddef.h>
#include <stdint.h>

#include "cf_status.h"

typedef struct {
    uint64_t count; /* stored entries, explicit zeros included */
    float min, max; /* +inf and -inf while count is 0; NaN entries are passed over */
    double sum_squares;
} cf_column;

/* An empty column, the neutral element of scan and merge. */
void cf_columns_clear(cf_column *columns, size_t n_columns);

/* Adds nnz entries. Every index must be below n_columns, else CF_E_ID at that entry; the entries
 * before it have been counted. */
cf_status cf_columns_scan(const uint32_t *indices, const float *data, size_t nnz,
                          cf_column *columns, size_t n_columns);

/* Merges two lists of columns with increasing ids. The outputs have room for n_a + n_b; returns
 * how many were written. */
size_t cf_columns_merge(const uint32_t *a_ids, const cf_column *a, size_t n_a,
                        const uint32_t *b_ids, const cf_column *b, size_t n_b, uint32_t *out_ids,
                        cf_column *out);

/* out[i] = (data[i] - shift) / divisor with the pair of column indices[i]; pairs is
 * [n_columns][2]. Columns at or above n_columns stay as they are: new data may have columns that
 * no statistics know. `out` may be `data`. */
void cf_columns_scale(const uint32_t *indices, const float *data, size_t nnz, const float *pairs,
                      size_t n_columns, float *out);

#endif
