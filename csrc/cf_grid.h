/* cf_grid.h -- sixteen models that differ in constants of their learning, trained on the same rows
 * in one walk over them.
 *
 * A model is a lane. Where one model has a float of state sixteen lie side by side, so an entry of
 * a row costs the waiting for one piece of memory, and vector arithmetic for all. Lanes never mix:
 * each computes what cf_train computes for its model alone, and one that has diverged, or that is
 * not active, leaves the others as they would be without it. No sum goes across lanes, so all
 * tables of kernels agree bit for bit with sgd and ftrl. With adagrad 1 / sqrt(s) is right to 3e-7
 * of it, from a guess that CPUs differ in; the same CPU and table give the same bits.
 */
#ifndef CF_GRID_H
#define CF_GRID_H

#include "cf_csr.h"
#include "cf_dispatch.h"
#include "cf_optimizer.h"
#include "cf_status.h"

enum { CF_GRID_LANES = 16 };

typedef struct cf_grid_model {
    cf_optimizer_kind kind;
    float initial; /* as cf_optimizer's */
    float *state;  /* [n_ids + 1][cf_optimizer_width][CF_GRID_LANES]; the last is the intercept's */
    size_t n_ids;
    cf_penalties penalties; /* charges of l1 = 1 and l2 = 1; the lanes' own multiply them */
    bool fit_intercept;
    float intercept_rate; /* multiplies the intercept's gradient in steps of several rows */
    double rows_seen;     /* before this call */
    uint32_t active;      /* lane i learns if bit i is set; the others' state stays as it is */
    float learning_rate[CF_GRID_LANES]; /* above 0, of lanes that do not learn as well */
    float l1[CF_GRID_LANES], l2[CF_GRID_LANES];
    float class_weight[2][CF_GRID_LANES]; /* of labels 0 and 1 */
} cf_grid_model;

/* Rows cut into mini-batches, their entries renumbered by what is distinct in each: done once for
 * all groups of lanes that take the same rows. */
typedef struct {
    size_t minibatch_size;      /* above 1 */
    const uint32_t *local;      /* [n_local], one row after another */
    const uint32_t *distinct;   /* of one mini-batch after another */
    const uint32_t *n_distinct; /* [n_batches] */
    size_t n_local, n_all_distinct, n_batches;
} cf_grid_batches;

/* What one thread needs beside, for mini-batches of at most d distinct ids: touches [d], weights
 * and gradient [d][CF_GRID_LANES]. Weights are of ftrl only, and may be NULL without. */
typedef struct {
    float *weights, *gradient, *touches;
    size_t room; /* d */
} cf_grid_scratch;

typedef struct {
    size_t n_rows, n_updates;
    double weight_sum;              /* of row weights */
    double loss_sum[CF_GRID_LANES]; /* of each row before it was learnt from; without class weights.
                                       Of lanes that are not active: of no meaning */
} cf_grid_total;

/* All lanes at weight 0 everywhere, but for the intercepts. */
void cf_grid_clear(const cf_grid_model *model, const float intercept[CF_GRID_LANES]);

/* Renumbers the rows of order[n_order] into batches->local [room], distinct [room + 1] and
 * n_distinct [one a mini-batch], and sets `batches` to them; table is [n_ids] with any contents.
 * batches->minibatch_size is given. `offset` is the place in `order` of the mini-batch that is
 * wrong. */
cf_status cf_grid_localize(const cf_csr *rows, const uint32_t *order, size_t n_order, size_t n_ids,
                           uint32_t *table, uint32_t *local, uint32_t *distinct, size_t room,
                           uint32_t *n_distinct, cf_grid_batches *batches);

/* cf_train for all active lanes, a row at a time if `batches` is NULL, which must be those of the
 * same rows and order otherwise. Every row and id is checked before it is used; on failure `total`
 * tells what was applied before, and `offset` is the place in `order` of the mini-batch that was
 * not. */
cf_status cf_grid_train(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                        const uint32_t *order, size_t n_order, const cf_grid_batches *batches,
                        const cf_grid_scratch *scratch, cf_grid_total *total);

/* The margins [rows->n_rows][CF_GRID_LANES] and losses of all rows, from which nothing is learnt;
 * `offset` is the row that is wrong. Margins of lanes that are not active are 0. */
cf_status cf_grid_measure(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                          float *margins, cf_grid_total *total);

/* After rows_seen rows, of each lane i whose bit of `lanes` is set, in order: its weights [n_ids]
 * and its intercept. */
void cf_grid_weights(const cf_grid_model *model, uint32_t lanes, float *const *weights,
                     float *intercepts);

/* Copies a lane's state to a lane of another model, or of the same one, of equal kind and n_ids. */
void cf_grid_move(const cf_grid_model *from, size_t lane, const cf_grid_model *to, size_t to_lane);

#endif
