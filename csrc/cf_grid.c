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

static inline vec vec_inverse_sqrt(vec v) { return 1.0f / vec_sqrt(v); }

static inline int vec_all(vec_mask mask) { return (mask[0] & mask[1] & mask[2] & mask[3]) == -1; }

#include "cf_grid_loops.h"

static cf_optimizer optimizer_of(const cf_grid_model *model, size_t lane) {
    return (cf_optimizer){model->kind, model->learning_rate[lane], model->initial};
}

void cf_grid_clear(const cf_grid_model *model, const float intercept[CF_GRID_LANES]) {
    const size_t width = cf_optimizer_width(model->kind), size = width * CF_GRID_LANES;
    float clear[2 * CF_GRID_LANES], set[2 * CF_GRID_LANES];
    for (size_t lane = 0; lane < CF_GRID_LANES; lane++) {
        const cf_optimizer optimizer = optimizer_of(model, lane);
        float of_clear[2], of_set[2];
        cf_optimizer_clear(optimizer, of_clear, 1);
        cf_optimizer_set(optimizer, of_set, intercept[lane]);
        for (size_t member = 0; member < width; member++) {
            clear[member * CF_GRID_LANES + lane] = of_clear[member];
            set[member * CF_GRID_LANES + lane] = of_set[member];
        }
    }
    for (size_t i = 0; i < model->n_ids; i++)
        memcpy(model->state + i * size, clear, size * sizeof *clear);
    memcpy(model->state + model->n_ids * size, set, size * sizeof *set);
}

