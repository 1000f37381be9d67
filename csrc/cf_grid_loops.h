/* cf_grid_loops.h -- the loops of cf_grid.h over vectors of any width (internal to csrc).
 *
 * Who includes it has defined, for vectors that divide CF_GRID_LANES / 2:
 *     vec, vec_mask        floats, and the integers that comparing them gives (lanes are 0 or -1)
 *     VEC                  how many lanes
 *     LOOP                 attributes of functions that use them
 *     vec_sqrt, vec_all    square roots; whether all lanes of a mask are set
 *     vec_inverse_sqrt     1 / sqrt of what is no smaller than FLT_MIN, to 3e-7 of it: square root
 * and division would take as long as all else of an entry and gets `cf_grid_kernels` named KERNELS.
 * Each lane's arithmetic is that of cf_optimizer.h and cf_loss.h, step by step, so the width of a
 * vector changes nothing. A group whose active lanes are all in the first half has the second left
 * out.
 */
#include <string.h>

#include "cf_grid_walk.h"

enum { MOST = CF_GRID_LANES / VEC };

#define INLINE LOOP static inline __attribute__((always_inline))

/* What is the same for all rows, and a constant in each copy of the loops. */
typedef struct {
    cf_optimizer_kind kind;
    bool charged;
    size_t n; /* vectors: MOST or half of it */
} grid_shape;

typedef struct {
    vec l1[MOST], l2[MOST];
} grid_charge;

typedef struct {
    vec rate[MOST], inverse_rate[MOST], class_weight[2][MOST];
    vec_mask active[MOST];
    grid_charge strength; /* 0 where a lane is not active */
    float initial;
} grid_constants;

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

INLINE vec all_of(float x) { return x - (vec){0}; }

INLINE vec only(vec_mask mask, vec v) { return (vec)(mask & (vec_mask)v); }

INLINE vec where(vec_mask mask, vec a, vec b) {
    return (vec)((mask & (vec_mask)a) | (~mask & (vec_mask)b));
}

INLINE vec_mask sign_of(vec v) { return (vec_mask)v & (vec_mask)all_of(-0.0f); }

INLINE vec size_of(vec v) { return (vec)((vec_mask)v & ~(vec_mask)all_of(-0.0f)); }

/* cf_expf of cf_math.h; the reasons for its steps are there. */
INLINE vec vec_exp(vec x) {
    x = where(x < -87.0f, all_of(-87.0f), x);
    x = where(x > 87.0f, all_of(87.0f), x);
    const vec shifted = x * 1.44269504f + 12582912.0f;
    const vec n = shifted - 12582912.0f;
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const vec square = r * r;
    const vec high = (1.0f / 120 * r + 1.0f / 24) + square * (1.0f / 720);
    const vec p = (1.0f + r) + square * ((1.0f / 6 * r + 0.5f) + square * high);
    typedef uint32_t bits __attribute__((vector_size(sizeof(vec))));
    return p * (vec)(((bits)shifted - 0x4b400000u + 127) << 23);
}

INLINE grid_constants constants_of(const cf_grid_model *model) {
    grid_constants the;
    the.initial = model->initial;
    for (size_t v = 0; v < MOST; v++) {
        int32_t active[VEC];
        for (size_t j = 0; j < VEC; j++)
            active[j] = model->active >> (v * VEC + j) & 1 ? -1 : 0;
        memcpy(&the.active[v], active, sizeof active);
        the.rate[v] = load(model->learning_rate + v * VEC);
        the.inverse_rate[v] = 1.0f / the.rate[v];
        the.class_weight[0][v] = load(model->class_weight[0] + v * VEC);
        the.class_weight[1][v] = load(model->class_weight[1] + v * VEC);
        the.strength.l1[v] = only(the.active[v], load(model->l1 + v * VEC));
        the.strength.l2[v] = only(the.active[v], load(model->l2 + v * VEC));
    }
    return the;
}

/* The lanes' penalties of strengths times `each`, charged `times` over. */
INLINE void charge(grid_shape is, const grid_constants *the, cf_penalty each, float times,
                   grid_charge *due) {
    for (size_t v = 0; v < is.n; v++) {
        due->l1[v] = the->strength.l1[v] * each.l1 * times;
        due->l2[v] = the->strength.l2[v] * each.l2 * times;
    }
}

