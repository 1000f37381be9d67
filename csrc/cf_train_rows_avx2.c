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
    float *at[LONGEST];                    /* coordinates, where there are hot copies */
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

/* x nearer to 0 by `less`, +0 where that is all there is; NaN stays one. */
CF_AVX2 static inline __m256 shrink(__m256 x, __m256 less) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 size = _mm256_sub_ps(_mm256_andnot_ps(sign, x), less);
    const __m256 kept = _mm256_cmp_ps(size, _mm256_setzero_ps(), _CMP_NLE_UQ);
    return _mm256_and_ps(kept, _mm256_or_ps(size, _mm256_and_ps(sign, x)));
}

typedef struct {
    __m256 rate, inverse_rate, initial, rows_seen;
} constants;

/* Eight entries of a row. */
typedef struct {
    const uint32_t *ids;
    __m256 data;
    float *const *at;
} lanes;

/* (l1, l2) of eight ids, times what they are charged for. */
CF_AVX2 static inline pairs load_charges(cf_walk_shape is, const cf_train_model *model,
                                         const uint32_t ids[LANES], const constants *the) {
    float *at[LANES];
    for (size_t j = 0; j < LANES; j++)
        at[j] = (float *)(uintptr_t)(model->penalties + ids[j]); /* only read */
    const pairs charge = load_pairs(at);
    if (is.kind != CF_FTRL)
        return charge;
    return (pairs){_mm256_mul_ps(charge.first, the->rows_seen),
                   _mm256_mul_ps(charge.second, the->rows_seen)};
}

/* Reads eight coordinates to place k of the buffer; returns their weights. */
CF_AVX2 static inline __m256 read_lanes(cf_walk_shape is, const cf_train_model *model, lanes of,
                                        const constants *the, row_buffer *row, size_t k) {
    const pairs state = load_pairs(of.at);
    _mm256_storeu_ps(row->first + k, state.first);
    _mm256_storeu_ps(row->second + k, state.second);
    if (is.kind == CF_ADAGRAD)
        return state.first;
    const __m256 root = _mm256_sqrt_ps(state.second);
    __m256 size = state.first;
    __m256 under = _mm256_mul_ps(_mm256_add_ps(the->initial, root), the->inverse_rate);
    if (is.charged) {
        const pairs due = load_charges(is, model, of.ids, the);
        size = shrink(size, due.first);
        under = _mm256_add_ps(under, due.second);
    }
    const __m256 minus = _mm256_xor_ps(size, _mm256_set1_ps(-0.0f));
    const __m256 weight = _mm256_div_ps(minus, under);
    _mm256_storeu_ps(row->weight + k, weight);
    _mm256_storeu_ps(row->root + k, root);
    return weight;
}

/* Their step. */
CF_AVX2 static inline void write_lanes(cf_walk_shape is, const cf_train_model *model, lanes of,
                                       const constants *the, const row_buffer *row, size_t k,
                                       __m256 error) {
    const __m256 g = _mm256_mul_ps(error, of.data);
    const __m256 first = _mm256_loadu_ps(row->first + k);
    const __m256 grown = _mm256_add_ps(_mm256_loadu_ps(row->second + k), _mm256_mul_ps(g, g));
    const __m256 root = _mm256_sqrt_ps(grown);
    if (is.kind == CF_ADAGRAD) {
        const __m256 rate = _mm256_div_ps(the->rate, root);
        __m256 w = _mm256_sub_ps(first, _mm256_mul_ps(rate, g));
        if (is.charged) {
            const pairs charge = load_charges(is, model, of.ids, the);
            const __m256 under =
                _mm256_add_ps(_mm256_set1_ps(1.0f), _mm256_mul_ps(rate, charge.second));
            w = _mm256_div_ps(shrink(w, _mm256_mul_ps(rate, charge.first)), under);
        }
        store_pairs(of.at, w, grown);
        return;
    }
    const __m256 sigma =
        _mm256_mul_ps(_mm256_sub_ps(root, _mm256_loadu_ps(row->root + k)), the->inverse_rate);
    const __m256 z = _mm256_sub_ps(_mm256_add_ps(first, g),
                                   _mm256_mul_ps(sigma, _mm256_loadu_ps(row->weight + k)));
    store_pairs(of.at, z, grown);
}

CF_AVX2 static inline void prefetch_lanes(const cf_train_model *model, const uint32_t *ahead) {
    for (size_t j = 0; j < LANES; j++)
        cf_prefetch_coordinate(model->state, ahead[j], 2);
}

/* Learns from a row that is checked, and not longer than LONGEST. `ahead` has the ids of a row to
 * come, readable as far as this row's and LANES more, or is NULL. */
