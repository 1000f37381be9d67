/* Four coordinates at a time, otherwise as in cf_train_rows_avx2.c: a coordinate is one access of 8
 * bytes, four of them are taken apart into the four first and the four second members, and roots
 * and divisions are done four at a time.
 *
 * The arithmetic of each coordinate is the scalar kernel's; only the margin is summed in another
 * order. */
#include "cf_train_rows.h"

#if defined(__aarch64__)
#include <arm_neon.h>

enum { LANES = 4, LONGEST = 512 }; /* longer rows are left to the scalar step */

/* A row between its two passes. */
typedef struct {
    float first[LONGEST], second[LONGEST]; /* members, as read */
    float weight[LONGEST], root[LONGEST];  /* ftrl: of the coordinate, of its n */
} row_buffer;

typedef struct {
    float32x4_t first, second;
} pairs;

static inline pairs load_pairs(float *const at[LANES]) {
    const float32x4_t a = vcombine_f32(vld1_f32(at[0]), vld1_f32(at[1]));
    const float32x4_t b = vcombine_f32(vld1_f32(at[2]), vld1_f32(at[3]));
    return (pairs){vuzp1q_f32(a, b), vuzp2q_f32(a, b)};
}

static inline void store_pairs(float *const at[LANES], pairs state) {
    const float64x2_t a = vreinterpretq_f64_f32(vzip1q_f32(state.first, state.second));
    const float64x2_t b = vreinterpretq_f64_f32(vzip2q_f32(state.first, state.second));
    vst1_f32(at[0], vreinterpret_f32_f64(vget_low_f64(a)));
    vst1_f32(at[1], vreinterpret_f32_f64(vget_high_f64(a)));
    vst1_f32(at[2], vreinterpret_f32_f64(vget_low_f64(b)));
    vst1_f32(at[3], vreinterpret_f32_f64(vget_high_f64(b)));
}

static inline bool all_below(const uint32_t *ids, size_t n, size_t n_ids) {
    if (n == 0)
        return true;
    uint32x4_t highest = vdupq_n_u32(0);
    size_t k = 0;
    for (; k + LANES <= n; k += LANES)
        highest = vmaxq_u32(highest, vld1q_u32(ids + k));
    uint32_t found = vmaxvq_u32(highest);
    for (; k < n; k++)
        found = ids[k] > found ? ids[k] : found;
    return found < n_ids;
}

/* x nearer to 0 by `less`, +0 where that is all there is; NaN stays one. */
static inline float32x4_t shrink(float32x4_t x, float32x4_t less) {
    const uint32x4_t sign = vdupq_n_u32(UINT32_C(1) << 31);
    const float32x4_t size = vsubq_f32(vabsq_f32(x), less);
    const uint32x4_t none = vcleq_f32(size, vdupq_n_f32(0));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(vbslq_f32(sign, x, size)), none));
}

typedef struct {
    float32x4_t rate, inverse_rate, initial;
    float rows_seen;
} constants;

/* Four entries of a row, and their coordinates. */
typedef struct {
    const uint32_t *ids;
    float32x4_t data;
    float *at[LANES];
} lanes;

static inline lanes lanes_at(cf_walk_shape is, const cf_train_walk *walk, const uint32_t *ids,
                             const float *data) {
    lanes of = {.ids = ids, .data = vld1q_f32(data)};
    for (size_t j = 0; j < LANES; j++)
        of.at[j] = cf_coordinate(is, walk, ids[j]);
    return of;
}

/* (l1, l2) of four ids, times what they are charged for. */
static inline pairs load_charges(cf_walk_shape is, const cf_train_model *model,
                                 const uint32_t ids[LANES], const constants *the) {
    float first[LANES], second[LANES];
    for (size_t j = 0; j < LANES; j++) {
        const cf_penalty due = cf_row_charge(is, model, ids[j], the->rows_seen);
        first[j] = due.l1;
        second[j] = due.l2;
    }
    return (pairs){vld1q_f32(first), vld1q_f32(second)};
}

