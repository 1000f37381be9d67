/* cf_grid.h -- sixteen models that differ in constants of their learning, trained on the same rows
 * in one walk over them.
 *
 * A model is a lane. Where one model has a float of state sixteen lie side by side, so an entry of
 * a row costs the waiting for one piece of memory, and vector arithmetic for all. Lanes never mix:
 * each computes what cf_train computes for its model alone, and one that has diverged, or that is
 * not active, leaves the others as they would be without it. All tables of kernels agree bit for
 * bit, since no sum goes across lanes.
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

/* Scratch for mini-batches of more than one row; all may be NULL when minibatch_size is 1. With m
 * the most entries a mini-batch can have, and d = min(m, n_ids): local [m], distinct [d + 1],
 * touches [d], weights and gradient [d][CF_GRID_LANES], and table [n_ids] with any contents. */
typedef struct {
    uint32_t *table, *local, *distinct;
    float *weights, *gradient, *touches;
    size_t room; /* m */
} cf_grid_scratch;

typedef struct {
    size_t n_rows, n_updates;
    double weight_sum;              /* of row weights */
    double loss_sum[CF_GRID_LANES]; /* of each row before it was learnt from; without class weights.
                                       Of lanes that are not active: of no meaning */
} cf_grid_total;

/* All lanes at weight 0 everywhere, but for the intercepts. */
void cf_grid_clear(const cf_grid_model *model, const float intercept[CF_GRID_LANES]);

/* cf_train for all active lanes. Every row and id is checked before it is used; on failure `total`
 * tells what was applied before, and `offset` is the place in `order` of the mini-batch that was
 * not. */
cf_status cf_grid_train(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                        const uint32_t *order, size_t n_order, size_t minibatch_size,
                        const cf_grid_scratch *scratch, cf_grid_total *total);

/* The margins [rows->n_rows][CF_GRID_LANES] and losses of all rows, from which nothing is learnt;
 * `offset` is the row that is wrong. Margins of lanes that are not active are 0. */
cf_status cf_grid_measure(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                          float *margins, cf_grid_total *total);

/* The weights [n_ids] of one lane after rows_seen rows, and its intercept. */
void cf_grid_weights(const cf_grid_model *model, size_t lane, float *weights, float *intercept);

/* Copies a lane's state to a lane of another model, or of the same one, of equal kind and n_ids. */
void cf_grid_move(const cf_grid_model *from, size_t lane, const cf_grid_model *to, size_t to_lane);

#endif
