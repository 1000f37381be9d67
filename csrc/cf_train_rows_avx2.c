/* Eight coordinates at a time. adagrad's and ftrl's are two floats, so one 8-byte access reads or
 * writes a coordinate; four of them make a register, and two registers are taken apart into the
 * eight first and the eight second members. There is nothing to win for sgd, which has one member
 * and neither a root nor a division.
 *
 * The arithmetic of each coordinate is the scalar kernel's; only the margin is summed in another
 * order. */
#include "cf_train_rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define CF_AVX2 __attribute__((target("avx2")))

enum { LANES = 8, LONGEST = 512 }; /* longer rows are left to the scalar step */

/* A row between its two passes. */
typedef struct {
    float first[LONGEST], second[LONGEST]; /* members, as read */
    float weight[LONGEST], root[LONGEST];  /* ftrl: of the coordinate, of its n */
    float data[LONGEST];
    float *at[LONGEST]; /* coordinates; lanes past the row's end name a spare one */
} row_buffer;

typedef struct {
    __m256 first, second;
} pairs;

CF_AVX2 static inline __m128 load_two(const float *a, const float *b) {
    return _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const void *)a)), (const void *)b);
}

CF_AVX2 static inline __m256 load_four(const float *a, const float *b, const float *c,
                                       const float *d) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(load_two(a, b)), load_two(c, d), 1);
}

CF_AVX2 static inline pairs load_pairs(float *const at[LANES]) {
    const __m256 a = load_four(at[0], at[1], at[4], at[5]);
    const __m256 b = load_four(at[2], at[3], at[6], at[7]);
    return (pairs){_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)};
}

CF_AVX2 static inline void store_two(float *a, float *b, __m128 two) {
    _mm_storel_pi((void *)a, two);
    _mm_storeh_pi((void *)b, two);
}

CF_AVX2 static inline void store_pairs(float *const at[LANES], __m256 first, __m256 second) {
    const __m256 a = _mm256_unpacklo_ps(first, second), b = _mm256_unpackhi_ps(first, second);
    store_two(at[0], at[1], _mm256_castps256_ps128(a));
    store_two(at[2], at[3], _mm256_castps256_ps128(b));
    store_two(at[4], at[5], _mm256_extractf128_ps(a, 1));
    store_two(at[6], at[7], _mm256_extractf128_ps(b, 1));
}

CF_AVX2 static inline float sum_lanes(__m256 x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The first n lanes: all bits set. */
CF_AVX2 static inline __m256i lane_mask(size_t n) {
    static const int32_t EDGE[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const void *)(EDGE + LANES - n));
}

CF_AVX2 static inline bool all_below(const uint32_t *ids, size_t n, size_t n_ids) {
    if (n == 0 || n_ids > UINT32_MAX)
        return true;
    if (n_ids == 0)
        return false;
    const __m256i last = _mm256_set1_epi32((int)(uint32_t)(n_ids - 1));
    __m256i highest = last;
    size_t k = 0;
    for (; k + LANES <= n; k += LANES)
        highest = _mm256_max_epu32(highest, _mm256_loadu_si256((const void *)(ids + k)));
    if (k < n)
        highest = _mm256_max_epu32(
            highest, _mm256_maskload_epi32((const void *)(ids + k), lane_mask(n - k)));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(highest, last)) == -1;
}

/* sign(like) * max(|x| - less, 0) */
CF_AVX2 static inline __m256 shrink(__m256 x, __m256 less) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 size = _mm256_sub_ps(_mm256_andnot_ps(sign, x), less);
    return _mm256_or_ps(_mm256_max_ps(size, _mm256_setzero_ps()), _mm256_and_ps(sign, x));
}

typedef struct {
    __m256 rate, inverse_rate, initial, rows_seen;
} constants;

/* (l1, l2) of eight ids, times what they are charged for. */
CF_AVX2 static inline pairs load_charges(cf_optimizer_kind kind, const cf_train_model *model,
                                         const uint32_t ids[LANES], const constants *the) {
    float *at[LANES];
    for (size_t j = 0; j < LANES; j++)
        at[j] = (float *)(uintptr_t)(model->penalties + ids[j]); /* only read */
    const pairs charge = load_pairs(at);
    if (kind != CF_FTRL)
        return charge;
    return (pairs){_mm256_mul_ps(charge.first, the->rows_seen),
                   _mm256_mul_ps(charge.second, the->rows_seen)};
}

