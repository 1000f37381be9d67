/* cf_localize.h -- a mini-batch's distinct ids, and its entries renumbered by them. */
#ifndef CF_LOCALIZE_H
#define CF_LOCALIZE_H

#include <stddef.h>
#include <stdint.h>

#include "cf_csr.h"
#include "cf_status.h"

/* Writes to `distinct` the different ids of `ids` in order of first sight, and to local[i] the
 * place of ids[i] among them.
 *
 * `table` is scratch of n_ids entries whose contents do not matter, so nothing is ever cleared:
 * an entry counts only if the place it names holds the id that led there (the sparse set of
 * Briggs and Torczon, 1993). `distinct` needs room for nnz + 1;
 * `local` may be `ids`. An id not below n_ids is CF_E_ID
 * at that entry.
 */
cf_status cf_localize(const uint32_t *ids, size_t nnz, uint32_t *table, size_t n_ids,
                      uint32_t *local, uint32_t *distinct, size_t *n_distinct);

/* The same for the entries of rows order[n], one row after another. `local` has room for `room`
 * entries; `distinct` for as many, or n_ids if that is less, and one more. A row that is wrong is
 * reported by its place in `order`. */
cf_status cf_localize_rows(const cf_csr *rows, const uint32_t *order, size_t n, uint32_t *table,
                           size_t n_ids, uint32_t *local, size_t room, uint32_t *distinct,
                           size_t *n_distinct);

#endif