CF_AVX2 static inline __attribute__((always_inline)) void
train_row(cf_walk_shape is, cf_train_walk *walk, uint32_t number, size_t begin, size_t n,
          const uint32_t *ahead, const constants *the, row_buffer *row) {
    const cf_train_model *const model = walk->model;
    const cf_penalty free = {0, 0};
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = is.kind;
    const uint32_t *const ids = walk->rows->indices + begin;
    const float *const data = walk->rows->data + begin;
    const size_t whole = n - n % LANES;
    float *at[LANES];
    __m256 sum = _mm256_setzero_ps();
    for (size_t k = 0; k < whole; k += LANES) {
        const lanes of = {ids + k, _mm256_loadu_ps(data + k), is.hot ? row->at + k : at};
        for (size_t j = 0; j < LANES; j++)
            (is.hot ? row->at + k : at)[j] = cf_coordinate(is, walk, ids[k + j]);
        if (ahead)
            prefetch_lanes(model, ahead + k);
        const __m256 w = read_lanes(is, model, of, the, row, k);
        sum = _mm256_add_ps(sum, _mm256_mul_ps(of.data, w));
    }
    /* The last lanes are filled up with a coordinate that is nobody's and an entry of 0. */
    float spare[2] = {0, 1};
    uint32_t last_ids[LANES] = {0};
    float *last_at[LANES] = {0};
    lanes last = {last_ids, _mm256_setzero_ps(), last_at};
    if (whole < n) {
        const __m256i mask = lane_mask(n - whole);
        _mm256_storeu_si256((void *)last_ids,
                            _mm256_maskload_epi32((const void *)(ids + whole), mask));
        last.data = _mm256_maskload_ps(data + whole, mask);
        for (size_t j = 0; j < LANES; j++)
            last_at[j] = whole + j < n ? cf_coordinate(is, walk, last_ids[j]) : spare;
        if (ahead)
            prefetch_lanes(model, ahead + whole);
        const __m256 w = read_lanes(is, model, last, the, row, whole);
        sum = _mm256_add_ps(sum, _mm256_mul_ps(last.data, w));
    }
    float *const intercept = walk->hot + walk->n_hot * 2;
    const float margin = cf_optimizer_weight(optimizer, intercept, free) + sum_lanes(sum);
    const float error = cf_row_error(walk, number, margin);
    const __m256 errors = _mm256_set1_ps(error);
    for (size_t k = 0; k < whole; k += LANES) {
        const lanes of = {ids + k, _mm256_loadu_ps(data + k), is.hot ? row->at + k : at};
        if (!is.hot)
            for (size_t j = 0; j < LANES; j++)
                at[j] = cf_coordinate(is, walk, ids[k + j]);
        write_lanes(is, model, of, the, row, k, errors);
    }
    if (whole < n)
        write_lanes(is, model, last, the, row, whole, errors);
    if (model->fit_intercept)
        cf_optimizer_update(optimizer, intercept, error, free);
    walk->total->n_rows++;
    walk->total->n_updates++;
}

CF_AVX2 static inline __attribute__((always_inline)) cf_status train_rows(cf_walk_shape is,
                                                                          cf_train_walk *walk,
                                                                          const uint32_t *order,
                                                                          size_t n) {
    const cf_csr *const rows = walk->rows;
    const cf_optimizer *const optimizer = &walk->model->optimizer;
    const size_t known = (size_t)(walk->order_end - order);
    row_buffer row;
    constants the = {
        .rate = _mm256_set1_ps(optimizer->learning_rate),
        .inverse_rate = _mm256_set1_ps(1.0f / optimizer->learning_rate),
        .initial = _mm256_set1_ps(optimizer->initial),
    };
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        const cf_code code = cf_find_row(rows, order[i], &begin, &end);
        if (code != CF_OK)
            return cf_fail(code, i);
        const size_t length = end - begin;
        if (!all_below(rows->indices + begin, length, walk->model->n_ids))
            return cf_fail(CF_E_ID, i);
        if (i + CF_ROWS_AHEAD < known)
            cf_csr_prefetch(rows, order[i + CF_ROWS_AHEAD]);
        const float rows_seen = (float)(walk->rows_seen + (double)i);
        if (length > LONGEST) {
            cf_train_row(is, walk, order[i], begin, end, rows_seen);
            continue;
        }
        const uint32_t *ahead = NULL;
        if (i + CF_IDS_AHEAD < known)
            ahead = cf_ids_ahead(rows, order[i + CF_IDS_AHEAD], length + LANES);
        the.rows_seen = _mm256_set1_ps(rows_seen);
        train_row(is, walk, order[i], begin, length, ahead, &the, &row);
    }
    return cf_ok();
}

/* A loop of its own for each shape. */
#define CF_SHAPES(X)                                                                               \
    X(adagrad, CF_ADAGRAD, false, false)                                                           \
    X(adagrad_hot, CF_ADAGRAD, false, true)                                                        \
    X(adagrad_charged, CF_ADAGRAD, true, false)                                                    \
    X(adagrad_charged_hot, CF_ADAGRAD, true, true)                                                 \
    X(ftrl, CF_FTRL, false, false)                                                                 \
    X(ftrl_hot, CF_FTRL, false, true)                                                              \
    X(ftrl_charged, CF_FTRL, true, false)                                                          \
    X(ftrl_charged_hot, CF_FTRL, true, true)

#define CF_LOOP(name, kind, charged, hot)                                                          \
    CF_AVX2 static cf_status name(cf_train_walk *walk, const uint32_t *order, size_t n) {          \
        return train_rows((cf_walk_shape){kind, charged, hot}, walk, order, n);                    \
    }
CF_SHAPES(CF_LOOP)

cf_status cf_train_rows_avx2(cf_train_walk *walk, const uint32_t *order, size_t n) {
    const bool is_charged = walk->model->penalties != NULL, is_hot = walk->n_hot > 0;
#define CF_CHOOSE(name, kind_, charged_, hot_)                                                     \
    if (walk->model->optimizer.kind == kind_ && is_charged == charged_ && is_hot == hot_)          \
        return name(walk, order, n);
    CF_SHAPES(CF_CHOOSE)
    return cf_train_rows_scalar(walk, order, n); /* sgd */
}
#endif