/* Reads eight coordinates from place k of the row on; returns their weights. */
CF_AVX2 static inline __m256 read_lanes(cf_optimizer_kind kind, bool charged,
                                        const cf_train_model *model, const uint32_t ids[LANES],
                                        const constants *the, row_buffer *row, size_t k) {
    const pairs state = load_pairs(row->at + k);
    _mm256_storeu_ps(row->first + k, state.first);
    _mm256_storeu_ps(row->second + k, state.second);
    if (kind == CF_ADAGRAD)
        return state.first;
    const __m256 root = _mm256_sqrt_ps(state.second);
    __m256 size = state.first;
    __m256 under = _mm256_mul_ps(_mm256_add_ps(the->initial, root), the->inverse_rate);
    if (charged) {
        const pairs due = load_charges(kind, model, ids, the);
        size = shrink(size, due.first);
        under = _mm256_add_ps(under, due.second);
    }
    const __m256 minus = _mm256_xor_ps(size, _mm256_set1_ps(-0.0f));
    const __m256 weight = _mm256_div_ps(minus, under);
    _mm256_storeu_ps(row->weight + k, weight);
    _mm256_storeu_ps(row->root + k, root);
    return weight;
}

CF_AVX2 static inline void write_lanes(cf_optimizer_kind kind, bool charged,
                                       const cf_train_model *model, const uint32_t ids[LANES],
                                       const constants *the, row_buffer *row, size_t k,
                                       __m256 error) {
    const __m256 g = _mm256_mul_ps(error, _mm256_loadu_ps(row->data + k));
    const __m256 first = _mm256_loadu_ps(row->first + k);
    const __m256 grown = _mm256_add_ps(_mm256_loadu_ps(row->second + k), _mm256_mul_ps(g, g));
    const __m256 root = _mm256_sqrt_ps(grown);
    if (kind == CF_ADAGRAD) {
        const __m256 rate = _mm256_div_ps(the->rate, root);
        __m256 w = _mm256_sub_ps(first, _mm256_mul_ps(rate, g));
        if (charged) {
            const pairs charge = load_charges(kind, model, ids, the);
            const __m256 under =
                _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_mul_ps(rate, charge.second));
            w = _mm256_div_ps(shrink(w, _mm256_mul_ps(rate, charge.first)), under);
        }
        store_pairs(row->at + k, w, grown);
        return;
    }
    const __m256 sigma =
        _mm256_mul_ps(_mm256_sub_ps(root, _mm256_loadu_ps(row->root + k)), the->inverse_rate);
    const __m256 z = _mm256_sub_ps(_mm256_add_ps(first, g),
                                   _mm256_mul_ps(sigma, _mm256_loadu_ps(row->weight + k)));
    store_pairs(row->at + k, z, grown);
}

/* The entries of a row that is not longer than LONGEST, and checked. */
CF_AVX2 static inline void train_row(cf_optimizer_kind kind, bool charged, cf_train_walk *walk,
                                     uint32_t number, size_t begin, size_t n,
                                     const uint32_t *ahead, constants *the, row_buffer *row) {
    const size_t width = cf_optimizer_width(kind);
    const cf_train_model *const model = walk->model;
    const cf_penalty free = {0, 0};
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = kind;
    const uint32_t *const ids = walk->rows->indices + begin;
    const float *const data = walk->rows->data + begin;
    float spare[2] = {0, 1};
    uint32_t last[LANES]; /* the ids of the last lanes, filled up with 0 */
    __m256 sum = _mm256_setzero_ps();
    size_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        for (size_t j = 0; j < LANES; j++)
            row->at[k + j] = cf_coordinate(walk, width, ids[k + j]);
        if (ahead)
            for (size_t j = 0; j < LANES; j++)
                cf_prefetch_coordinate(model->state, ahead[k + j], width);
        const __m256 x = _mm256_loadu_ps(data + k);
        _mm256_storeu_ps(row->data + k, x);
        sum = _mm256_add_ps(
            sum, _mm256_mul_ps(x, read_lanes(kind, charged, model, ids + k, the, row, k)));
    }
    const size_t whole = k;
    if (k < n) {
        const __m256i mask = lane_mask(n - k);
        _mm256_storeu_si256((void *)last, _mm256_maskload_epi32((const void *)(ids + k), mask));
        for (size_t j = 0; j < LANES; j++)
            row->at[k + j] = k + j < n ? cf_coordinate(walk, width, last[j]) : spare;
        if (ahead)
            for (size_t j = 0; j < LANES; j++)
                cf_prefetch_coordinate(model->state, ahead[k + j], width);
        const __m256 x = _mm256_maskload_ps(data + k, mask);
        _mm256_storeu_ps(row->data + k, x);
        sum = _mm256_add_ps(
            sum, _mm256_mul_ps(x, read_lanes(kind, charged, model, last, the, row, k)));
    }
    float *const intercept = walk->hot + walk->n_hot * width;
    const float margin = cf_optimizer_weight(optimizer, intercept, free) + sum_lanes(sum);
    const float error = cf_row_error(walk, number, margin);
    const __m256 errors = _mm256_set1_ps(error);
    for (k = 0; k < whole; k += LANES)
        write_lanes(kind, charged, model, ids + k, the, row, k, errors);
    if (k < n)
        write_lanes(kind, charged, model, last, the, row, k, errors);
    if (model->fit_intercept)
        cf_optimizer_update(optimizer, intercept, error, free);
    walk->total->n_rows++;
    walk->total->n_updates++;
}