/* The charge of coordinate j: `most`, that of all from the last pair on, or put into `own`. */
INLINE const grid_charge *charge_of(grid_shape is, const grid_constants *the,
                                    const cf_grid_model *model, size_t j, float times,
                                    const grid_charge *most, grid_charge *own) {
    if (!is.charged || j + 1 >= model->penalties.n)
        return most;
    charge(is, the, model->penalties.of[j], times, own);
    return own;
}

/* The charge of all coordinates from the last pair on. */
INLINE void charge_most(grid_shape is, const grid_constants *the, const cf_grid_model *model,
                        float times, grid_charge *most) {
    if (is.charged)
        charge(is, the, cf_penalty_due(model->penalties, SIZE_MAX, 1.0f), times, most);
}

/* cf_optimizer_weight of vector v of a coordinate; *root is ftrl's of its n. */
INLINE vec weight_of(grid_shape is, const grid_constants *the, const float *state, size_t v,
                     const grid_charge *due, vec *root) {
    const vec first = load(state + v * VEC);
    if (is.kind != CF_FTRL)
        return first;
    *root = vec_sqrt(load(state + CF_GRID_LANES + v * VEC));
    vec under = (the->initial + *root) * the->inverse_rate[v], size = size_of(first);
    if (is.charged) {
        size = size - due->l1[v];
        under = under + due->l2[v];
    }
    const vec_mask kept = ~(size <= 0.0f); /* NaN goes on */
    const vec minus = (vec)((vec_mask)size ^ sign_of((vec) ~(vec_mask)first));
    return only(kept, minus / under);
}

/* cf_proximal_step */
INLINE vec proximal_step(grid_shape is, vec w, vec rate, vec g, const grid_charge *due, size_t v) {
    const vec u = w - rate * g;
    if (!is.charged)
        return u;
    const vec l1 = due->l1[v], l2 = due->l2[v];
    const vec_mask kept = ~(size_of(u) <= rate * l1); /* NaN goes on */
    const vec pull = (g + (vec)((vec_mask)l1 | sign_of(u))) + l2 * w;
    return only(kept, w - rate * pull / (1.0f + rate * l2));
}

/* cf_optimizer_update; w and root are what weight_of gave. */
INLINE void update(grid_shape is, const grid_constants *the, float *state, size_t v, vec g,
                   const grid_charge *due, vec w, vec root) {
    float *const first = state + v * VEC, *const second = first + CF_GRID_LANES;
    const vec rate = the->rate[v];
    if (is.kind == CF_SGD) {
        store(first, proximal_step(is, w, rate, g, due, v));
    } else if (is.kind == CF_ADAGRAD) {
        const vec s = load(second) + g * g;
        store(second, s);
        store(first, proximal_step(is, w, rate * vec_inverse_sqrt(s), g, due, v));
    } else {
        const vec n = load(second), grown = n + g * g;
        const vec sigma = (vec_sqrt(grown) - root) * the->inverse_rate[v];
        store(first, load(first) + g - sigma * w);
        store(second, grown);
    }
}

/* A row's errors p - label, weighted, and its losses to the walk's sums: see cf_loss.h. Lanes that
 * are not active have the error 0. */
INLINE void error_of(grid_shape is, const grid_constants *the, cf_grid_walk *walk, size_t row,
                     const vec *margin, vec *error) {
    const cf_csr *const rows = walk->rows;
    const bool positive = rows->labels[row] > 0;
    const float sign = positive ? 1.0f : -1.0f;
    const float weight = rows->weights ? rows->weights[row] : 1.0f;
    float toward[CF_GRID_LANES], right[CF_GRID_LANES];
    vec_mask plain = ~(vec_mask){0};
    for (size_t v = 0; v < is.n; v++) {
        const vec there = only(the->active[v], sign * margin[v]);
        const vec odds = vec_exp(there);
        const vec wrong = 1.0f / (1.0f + odds);
        plain &= there > -80.0f;
        store(toward + v * VEC, there);
        store(right + v * VEC, odds * wrong);
        error[v] = the->class_weight[positive][v] * weight * (-sign * wrong);
        error[v] = only(the->active[v], error[v]);
    }
    walk->total->weight_sum += weight;
    const size_t n = is.n * VEC;
    bool low = !vec_all(plain) || weight != 1.0f;
    if (!low) {
        for (size_t j = 0; j < n; j++)
            walk->product[j] *= right[j];
        for (size_t j = 0; j < n; j++)
            low |= !(walk->product[j] > 1e-250);
        for (size_t j = 0; low && j < n; j++)
            if (!(walk->product[j] > 1e-250)) {
                cf_loss_sum sum = {walk->product[j], walk->loss[j]};
                cf_loss_flush(&sum);
                walk->product[j] = sum.product;
                walk->loss[j] = sum.loss;
            }
        return;
    }
    for (size_t j = 0; j < n; j++) {
        cf_loss_sum sum = {walk->product[j], walk->loss[j]};
        cf_loss_add(&sum, toward[j], right[j], weight);
        walk->product[j] = sum.product;
        walk->loss[j] = sum.loss;
    }
}

