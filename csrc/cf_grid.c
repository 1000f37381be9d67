/* What does not depend on the kernels, and the plain kernels: sixteen lanes as vectors of four,
 * which every CPU we run on has. */
#include "cf_grid.h"

#include "cf_lanes.h"
#include "cf_localize.h"

#define LOOP
#define VEC     4
#define KERNELS cf_grid_scalar

typedef cf_four vec;
typedef cf_four_mask vec_mask;

static inline vec vec_sqrt(vec v) {
    return (vec){sqrtf(v[0]), sqrtf(v[1]), sqrtf(v[2]), sqrtf(v[3])};
}

static inline int vec_all(vec_mask mask) { return (mask[0] & mask[1] & mask[2] & mask[3]) == -1; }

#include "cf_grid_loops.h"

static cf_optimizer optimizer_of(const cf_grid_model *model, size_t lane) {
    return (cf_optimizer){model->kind, model->learning_rate[lane], model->initial};
}

void cf_grid_clear(const cf_grid_model *model, const float intercept[CF_GRID_LANES]) {
    const size_t width = cf_optimizer_width(model->kind);
    for (size_t lane = 0; lane < CF_GRID_LANES; lane++) {
        const cf_optimizer optimizer = optimizer_of(model, lane);
        float clear[2], set[2];
        cf_optimizer_clear(optimizer, clear, 1);
        cf_optimizer_set(optimizer, set, intercept[lane]);
        for (size_t member = 0; member < width; member++) {
            float *const at = model->state + member * CF_GRID_LANES + lane;
            for (size_t i = 0; i < model->n_ids; i++)
                at[i * width * CF_GRID_LANES] = clear[member];
            at[model->n_ids * width * CF_GRID_LANES] = set[member];
        }
    }
}

static cf_grid_walk begin_walk(const cf_grid_model *model, const cf_csr *rows,
                               cf_grid_total *total) {
    cf_grid_walk walk = {
        .model = model, .rows = rows, .rows_seen = model->rows_seen, .total = total};
    *total = (cf_grid_total){0};
    for (size_t lane = 0; lane < CF_GRID_LANES; lane++)
        walk.product[lane] = 1.0;
    return walk;
}

static void end_walk(cf_grid_walk *walk) {
    for (size_t lane = 0; lane < CF_GRID_LANES; lane++) {
        cf_loss_sum sum = {walk->product[lane], walk->loss[lane]};
        cf_loss_flush(&sum);
        walk->total->loss_sum[lane] = sum.loss;
    }
}

cf_status cf_grid_train(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                        const uint32_t *order, size_t n_order, size_t minibatch_size,
                        const cf_grid_scratch *scratch, cf_grid_total *total) {
    cf_grid_walk walk = begin_walk(model, rows, total);
    cf_status status = cf_ok();
    if (minibatch_size == 1) {
        status = kernels->grid->rows(&walk, order, n_order);
    } else {
        for (size_t first = 0; first < n_order; first += minibatch_size) {
            const size_t n = n_order - first < minibatch_size ? n_order - first : minibatch_size;
            size_t n_distinct;
            status =
                cf_localize_rows(rows, order + first, n, scratch->table, model->n_ids,
                                 scratch->local, scratch->room, scratch->distinct, &n_distinct);
            if (status.code != CF_OK) {
                status.offset = first;
                break;
            }
            walk.rows_seen = model->rows_seen + (double)first;
            kernels->grid->batch(&walk, order + first, n, scratch, n_distinct);
        }
    }
    end_walk(&walk);
    return status;
}

cf_status cf_grid_measure(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                          float *margins, cf_grid_total *total) {
    cf_grid_walk walk = begin_walk(model, rows, total);
    const cf_status status = kernels->grid->measure(&walk, margins);
    end_walk(&walk);
    return status;
}

/* A lane's weights at n coordinates from `state` on, `times` rows seen. */
static void lane_weights(const cf_grid_model *model, const float *state, size_t lane, size_t n,
                         cf_penalties penalties, float *weights) {
    const size_t width = cf_optimizer_width(model->kind);
    const cf_optimizer optimizer = optimizer_of(model, lane);
    for (size_t i = 0; i < n; i++) {
        float own[2] = {0, 0};
        for (size_t member = 0; member < width; member++)
            own[member] = state[(i * width + member) * CF_GRID_LANES + lane];
        cf_penalty due = cf_penalty_due(penalties, i, 1.0f);
        due.l1 = model->l1[lane] * due.l1 * (float)model->rows_seen;
        due.l2 = model->l2[lane] * due.l2 * (float)model->rows_seen;
        weights[i] = cf_optimizer_weight(optimizer, own, due);
    }
}

void cf_grid_weights(const cf_grid_model *model, size_t lane, float *weights, float *intercept) {
    const size_t size = cf_optimizer_width(model->kind) * CF_GRID_LANES;
    const cf_penalties none = {NULL, 0};
    lane_weights(model, model->state, lane, model->n_ids, model->penalties, weights);
    lane_weights(model, model->state + model->n_ids * size, lane, 1, none, intercept);
}

void cf_grid_move(const cf_grid_model *from, size_t lane, const cf_grid_model *to, size_t to_lane) {
    const size_t n = (from->n_ids + 1) * cf_optimizer_width(from->kind);
    for (size_t i = 0; i < n; i++)
        to->state[i * CF_GRID_LANES + to_lane] = from->state[i * CF_GRID_LANES + lane];
}
