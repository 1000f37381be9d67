/* cf_train_rows.h -- steps of one row each: the fused loop that training in memory consists of
 * (internal to csrc).
 *
 * A row's ids are distinct, so its entries read and update the model directly. What the kernels of
 * the tables share is here: which row comes next and whether it is whole, where a coordinate lies,
 * and one row's step in plain C, which defines the answer.
 */
#ifndef CF_TRAIN_ROWS_H
#define CF_TRAIN_ROWS_H

#include "cf_loss.h"
#include "cf_train.h"

/* A walk over rows. The kernels take order[n] and add to loss and total; on failure the status's
 * offset is the place in `order` of the row that was not learnt from. */
typedef struct cf_train_walk {
    const cf_train_model *model;
    const cf_csr *rows;
    float *hot; /* coordinates below n_hot, and after them the intercept, are here */
    size_t n_hot;
    const uint32_t *order_end; /* rows up to here may be asked for ahead of time */
    double rows_seen;          /* before the next row */
    cf_loss_sum loss;
    cf_train_total *total;
} cf_train_walk;

cf_status cf_train_rows_scalar(cf_train_walk *walk, const uint32_t *order, size_t n);
#if defined(__x86_64__)
cf_status cf_train_rows_avx2(cf_train_walk *walk, const uint32_t *order, size_t n);
#elif defined(__aarch64__)
cf_status cf_train_rows_neon(cf_train_walk *walk, const uint32_t *order, size_t n);
#endif

/* How far ahead memory is asked for: a row's entries, then the coordinates they name. */
enum { CF_ROWS_AHEAD = 24, CF_IDS_AHEAD = 4 };

/* Checks a row number of `order` and gives the row's entries. */
static inline cf_code cf_find_row(const cf_csr *rows, uint32_t row, size_t *begin, size_t *end) {
    if (row >= rows->n_rows)
        return CF_E_ROW;
    return cf_csr_row(rows, row, begin, end) ? CF_OK : CF_E_INDPTR;
}

/* The ids of a row to come, so that n of them may be read; NULL if there are not as many. */
static inline const uint32_t *cf_ids_ahead(const cf_csr *rows, uint32_t row, size_t n) {
    size_t begin, end;
    if (cf_find_row(rows, row, &begin, &end) != CF_OK || n > rows->nnz - begin)
        return NULL;
    return rows->indices + begin;
}

/* Asks for a coordinate; `id` is unchecked, and asking for no memory of ours does nothing. */
static inline void cf_prefetch_coordinate(const float *state, uint32_t id, size_t width) {
    __builtin_prefetch((const void *)((uintptr_t)state + (uintptr_t)id * width * sizeof *state), 1);
}

/* What is the same for all rows of a walk, and a constant in each copy of the loop over them: which
 * optimiser, whether penalties are charged, whether there are hot copies. */
typedef struct {
    cf_optimizer_kind kind;
    bool charged, hot;
} cf_walk_shape;

/* Where the coordinate of an id below n_ids is. */
static inline float *cf_coordinate(cf_walk_shape is, const cf_train_walk *walk, uint32_t id) {
    float *const base = is.hot && id < walk->n_hot ? walk->hot : walk->model->state;
    return base + id * cf_optimizer_width(is.kind);
}

/* A row's error p - label, weighted; its loss goes to the walk's sum. */
static inline float cf_row_error(cf_train_walk *walk, uint32_t row, float margin) {
    const cf_csr *const rows = walk->rows;
    const bool positive = rows->labels[row] > 0;
    const float weight = rows->weights ? rows->weights[row] : 1.0f;
    walk->total->weight_sum += weight;
    return walk->model->class_weight[positive] * weight *
           cf_loss_error(&walk->loss, margin, positive, weight);
}

/* What of its penalty coordinate j is charged at the touch of one row: see cf_optimizer.h. */
static inline cf_penalty cf_row_charge(cf_walk_shape is, const cf_train_model *model, size_t j,
                                       float rows_seen) {
    if (!is.charged)
        return (cf_penalty){0, 0};
    return cf_penalty_due(model->penalties, j, is.kind == CF_FTRL ? rows_seen : 1.0f);
}

/* Learns from one row, whose entries [begin, end) were checked. */
static inline __attribute__((always_inline)) void cf_train_row(cf_walk_shape is,
                                                               cf_train_walk *walk, uint32_t row,
                                                               size_t begin, size_t end,
                                                               float rows_seen) {
    const cf_train_model *const model = walk->model;
    const uint32_t *const indices = walk->rows->indices;
    const float *const data = walk->rows->data;
    const cf_penalty free = {0, 0};
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = is.kind;
    float *const intercept = walk->hot + walk->n_hot * cf_optimizer_width(is.kind);
    float margin = cf_optimizer_weight(optimizer, intercept, free);
    for (size_t k = begin; k < end; k++) {
        const cf_penalty due = cf_row_charge(is, model, indices[k], rows_seen);
        const float *const state = cf_coordinate(is, walk, indices[k]);
        margin += data[k] * cf_optimizer_weight(optimizer, state, due);
    }
    const float error = cf_row_error(walk, row, margin);
    for (size_t k = begin; k < end; k++) {
        const cf_penalty due = cf_row_charge(is, model, indices[k], rows_seen);
        cf_optimizer_update(optimizer, cf_coordinate(is, walk, indices[k]), error * data[k], due);
    }
    if (model->fit_intercept)
        cf_optimizer_update(optimizer, intercept, error, free);
    walk->total->n_rows++;
    walk->total->n_updates++;
}

#endif