/* What ftrl knows of a row's entries from reading them. */
typedef struct {
    float weight[CF_GRID_KEPT][CF_GRID_LANES], root[CF_GRID_KEPT][CF_GRID_LANES];
} grid_kept;

INLINE size_t coordinate_floats(grid_shape is) {
    return cf_optimizer_width(is.kind) * CF_GRID_LANES;
}

/* Adds a row's entries to its margins. */
INLINE void read_row(grid_shape is, const grid_constants *the, const cf_grid_walk *walk,
                     size_t begin, size_t end, float rows_seen, const grid_charge *most,
                     vec *margin, grid_kept *kept, cf_grid_ahead ahead) {
    const cf_grid_model *const model = walk->model;
    const size_t width = cf_optimizer_width(is.kind), n_read = is.kind == CF_FTRL ? 2 : 1;
    const bool charged = is.charged && is.kind == CF_FTRL; /* others' weights are what they are */
    const uint32_t *const ids = walk->rows->indices;
    const float *const data = walk->rows->data;
    grid_charge own;
    for (size_t k = begin; k < end; k++) {
        const float *const state = model->state + ids[k] * coordinate_floats(is);
        const grid_charge *due = most;
        cf_grid_ask(walk, &ahead, width, n_read, charged);
        if (is.kind == CF_FTRL)
            due = charge_of(is, the, model, ids[k], rows_seen, most, &own);
        for (size_t v = 0; v < is.n; v++) {
            vec root;
            const vec w = weight_of(is, the, state, v, due, &root);
            margin[v] += data[k] * w;
            if (is.kind == CF_FTRL && kept && k - begin < CF_GRID_KEPT) {
                store(kept->weight[k - begin] + v * VEC, w);
                store(kept->root[k - begin] + v * VEC, root);
            }
        }
    }
    while (ahead.n)
        cf_grid_ask(walk, &ahead, width, n_read, charged);
}

/* Its step. */
INLINE void write_row(grid_shape is, const grid_constants *the, const cf_grid_walk *walk,
                      size_t begin, size_t end, float times, const grid_charge *most,
                      const vec *error, const grid_kept *kept, cf_grid_ahead ahead) {
    const cf_grid_model *const model = walk->model;
    const size_t width = cf_optimizer_width(is.kind);
    const uint32_t *const ids = walk->rows->indices;
    const float *const data = walk->rows->data;
    grid_charge own;
    for (size_t k = begin; k < end; k++) {
        float *const state = model->state + ids[k] * coordinate_floats(is);
        const grid_charge *const due = charge_of(is, the, model, ids[k], times, most, &own);
        cf_grid_ask(walk, &ahead, width, width, is.charged);
        for (size_t v = 0; v < is.n; v++) {
            vec w, root;
            if (is.kind == CF_FTRL && k - begin < CF_GRID_KEPT) {
                w = load(kept->weight[k - begin] + v * VEC);
                root = load(kept->root[k - begin] + v * VEC);
            } else {
                w = weight_of(is, the, state, v, due, &root);
            }
            update(is, the, state, v, error[v] * data[k], due, w, root);
        }
    }
    while (ahead.n)
        cf_grid_ask(walk, &ahead, width, width, is.charged);
}

