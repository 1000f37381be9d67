/* cf_pulled.h -- a mini-batch that learns from weights which are pulled from elsewhere.
 *
 * First its distinct ids are found, in increasing order, as a request wants them (cf_step.h); when
 * their weights are there, the gradient is summed.
 */
#ifndef CF_PULLED_H
#define CF_PULLED_H

#include "cf_csr.h"
#include "cf_dispatch.h"
#include "cf_gradient.h"
#include "cf_status.h"

/* Scratch that mini-batches of one thread share. `bits` has a bit for each id, and behind those a
 * bit for each word of them that is not 0, so that what is empty is passed over quickly. */
typedef struct cf_pulled_scratch {
    uint64_t *bits;   /* [cf_pulled_words(n_ids)], all 0 between mini-batches */
    uint32_t *before; /* [n_ids / 64 + 1], any contents: ids of the set below each word that is used
                       */
    size_t n_ids;
} cf_pulled_scratch;

size_t cf_pulled_words(size_t n_ids);

/* Entries of rows order[n], which are checked. On failure the offset is the place in `order`. */
cf_status cf_pulled_entries(const cf_csr *rows, const uint32_t *order, size_t n, size_t *n_entries);

/* Finds the different ids of rows that cf_pulled_entries took: writes the place among them, in
 * increasing order, of each entry to local, one row after another, which has room for twice as
 * many, plus one. After success the bits of the scratch are that set, until one of the two below
 * is called; after a failure they are 0. */
cf_status cf_pulled_localize(const cf_kernels *kernels, const cf_csr *rows, const uint32_t *order,
                             size_t n, const cf_pulled_scratch *scratch, uint32_t *local,
                             size_t *n_distinct);

/* The set as it is sent (cf_id_set.h), at most cf_id_set_bound(n_distinct, n_ids) bytes; returns
 * how many. The bits are 0 afterwards. */
size_t cf_pulled_write_set(const cf_pulled_scratch *scratch, size_t n_distinct, uint8_t *out);

/* The same as ids[n_distinct]. */
void cf_pulled_take_ids(const cf_pulled_scratch *scratch, size_t n_distinct, uint32_t *ids);

/* Puts n different ids into increasing order; `before` is not used. */
void cf_pulled_sort(const cf_pulled_scratch *scratch, uint32_t *ids, size_t n);

/* cf_gradient_sum for rows that were localised, `n_entries` of them into batch->local, which lead
 * into w[n_local]. Rows are counted again; on failure nothing is written. */
cf_status cf_pulled_gradient(const cf_minibatch *batch, size_t n_entries, const float *w,
                             size_t n_local, float intercept, float *gradient, float *touches,
                             cf_gradient_total *total);

/* The kernel of the tables: turns ids[n], whose bits are set, into their places in the set; returns
 * how many are in it. `find_used`: the bits of used words are not there yet. */
size_t cf_rank_ids_scalar(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids,
                          size_t n);
#if defined(__x86_64__)
size_t cf_rank_ids_avx2(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids, size_t n);
#endif

#endif