cf_status cf_grid_localize(const cf_csr *rows, const uint32_t *order, size_t n_order, size_t n_ids,
                           uint32_t *table, uint32_t *local, uint32_t *distinct, size_t room,
                           uint32_t *n_distinct, cf_grid_batches *batches) {
    const size_t size = batches->minibatch_size;
    *batches = (cf_grid_batches){size, local, distinct, n_distinct, 0, 0, 0};
    for (size_t first = 0; first < n_order; first += size) {
        const size_t n = n_order - first < size ? n_order - first : size;
        uint32_t *const mine = batches->n_local ? local + batches->n_local : local;
        size_t found, filled = 0;
        const cf_status status =
            cf_localize_rows(rows, order + first, n, table, n_ids, mine, room - batches->n_local,
                             distinct + batches->n_all_distinct, &found);
        if (status.code != CF_OK)
            return cf_fail(status.code, first);
        for (size_t i = first; i < first + n; i++)
            filled += (size_t)(rows->indptr[order[i] + 1] - rows->indptr[order[i]]);
        n_distinct[batches->n_batches++] = (uint32_t)found;
        batches->n_local += filled;
        batches->n_all_distinct += found;
    }
    return cf_ok();
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

/* Checks that the entries of a mini-batch's rows are local[*n_local] at most, and their numbers
 * below n_distinct, whose ids are below n_ids; sets *n_local to how many they are. */
static cf_code check_batch(const cf_grid_model *model, const cf_csr *rows,
                           const cf_grid_batch *batch, size_t *n_local) {
    size_t n = 0;
    uint32_t highest = 0;
    for (size_t i = 0; i < batch->n; i++) {
        size_t begin, end;
        if (batch->order[i] >= rows->n_rows)
            return CF_E_ROW;
        if (!cf_csr_row(rows, batch->order[i], &begin, &end))
            return CF_E_INDPTR;
        if (end - begin > *n_local - n)
            return CF_E_ROOM;
        n += end - begin;
    }
    for (size_t k = 0; k < n; k++)
        highest = batch->local[k] > highest ? batch->local[k] : highest;
    if (n && highest >= batch->n_distinct)
        return CF_E_DISTINCT;
    highest = 0;
    for (size_t j = 0; j < batch->n_distinct; j++)
        highest = batch->distinct[j] > highest ? batch->distinct[j] : highest;
    *n_local = n;
    return batch->n_distinct && highest >= model->n_ids ? CF_E_ID : CF_OK;
}

static cf_status train_batches(const cf_kernels *kernels, cf_grid_walk *walk, const uint32_t *order,
                               size_t n_order, const cf_grid_batches *batches,
                               const cf_grid_scratch *scratch) {
    const size_t size = batches->minibatch_size;
    size_t at_local = 0, at_distinct = 0;
    for (size_t first = 0, i = 0; first < n_order; first += size, i++) {
        cf_grid_batch batch = {.order = order + first, .local = batches->local};
        size_t n_local = batches->n_local - at_local;
        batch.n = n_order - first < size ? n_order - first : size;
        if (i >= batches->n_batches)
            return cf_fail(CF_E_ROOM, first);
        batch.n_distinct = batches->n_distinct[i];
        if (batch.n_distinct > scratch->room ||
            batch.n_distinct > batches->n_all_distinct - at_distinct)
            return cf_fail(CF_E_ROOM, first);
        batch.local = at_local ? batches->local + at_local : batches->local;
        batch.distinct = at_distinct ? batches->distinct + at_distinct : batches->distinct;
        const cf_code code = check_batch(walk->model, walk->rows, &batch, &n_local);
        if (code != CF_OK)
            return cf_fail(code, first);
        at_local += n_local;
        at_distinct += batch.n_distinct;
        if (i + 1 < batches->n_batches && at_distinct < batches->n_all_distinct) {
            const size_t left = batches->n_all_distinct - at_distinct;
            batch.next = batches->distinct + at_distinct;
            batch.n_next = batches->n_distinct[i + 1] < left ? batches->n_distinct[i + 1] : left;
        }
        walk->rows_seen = walk->model->rows_seen + (double)first;
        kernels->grid->batch(walk, &batch, scratch);
    }
    return cf_ok();
}

cf_status cf_grid_train(const cf_kernels *kernels, const cf_grid_model *model, const cf_csr *rows,
                        const uint32_t *order, size_t n_order, const cf_grid_batches *batches,
                        const cf_grid_scratch *scratch, cf_grid_total *total) {
    cf_grid_walk walk = begin_walk(model, rows, total);
    const cf_status status = batches
                                 ? train_batches(kernels, &walk, order, n_order, batches, scratch)
                                 : kernels->grid->rows(&walk, order, n_order);
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

/* A lane's weights at the n coordinates from `first` on, whose state is at `state`. */
static void lane_weights(const cf_grid_model *model, const float *state, size_t lane, size_t first,
                         size_t n, cf_penalties penalties, float *weights) {
    const size_t size = cf_optimizer_width(model->kind) * CF_GRID_LANES;
    const cf_optimizer optimizer = optimizer_of(model, lane);
    for (size_t i = 0; i < n; i++) {
        const float *const members = state + i * size + lane;
        if (model->kind != CF_FTRL) {
            weights[i] = members[0];
            continue;
        }
        const float own[2] = {members[0], members[CF_GRID_LANES]};
        cf_penalty due = cf_penalty_due(penalties, first + i, 1.0f);
        due.l1 = model->l1[lane] * due.l1 * (float)model->rows_seen;
        due.l2 = model->l2[lane] * due.l2 * (float)model->rows_seen;
        weights[i] = cf_optimizer_weight(optimizer, own, due);
    }
}

void cf_grid_weights(const cf_grid_model *model, uint32_t lanes, float *const *weights,
                     float *intercepts) {
    enum { TOGETHER = 128 }; /* coordinates that stay near while all lanes are read */
    const size_t size = cf_optimizer_width(model->kind) * CF_GRID_LANES, n_ids = model->n_ids;
    const cf_penalties none = {NULL, 0};
    for (size_t first = 0; first < n_ids; first += TOGETHER) {
        const size_t n = n_ids - first < TOGETHER ? n_ids - first : TOGETHER;
        for (size_t lane = 0, i = 0; lane < CF_GRID_LANES; lane++)
            if (lanes >> lane & 1)
                lane_weights(model, model->state + first * size, lane, first, n, model->penalties,
                             weights[i++] + first);
    }
    for (size_t lane = 0, i = 0; lane < CF_GRID_LANES; lane++)
        if (lanes >> lane & 1)
            lane_weights(model, model->state + n_ids * size, lane, 0, 1, none, &intercepts[i++]);
}

void cf_grid_move(const cf_grid_model *from, size_t lane, const cf_grid_model *to, size_t to_lane) {
    const size_t n = (from->n_ids + 1) * cf_optimizer_width(from->kind);
    for (size_t i = 0; i < n; i++)
        to->state[i * CF_GRID_LANES + to_lane] = from->state[i * CF_GRID_LANES + lane];
}