INLINE cf_status train_rows(grid_shape is, cf_grid_walk *walk, const uint32_t *order, size_t n) {
    const cf_grid_model *const model = walk->model;
    const grid_constants the = constants_of(model);
    const grid_shape free = {is.kind, false, is.n};
    float *const intercept = model->state + model->n_ids * coordinate_floats(is);
    const cf_grid_ahead none = {NULL, 0};
    grid_kept kept;
    grid_charge most;
    charge_most(is, &the, model, 1.0f, &most);
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        const cf_code code = cf_grid_find_row(walk, order[i], &begin, &end);
        if (code != CF_OK)
            return cf_fail(code, i);
        cf_csr_prefetch_order(walk->rows, order + i, n - i, CF_GRID_ROWS_AHEAD);
        cf_grid_ahead ahead = {NULL, 0};
        if (i + CF_GRID_IDS_AHEAD < n)
            ahead = cf_grid_look_ahead(walk, order[i + CF_GRID_IDS_AHEAD]);
        const float times = is.kind == CF_FTRL ? (float)(walk->rows_seen + (double)i) : 1.0f;
        if (is.kind == CF_FTRL)
            charge_most(is, &the, model, times, &most);
        vec margin[MOST], error[MOST], w[MOST], root[MOST];
        for (size_t v = 0; v < is.n; v++)
            margin[v] = w[v] = weight_of(free, &the, intercept, v, NULL, &root[v]);
        read_row(is, &the, walk, begin, end, times, &most, margin, &kept, none);
        error_of(is, &the, walk, order[i], margin, error);
        write_row(is, &the, walk, begin, end, times, &most, error, &kept, ahead);
        for (size_t v = 0; model->fit_intercept && v < is.n; v++)
            update(free, &the, intercept, v, error[v], NULL, w[v], root[v]);
        walk->total->n_rows++;
        walk->total->n_updates++;
    }
    return cf_ok();
}

/* Of a row that was checked. */
static inline size_t row_length(const cf_csr *rows, size_t row) {
    return (size_t)(rows->indptr[row + 1] - rows->indptr[row]);
}