CF_AVX2 static inline __attribute__((always_inline)) cf_status
train_rows(cf_optimizer_kind kind, bool charged, cf_train_walk *walk, const uint32_t *order,
           size_t n) {
    const cf_csr *const rows = walk->rows;
    const cf_optimizer *const optimizer = &walk->model->optimizer;
    row_buffer row;
    constants the = {
        .rate = _mm256_set1_ps(optimizer->learning_rate),
        .inverse_rate = _mm256_set1_ps(1.0f / optimizer->learning_rate),
        .initial = _mm256_set1_ps(optimizer->initial),
    };
    const size_t known = (size_t)(walk->order_end - order);
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        const cf_code code = cf_find_row(rows, order[i], &begin, &end);
        if (code != CF_OK)
            return cf_fail(code, i);
        const size_t length = end - begin;
        if (!all_below(rows->indices + begin, length, walk->model->n_ids))
            return cf_fail(CF_E_ID, i);
        if (i + CF_ROWS_AHEAD < known)
            cf_prefetch_entries(rows, order[i + CF_ROWS_AHEAD]);
        const float rows_seen = (float)(walk->rows_seen + (double)i);
        if (length > LONGEST) {
            cf_train_row(kind, walk, order[i], begin, end, rows_seen);
            continue;
        }
        const uint32_t *const ahead =
            i + CF_IDS_AHEAD < known ? cf_ids_ahead(rows, order[i + CF_IDS_AHEAD], length + LANES)
                                 : NULL;
        the.rows_seen = _mm256_set1_ps(rows_seen);
        train_row(kind, charged, walk, order[i], begin, length, ahead, &the, &row);
    }
    return cf_ok();
}

CF_AVX2 static cf_status adagrad(cf_train_walk *walk, const uint32_t *order, size_t n) {
    return train_rows(CF_ADAGRAD, false, walk, order, n);
}

CF_AVX2 static cf_status adagrad_charged(cf_train_walk *walk, const uint32_t *order, size_t n) {
    return train_rows(CF_ADAGRAD, true, walk, order, n);
}

CF_AVX2 static cf_status ftrl(cf_train_walk *walk, const uint32_t *order, size_t n) {
    return train_rows(CF_FTRL, false, walk, order, n);
}

CF_AVX2 static cf_status ftrl_charged(cf_train_walk *walk, const uint32_t *order, size_t n) {
    return train_rows(CF_FTRL, true, walk, order, n);
}

cf_status cf_train_rows_avx2(cf_train_walk *walk, const uint32_t *order, size_t n) {
    const bool charged = walk->model->penalties != NULL;
    switch (walk->model->optimizer.kind) {
    case CF_SGD:
        return cf_train_rows_scalar(walk, order, n);
    case CF_ADAGRAD:
        return charged ? adagrad_charged(walk, order, n) : adagrad(walk, order, n);
    case CF_FTRL:
        return charged ? ftrl_charged(walk, order, n) : ftrl(walk, order, n);
    }
    return cf_ok();
}
#endif
