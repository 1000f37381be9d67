/* cf_replica.h -- a worker's copy of a model that is held elsewhere, as whole numbers (see
 * cf_bitfield.h), and the damped exchange of what it learns.
 *
 * Between two exchanges a worker learns from some rows on its copy alone. It then sends, for each
 * coordinate those rows touched, the share f of what it moved the weight by, and takes over what
 * the holder has. Where several workers touch a coordinate often, their moves have much in common,
 * and their plain sum would overshoot; where they rarely meet, all of a move should count. With W
 * workers, c touches since the last exchange and AdaGrad's accumulator s:
 *     f = clamp(5 sqrt(s) / (W c), 1 / W, 1),   and s grows by max(1, W f) times the squares,
 * so that it stays about what one worker that learnt from all rows would have. sgd has no
 * accumulator: f = clamp(16 / (W c), 1 / W, 1), after the crowd of training_scale.py.
 *
 * What f and the rounding to whole numbers leave of a move: the share 1 - f is given up, the
 * rounding is carried over to the next exchange.
 */
#ifndef CF_REPLICA_H
#define CF_REPLICA_H

#include "cf_csr.h"
#include "cf_optimizer.h"
#include "cf_status.h"

typedef struct {
    cf_optimizer_kind kind; /* CF_SGD or CF_ADAGRAD */
    size_t n;               /* coordinates, the intercept's last */
    size_t n_workers;       /* that learn at the same time; may change from call to call */
    float *state;           /* [n * width], what the training kernels learn on */
    int32_t *held;          /* [n], what the holder has, with all that was sent to it */
    uint32_t *sent;         /* [n], the sum of all that was sent, modulo 2^32 */
    float *residual;        /* [n], rounded off so far */
    uint32_t *count;        /* [n], zeros between calls */
    uint64_t *bits;         /* [cf_pulled_words(n)], zeros between calls */
} cf_replica;

/* Finds the different ids of the rows order[n_order], in increasing order, and how many of the rows
 * have each; the last is the intercept's, with n_order. ids and counts have room for `room`; more
 * is CF_E_ROOM. */
cf_status cf_replica_touch(const cf_replica *replica, const cf_csr *rows, const uint32_t *order,
                           size_t n_order, uint32_t *ids, uint32_t *counts, size_t room,
                           size_t *n_ids);

/* Keeps the accumulators of ids in before[n], which cf_replica_take needs; nothing for sgd. */
void cf_replica_keep(const cf_replica *replica, const uint32_t *ids, size_t n, float *before);

/* After the rows were learnt from: what is to be sent goes to places[n] and amounts[n], as many as
 * are returned; the copy is then what the holder will have. *n_bounded counts amounts that would
 * have been too large for any holder. */
size_t cf_replica_take(const cf_replica *replica, const uint32_t *ids, const uint32_t *counts,
                       const float *before, size_t n, uint32_t *places, int32_t *amounts,
                       size_t *n_bounded);

/* The holder's values of ids, as they were when sent[] was sent_then[n] (NULL: as it is now). */
void cf_replica_settle(const cf_replica *replica, const uint32_t *ids, const int32_t *values,
                       const uint32_t *sent_then, size_t n);

/* The same for coordinates first, first + stride, ..., whose sent[] was then sent_then[0, n). */
void cf_replica_settle_run(const cf_replica *replica, size_t first, size_t stride,
                           const int32_t *values, const uint32_t *sent_then, size_t n);

/* For a holder that has floats, and takes what is to be sent as the gradient of sgd at rate 1
 * (redis_module/): amounts as such a gradient; and cf_replica_settle of weights, which returns how
 * many of them are beyond what whole numbers hold. */
void cf_replica_gradient(const int32_t *amounts, size_t n, float *gradient);
size_t cf_replica_settle_weights(const cf_replica *replica, const uint32_t *ids,
                                 const float *weights, const uint32_t *sent_then, size_t n);

/* Those of ids[n] that are neither below `from` nor among known[n_known]; returns how many. */
size_t cf_replica_missing(const cf_replica *replica, const uint32_t *ids, size_t n,
                          const uint32_t *known, size_t n_known, size_t from, uint32_t *missing);

/* Below which id the ids are so dense that all of that range is shorter to send than they are: a
 * power of two, or n where it would be beyond, or 0. Ids of the range cost 4 bytes each, one alone
 * `bytes_alone`. */
size_t cf_replica_dense(const cf_replica *replica, const uint32_t *ids, size_t n,
                        size_t bytes_alone);

#endif