INLINE void train_batch(grid_shape is, cf_grid_walk *walk, const cf_grid_batch *batch,
                        const cf_grid_scratch *scratch) {
    const cf_grid_model *const model = walk->model;
    const cf_csr *const rows = walk->rows;
    const grid_constants the = constants_of(model);
    const grid_shape free = {is.kind, false, is.n};
    const size_t width = cf_optimizer_width(is.kind), n_distinct = batch->n_distinct;
    const float rows_seen = (float)walk->rows_seen;
    const bool touched = is.charged && is.kind != CF_FTRL;
    const bool copied = is.kind != CF_SGD; /* weights that lie apart, or are computed */
    const uint32_t *const distinct = batch->distinct;
    float *const intercept = model->state + model->n_ids * coordinate_floats(is);
    grid_charge most, own;
    charge_most(is, &the, model, rows_seen, &most);
    if (n_distinct)
        memset(scratch->gradient, 0, n_distinct * CF_GRID_LANES * sizeof *scratch->gradient);
    if (n_distinct && touched)
        memset(scratch->touches, 0, n_distinct * sizeof *scratch->touches);
    for (size_t j = 0; copied && j < n_distinct; j++) {
        if (j + CF_GRID_DISTINCT_AHEAD < n_distinct)
            cf_grid_prefetch_id(walk, distinct[j + CF_GRID_DISTINCT_AHEAD], width, width,
                                is.charged);
        const float *const state = model->state + distinct[j] * coordinate_floats(is);
        const grid_charge *const due =
            charge_of(is, &the, model, distinct[j], rows_seen, &most, &own);
        for (size_t v = 0; v < is.n; v++) {
            vec root;
            store(scratch->weights + j * CF_GRID_LANES + v * VEC,
                  weight_of(is, &the, state, v, due, &root));
        }
    }
    vec start[MOST], root[MOST], sum[MOST];
    for (size_t v = 0; v < is.n; v++) {
        start[v] = weight_of(free, &the, intercept, v, NULL, &root[v]);
        sum[v] = (vec){0};
    }
    const uint32_t *local = batch->local;
    size_t asked = 0;
    for (size_t i = 0; i < batch->n; i++) {
        const size_t row = batch->order[i], begin = (size_t)rows->indptr[row];
        const size_t length = (size_t)rows->indptr[row + 1] - begin;
        vec margin[MOST], error[MOST];
        if (i + CF_GRID_ROWS_AHEAD / 4 < batch->n)
            cf_csr_prefetch(rows, batch->order[i + CF_GRID_ROWS_AHEAD / 4]);
        for (const size_t due = batch->n_next * (i + 1) / batch->n; !copied && asked < due; asked++)
            cf_grid_prefetch_id(walk, batch->next[asked], width, width, is.charged);
        for (size_t v = 0; v < is.n; v++)
            margin[v] = start[v];
        for (size_t k = 0; k < length; k++) {
            __builtin_prefetch(scratch->gradient + local[k] * (size_t)CF_GRID_LANES, 1);
            const float *const w = copied
                                       ? scratch->weights + local[k] * (size_t)CF_GRID_LANES
                                       : model->state + distinct[local[k]] * coordinate_floats(is);
            for (size_t v = 0; v < is.n; v++)
                margin[v] += rows->data[begin + k] * load(w + v * VEC);
        }
        error_of(is, &the, walk, row, margin, error);
        for (size_t v = 0; v < is.n; v++)
            sum[v] += error[v];
        const uint32_t *const next = length ? local + length : local;
        const size_t n_next =
            copied && i + 1 < batch->n ? row_length(rows, batch->order[i + 1]) : 0;
        for (size_t k = 0; k < length; k++) {
            if (k < n_next)
                __builtin_prefetch(scratch->weights + next[k] * (size_t)CF_GRID_LANES);
            float *const g = scratch->gradient + local[k] * (size_t)CF_GRID_LANES;
            for (size_t v = 0; v < is.n; v++)
                store(g + v * VEC, load(g + v * VEC) + error[v] * rows->data[begin + k]);
            if (touched)
                scratch->touches[local[k]] += 1.0f;
        }
        local = next;
    }
    for (size_t j = 0; j < n_distinct; j++) {
        if (j + CF_GRID_DISTINCT_AHEAD < n_distinct)
            cf_grid_prefetch_id(walk, distinct[j + CF_GRID_DISTINCT_AHEAD], width, width,
                                is.charged);
        float *const state = model->state + distinct[j] * coordinate_floats(is);
        const grid_charge *due = &own;
        if (touched)
            charge(is, &the, cf_penalty_due(model->penalties, distinct[j], 1.0f),
                   scratch->touches[j], &own);
        else
            due = charge_of(is, &the, model, distinct[j], rows_seen, &most, &own);
        for (size_t v = 0; v < is.n; v++) {
            vec at = {0};
            const vec w =
                load(copied ? scratch->weights + j * CF_GRID_LANES + v * VEC : state + v * VEC);
            if (is.kind == CF_FTRL)
                at = vec_sqrt(load(state + CF_GRID_LANES + v * VEC));
            const vec g = load(scratch->gradient + j * CF_GRID_LANES + v * VEC);
            update(is, &the, state, v, g, due, w, at);
        }
    }
    for (size_t v = 0; model->fit_intercept && v < is.n; v++)
        update(free, &the, intercept, v, sum[v] * model->intercept_rate, NULL, start[v], root[v]);
    walk->total->n_rows += batch->n;
    walk->total->n_updates++;
}

INLINE cf_status measure(grid_shape is, cf_grid_walk *walk, float *margins) {
    const cf_grid_model *const model = walk->model;
    const grid_constants the = constants_of(model);
    const float rows_seen = (float)walk->rows_seen;
    const float *const intercept = model->state + model->n_ids * coordinate_floats(is);
    const grid_shape free = {is.kind, false, is.n};
    grid_charge most;
    charge_most(is, &the, model, rows_seen, &most);
    for (size_t i = 0; i < walk->rows->n_rows; i++) {
        size_t begin, end;
        const cf_code code = cf_grid_find_row(walk, i, &begin, &end);
        if (code != CF_OK)
            return cf_fail(code, i);
        const cf_grid_ahead ahead = cf_grid_look_ahead(walk, i + CF_GRID_IDS_AHEAD);
        vec margin[MOST], error[MOST], root;
        for (size_t v = 0; v < is.n; v++)
            margin[v] = weight_of(free, &the, intercept, v, NULL, &root);
        read_row(is, &the, walk, begin, end, rows_seen, &most, margin, NULL, ahead);
        error_of(is, &the, walk, i, margin, error);
        for (size_t v = 0; v < is.n; v++)
            store(margins + i * CF_GRID_LANES + v * VEC, only(the.active[v], margin[v]));
        for (size_t v = is.n; v < MOST; v++)
            store(margins + i * CF_GRID_LANES + v * VEC, (vec){0});
        walk->total->n_rows++;
    }
    return cf_ok();
}

