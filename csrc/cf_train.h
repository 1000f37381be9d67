/* cf_train.h -- mini-batch gradient steps on a model in memory.
 *
 * One call takes many mini-batches, so that a caller that drops a lock around it (Python's) does so
 * rarely. Several threads may call it at once on one model: see cf_shared_read in cf_optimizer.h.
 */
#ifndef CF_TRAIN_H
#define CF_TRAIN_H

#include "cf_csr.h"
#include "cf_dispatch.h"
#include "cf_hot.h"
#include "cf_optimizer.h"
#include "cf_status.h"

typedef struct cf_train_model {
    cf_optimizer optimizer;
    float *state; /* [(n_ids + 1) * width]; the last coordinate is the intercept */
    size_t n_ids;
    cf_penalties penalties; /* the intercept has none */
    bool fit_intercept;
    float intercept_rate;  /* multiplies the intercept's gradient in steps of several rows */
    float class_weight[2]; /* of labels 0 and 1 */
    double rows_seen;      /* by all workers before this call; ftrl's penalties grow with it */
    const cf_hot *hot; /* this thread's copies where several train in steps of one row, or NULL */
} cf_train_model;

/* Scratch for mini-batches of more than one row; all may be NULL when minibatch_size is 1. With m
 * the most entries a mini-batch can have: distinct [m + 1], the others [m], and table [n_ids] with
 * any contents. */
typedef struct {
    uint32_t *table, *local, *distinct;
    float *weights, *gradient, *touches;
    size_t room; /* m */
} cf_train_scratch;

typedef struct {
    size_t n_rows;     /* rows taken */
    size_t n_updates;  /* mini-batches applied */
    double loss_sum;   /* of each row before it was learnt from; without class weights */
    double weight_sum; /* of row weights */
} cf_train_total;

/* Takes the rows named by order[n_order], whose ids are distinct within a row, in mini-batches of
 * `minibatch_size` (the last may be smaller), applying one optimiser step after each. Labels are 1
 * or 0.
 *
 * Every row and id is checked before it is used; on failure `total` tells what was applied before,
 * and `offset` is the place in `order` of the mini-batch that was not. */
cf_status cf_train(const cf_kernels *kernels, const cf_train_model *model, const cf_csr *rows,
                   const uint32_t *order, size_t n_order, size_t minibatch_size,
                   const cf_train_scratch *scratch, cf_train_total *total);

/* The two halves of a step, for workers that wait for each other in between.
 *
 * cf_train_gradient takes all of order[n_order] as one mini-batch and leaves the model alone:
 * scratch->distinct, gradient and touches hold the *n_distinct ids, the sums of their gradients and
 * the numbers of their entries (0 for all if no penalty is charged by them). */
cf_status cf_train_gradient(const cf_train_model *model, const cf_csr *rows, const uint32_t *order,
                            size_t n_order, const cf_train_scratch *scratch, size_t *n_distinct,
                            float *intercept_gradient, cf_train_total *total);

/* cf_train_apply takes n gradients, those of several workers one after another, sums the ones of
 * equal id in that order, and makes one optimiser step. model->rows_seen does not count this step's
 * rows. The arrays must not be the scratch's. */
cf_status cf_train_apply(const cf_train_model *model, const uint32_t *ids, const float *gradient,
                         const float *touches, size_t n, float intercept_gradient,
                         const cf_train_scratch *scratch);

#endif
