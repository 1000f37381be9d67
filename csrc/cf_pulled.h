/* cf_pulled.h -- a mini-batch that learns from weights which are pulled from elsewhere.
 *
 * First its distinct ids are found, in increasing order, as a request wants them (cf_step.h); when
 * their weights are there, the gradient is summed.
 */
#ifndef CF_PULLED_H
#define CF_PULLED_H

#include "cf_csr.h"
#include "cf_gradient.h"
#include "cf_status.h"

/* Scratch that mini-batches of one thread share: table [n_ids] with any contents, and `bits` of
 * cf_pulled_words(n_ids), all 0, as they are afterwards. */
typedef struct {
    uint32_t *table;
    uint64_t *bits;
    size_t n_ids;
} cf_pulled_scratch;

size_t cf_pulled_words(size_t n_ids);

/* Writes the different ids of rows order[n], increasing, to ids, and the place among them of each
 * entry, one row after another, to local; both have `room`, which the entries must fit in. On
 * failure the offset is the place in `order`, and bits are 0 all the same. */
cf_status cf_pulled_localize(const cf_csr *rows, const uint32_t *order, size_t n,
                             const cf_pulled_scratch *scratch, uint32_t *local, uint32_t *ids,
                             size_t room, size_t *n_entries, size_t *n_distinct);

/* cf_gradient_sum for rows that cf_pulled_localize took, n_entries of them into local, at the
 * weights w[n_local] of their ids. Rows and places are checked again; on failure nothing is
 * written. */
cf_status cf_pulled_gradient(const cf_minibatch *batch, size_t n_entries, const float *w,
                             size_t n_local, float intercept, float *gradient, float *touches,
                             cf_gradient_total *total);

#endif