/* Reads four coordinates to place k of the buffer; returns their weights. */
static inline float32x4_t read_lanes(cf_walk_shape is, const cf_train_model *model, const lanes *of,
                                     const constants *the, row_buffer *row, size_t k) {
    const pairs state = load_pairs(of->at);
    vst1q_f32(row->first + k, state.first);
    vst1q_f32(row->second + k, state.second);
    if (is.kind == CF_ADAGRAD)
        return state.first;
    const float32x4_t root = vsqrtq_f32(state.second);
    float32x4_t size = state.first;
    float32x4_t under = vmulq_f32(vaddq_f32(the->initial, root), the->inverse_rate);
    if (is.charged) {
        const pairs due = load_charges(is, model, of->ids, the);
        size = shrink(size, due.first);
        under = vaddq_f32(under, due.second);
    }
    const float32x4_t weight = vdivq_f32(vnegq_f32(size), under);
    vst1q_f32(row->weight + k, weight);
    vst1q_f32(row->root + k, root);
    return weight;
}

/* cf_proximal_step of four. */
static inline float32x4_t step_charged(float32x4_t w, float32x4_t rate, float32x4_t g, pairs due) {
    const uint32x4_t sign = vdupq_n_u32(UINT32_C(1) << 31);
    const float32x4_t u = vsubq_f32(w, vmulq_f32(rate, g));
    const uint32x4_t none = vcleq_f32(vabsq_f32(u), vmulq_f32(rate, due.first));
    const float32x4_t toward = vbslq_f32(sign, u, due.first);
    const float32x4_t pull = vaddq_f32(vaddq_f32(g, toward), vmulq_f32(due.second, w));
    const float32x4_t under = vaddq_f32(vdupq_n_f32(1.0f), vmulq_f32(rate, due.second));
    const float32x4_t next = vsubq_f32(w, vdivq_f32(vmulq_f32(rate, pull), under));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(next), none));
}

/* Their step. */
static inline void write_lanes(cf_walk_shape is, const cf_train_model *model, const lanes *of,
                               const constants *the, const row_buffer *row, size_t k,
                               float32x4_t error) {
    const float32x4_t g = vmulq_f32(error, of->data);
    const float32x4_t first = vld1q_f32(row->first + k);
    const float32x4_t grown = vaddq_f32(vld1q_f32(row->second + k), vmulq_f32(g, g));
    const float32x4_t root = vsqrtq_f32(grown);
    if (is.kind == CF_ADAGRAD) {
        const float32x4_t rate = vdivq_f32(the->rate, root);
        const float32x4_t w =
            is.charged ? step_charged(first, rate, g, load_charges(is, model, of->ids, the))
                       : vsubq_f32(first, vmulq_f32(rate, g));
        store_pairs(of->at, (pairs){w, grown});
        return;
    }
    const float32x4_t sigma =
        vmulq_f32(vsubq_f32(root, vld1q_f32(row->root + k)), the->inverse_rate);
    const float32x4_t z =
        vsubq_f32(vaddq_f32(first, g), vmulq_f32(sigma, vld1q_f32(row->weight + k)));
    store_pairs(of->at, (pairs){z, grown});
}

/* Learns from a row that is checked, and not longer than LONGEST. `ahead` has the ids of a row to
 * come, readable as far as this row's and LANES more, or is NULL. */