/* Loops of their own for each shape; weights of sgd and adagrad are read alike, charged or not. */
#define CF_SHAPES(X)                                                                               \
    CF_READ_SHAPES(X)                                                                              \
    X(sgd_charged, CF_SGD, true, MOST)                                                             \
    X(sgd_charged_half, CF_SGD, true, MOST / 2)                                                    \
    X(adagrad_charged, CF_ADAGRAD, true, MOST)                                                     \
    X(adagrad_charged_half, CF_ADAGRAD, true, MOST / 2)
#define CF_READ_SHAPES(X)                                                                          \
    X(sgd, CF_SGD, false, MOST)                                                                    \
    X(sgd_half, CF_SGD, false, MOST / 2)                                                           \
    X(adagrad, CF_ADAGRAD, false, MOST)                                                            \
    X(adagrad_half, CF_ADAGRAD, false, MOST / 2)                                                   \
    X(ftrl, CF_FTRL, false, MOST)                                                                  \
    X(ftrl_half, CF_FTRL, false, MOST / 2)                                                         \
    X(ftrl_charged, CF_FTRL, true, MOST)                                                           \
    X(ftrl_charged_half, CF_FTRL, true, MOST / 2)

#define CF_LOOPS(name, kind, charged, n)                                                           \
    LOOP static cf_status rows_##name(cf_grid_walk *walk, const uint32_t *order, size_t n_order) { \
        return train_rows((grid_shape){kind, charged, n}, walk, order, n_order);                   \
    }                                                                                              \
    LOOP static void batch_##name(cf_grid_walk *walk, const cf_grid_batch *batch,                  \
                                  const cf_grid_scratch *scratch) {                                \
        train_batch((grid_shape){kind, charged, n}, walk, batch, scratch);                         \
    }
CF_SHAPES(CF_LOOPS)

#define CF_READS(name, kind, charged, n)                                                           \
    LOOP static cf_status measure_##name(cf_grid_walk *walk, float *margins) {                     \
        return measure((grid_shape){kind, charged, n}, walk, margins);                             \
    }
CF_READ_SHAPES(CF_READS)

static bool is_shape(const cf_grid_model *model, cf_optimizer_kind kind, bool charged, size_t n) {
    return model->kind == kind && (model->penalties.n > 0) == charged &&
           (model->active >> CF_GRID_LANES / 2 == 0) == (n != MOST);
}

static cf_status rows_any(cf_grid_walk *walk, const uint32_t *order, size_t n_order) {
#define CF_CHOOSE(name, kind, charged, n)                                                          \
    if (is_shape(walk->model, kind, charged, n))                                                   \
        return rows_##name(walk, order, n_order);
    CF_SHAPES(CF_CHOOSE)
#undef CF_CHOOSE
    return cf_ok();
}

static void batch_any(cf_grid_walk *walk, const cf_grid_batch *batch,
                      const cf_grid_scratch *scratch) {
#define CF_CHOOSE(name, kind, charged, n)                                                          \
    if (is_shape(walk->model, kind, charged, n)) {                                                 \
        batch_##name(walk, batch, scratch);                                                        \
        return;                                                                                    \
    }
    CF_SHAPES(CF_CHOOSE)
#undef CF_CHOOSE
}

static cf_status measure_any(cf_grid_walk *walk, float *margins) {
    cf_grid_model read = *walk->model;
    if (read.kind != CF_FTRL)
        read.penalties.n = 0;
#define CF_CHOOSE(name, kind, charged, n)                                                          \
    if (is_shape(&read, kind, charged, n))                                                         \
        return measure_##name(walk, margins);
    CF_READ_SHAPES(CF_CHOOSE)
#undef CF_CHOOSE
    return cf_ok();
}

const struct cf_grid_kernels KERNELS = {rows_any, batch_any, measure_any};