static inline __attribute__((always_inline)) void train_row(cf_walk_shape is, cf_train_walk *walk,
                                                            uint32_t number, size_t begin, size_t n,
                                                            const uint32_t *ahead,
                                                            const constants *the, row_buffer *row) {
    const cf_train_model *const model = walk->model;
    const cf_penalty free = {0, 0};
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = is.kind;
    const uint32_t *const ids = walk->rows->indices + begin;
    const float *const data = walk->rows->data + begin;
    const size_t whole = n - n % LANES;
    float32x4_t sum = vdupq_n_f32(0);
    if (ahead)
        for (size_t k = 0; k < n; k++)
            cf_prefetch_coordinate(model->state, ahead[k], 2);
    for (size_t k = 0; k < whole; k += LANES) {
        const lanes of = lanes_at(is, walk, ids + k, data + k);
        const float32x4_t w = read_lanes(is, model, &of, the, row, k);
        sum = vaddq_f32(sum, vmulq_f32(of.data, w));
    }
    /* The last lanes are filled up with a coordinate that is nobody's and an entry of 0. */
    float spare[2] = {0, 1};
    uint32_t last_ids[LANES] = {0};
    float last_data[LANES] = {0};
    lanes last = {last_ids, vdupq_n_f32(0), {spare, spare, spare, spare}};
    if (whole < n) {
        for (size_t j = 0; whole + j < n; j++) {
            last_ids[j] = ids[whole + j];
            last_data[j] = data[whole + j];
            last.at[j] = cf_coordinate(is, walk, last_ids[j]);
        }
        last.data = vld1q_f32(last_data);
        const float32x4_t w = read_lanes(is, model, &last, the, row, whole);
        sum = vaddq_f32(sum, vmulq_f32(last.data, w));
    }
    float *const intercept = walk->hot + walk->n_hot * 2;
    const float margin = cf_optimizer_weight(optimizer, intercept, free) + vaddvq_f32(sum);
    const float error = cf_row_error(walk, number, margin);
    const float32x4_t errors = vdupq_n_f32(error);
    for (size_t k = 0; k < whole; k += LANES) {
        const lanes of = lanes_at(is, walk, ids + k, data + k);
        write_lanes(is, model, &of, the, row, k, errors);
    }
    if (whole < n)
        write_lanes(is, model, &last, the, row, whole, errors);
    if (model->fit_intercept)
        cf_optimizer_update(optimizer, intercept, error, free);
    walk->total->n_rows++;
    walk->total->n_updates++;
}

static inline __attribute__((always_inline)) cf_status train_rows(cf_walk_shape is,
                                                                  cf_train_walk *walk,
                                                                  const uint32_t *order, size_t n) {
    const cf_csr *const rows = walk->rows;
    const cf_optimizer *const optimizer = &walk->model->optimizer;
    const size_t known = (size_t)(walk->order_end - order);
    row_buffer row;
    constants the = {
        .rate = vdupq_n_f32(optimizer->learning_rate),
        .inverse_rate = vdupq_n_f32(1.0f / optimizer->learning_rate),
        .initial = vdupq_n_f32(optimizer->initial),
    };
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        const cf_code code = cf_find_row(rows, order[i], &begin, &end);
        if (code != CF_OK)
            return cf_fail(code, i);
        const size_t length = end - begin;
        if (!all_below(rows->indices + begin, length, walk->model->n_ids))
            return cf_fail(CF_E_ID, i);
        cf_csr_prefetch_order(rows, order + i, known - i, CF_ROWS_AHEAD);
        const float rows_seen = (float)(walk->rows_seen + (double)i);
        if (length > LONGEST) {
            cf_train_row(is, walk, order[i], begin, end, rows_seen);
            continue;
        }
        const uint32_t *ahead = NULL;
        if (i + CF_IDS_AHEAD < known)
            ahead = cf_ids_ahead(rows, order[i + CF_IDS_AHEAD], length);
        the.rows_seen = rows_seen;
        train_row(is, walk, order[i], begin, length, ahead, &the, &row);
    }
    return cf_ok();
}

static inline __attribute__((always_inline)) cf_status train_kind(cf_optimizer_kind kind,
                                                                  cf_train_walk *walk,
                                                                  const uint32_t *order, size_t n) {
    const bool hot = walk->n_hot > 0;
    if (walk->model->penalties.n)
        return hot ? train_rows((cf_walk_shape){kind, true, true}, walk, order, n)
                   : train_rows((cf_walk_shape){kind, true, false}, walk, order, n);
    return hot ? train_rows((cf_walk_shape){kind, false, true}, walk, order, n)
               : train_rows((cf_walk_shape){kind, false, false}, walk, order, n);
}

/* There is nothing to win for sgd, which has one member and neither a root nor a division. */
cf_status cf_train_rows_neon(cf_train_walk *walk, const uint32_t *order, size_t n) {
    switch (walk->model->optimizer.kind) {
    case CF_ADAGRAD:
        return train_kind(CF_ADAGRAD, walk, order, n);
    case CF_FTRL:
        return train_kind(CF_FTRL, walk, order, n);
    case CF_SGD:
        break;
    }
    return cf_train_rows_scalar(walk, order, n);
}
#endif
