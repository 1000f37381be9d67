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

enum {
    LANES = 8,
    LONGEST = 512, /* longer rows are left to the scalar step */
    NEAR = 2048    /* so many coordinates are half of the nearest cache */
};

/* A row that is checked, and what is known of it. */
typedef struct {
    uint32_t number;
    size_t begin, n;
    float spare[2];     /* a coordinate that is nobody's, for lanes behind the last entry */
    float *at[LONGEST]; /* coordinates */
} ready_row;

/* A row between its two passes. */
typedef struct {
    float first[LONGEST], second[LONGEST]; /* members, as read */
    float weight[LONGEST], root[LONGEST];  /* ftrl: of the coordinate, of its n */
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

CF_AVX2 static inline __m256i address(const void *p) {
    return _mm256_set1_epi64x((long long)(intptr_t)p);
}

/* The last of n ids, which are numbers of 32 bits. */
CF_AVX2 static inline __m256i last_id(size_t n) {
    return _mm256_set1_epi32((int)(uint32_t)(n > UINT32_MAX ? UINT32_MAX : n - 1));
}

/* The first n lanes: all bits set. */
CF_AVX2 static inline __m256i lane_mask(size_t n) {
    static const int32_t EDGE[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const void *)(EDGE + LANES - n));
}

CF_AVX2 static inline bool all_below(__m256i highest, size_t n_ids, size_t n) {
    if (n == 0 || n_ids > UINT32_MAX)
        return true;
    if (n_ids == 0)
        return false;
    const __m256i last = last_id(n_ids);
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_max_epu32(highest, last), last)) == -1;
}

/* x nearer to 0 by `less`, +0 where that is all there is; NaN stays one. */
CF_AVX2 static inline __m256 shrink(__m256 x, __m256 less) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 size = _mm256_sub_ps(_mm256_andnot_ps(sign, x), less);
    const __m256 kept = _mm256_cmp_ps(size, _mm256_setzero_ps(), _CMP_NLE_UQ);
    return _mm256_and_ps(kept, _mm256_or_ps(size, _mm256_and_ps(sign, x)));
}

/* What a walk's rows have in common. */
typedef struct {
    __m256 rate, inverse_rate, initial;
    __m256 sign, one;
    __m256i state, to_hot, last_hot; /* addresses, and the last id of hot copies */
    const float *penalties;
    __m256i last_penalty; /* ids from here on have the last pair */
    __m256 times;         /* what penalties are multiplied by: ftrl's rows seen */
    pairs most_due;       /* the last pair, multiplied */
} constants;

/* Puts `spare` where the mask has no lane. */
CF_AVX2 static inline void fill_up(float **at, __m256i mask, float *spare) {
    const __m256i other = _mm256_set1_epi64x((long long)(intptr_t)spare);
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(mask));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(mask, 1));
    __m256i *const to = (void *)at;
    _mm256_storeu_si256(to, _mm256_blendv_epi8(other, _mm256_loadu_si256(to), low));
    _mm256_storeu_si256(to + 1, _mm256_blendv_epi8(other, _mm256_loadu_si256(to + 1), high));
}

/* Where eight coordinates are. */
CF_AVX2 static inline void place_lanes(cf_walk_shape is, const constants *the, __m256i ids,
                                       float **at) {
    __m256i low = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(ids));
    __m256i high = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(ids, 1));
    low = _mm256_add_epi64(_mm256_slli_epi64(low, 3), the->state);
    high = _mm256_add_epi64(_mm256_slli_epi64(high, 3), the->state);
    if (is.hot) {
        const __m256i hot = _mm256_cmpeq_epi32(_mm256_min_epu32(ids, the->last_hot), ids);
        const __m256i low_hot = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(hot));
        const __m256i high_hot = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(hot, 1));
        low = _mm256_add_epi64(low, _mm256_and_si256(low_hot, the->to_hot));
        high = _mm256_add_epi64(high, _mm256_and_si256(high_hot, the->to_hot));
    }
    _mm256_storeu_si256((void *)at, low);
    _mm256_storeu_si256((void *)(at + 4), high);
}

/* (l1, l2) of eight ids, times what they are charged for. */
CF_AVX2 static inline pairs load_due(const constants *the, __m256i ids) {
    const __m256i place = _mm256_min_epu32(ids, the->last_penalty);
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi32(place, the->last_penalty)) == -1)
        return the->most_due;
    uint32_t places[LANES];
    float *at[LANES];
    _mm256_storeu_si256((void *)places, place);
    for (size_t j = 0; j < LANES; j++)
        at[j] = (float *)(uintptr_t)(the->penalties + 2 * (size_t)places[j]); /* only read */
    const pairs each = load_pairs(at);
    return (pairs){_mm256_mul_ps(each.first, the->times), _mm256_mul_ps(each.second, the->times)};
}

/* Reads eight coordinates to place k of the buffer; returns their weights. */
CF_AVX2 static inline __m256 read_lanes(cf_walk_shape is, const constants *the, float *const *at,
                                        __m256i ids, row_buffer *row, size_t k) {
    const pairs state = load_pairs(at);
    _mm256_storeu_ps(row->first + k, state.first);
    _mm256_storeu_ps(row->second + k, state.second);
    if (is.kind == CF_ADAGRAD)
        return state.first;
    const __m256 root = _mm256_sqrt_ps(state.second);
    __m256 size = state.first;
    __m256 under = _mm256_mul_ps(_mm256_add_ps(the->initial, root), the->inverse_rate);
    if (is.charged) {
        const pairs due = load_due(the, ids);
        size = shrink(size, due.first);
        under = _mm256_add_ps(under, due.second);
    }
    const __m256 minus = _mm256_xor_ps(size, the->sign);
    const __m256 weight = _mm256_div_ps(minus, under);
    _mm256_storeu_ps(row->weight + k, weight);
    _mm256_storeu_ps(row->root + k, root);
    return weight;
}

/* cf_proximal_step of eight. */
CF_AVX2 static inline __m256 step_charged(const constants *the, __m256 w, __m256 rate, __m256 g,
                                          pairs due) {
    const __m256 u = _mm256_sub_ps(w, _mm256_mul_ps(rate, g));
    const __m256 size = _mm256_andnot_ps(the->sign, u);
    const __m256 kept = _mm256_cmp_ps(size, _mm256_mul_ps(rate, due.first), _CMP_NLE_UQ);
    const __m256 toward = _mm256_or_ps(due.first, _mm256_and_ps(the->sign, u));
    const __m256 pull = _mm256_add_ps(_mm256_add_ps(g, toward), _mm256_mul_ps(due.second, w));
    const __m256 under = _mm256_add_ps(the->one, _mm256_mul_ps(rate, due.second));
    return _mm256_and_ps(kept, _mm256_sub_ps(w, _mm256_div_ps(_mm256_mul_ps(rate, pull), under)));
}

/* Their step. */
CF_AVX2 static inline void write_lanes(cf_walk_shape is, const constants *the, float *const *at,
                                       __m256i ids, const row_buffer *row, size_t k, __m256 g) {
    const __m256 first = _mm256_loadu_ps(row->first + k);
    const __m256 grown = _mm256_add_ps(_mm256_loadu_ps(row->second + k), _mm256_mul_ps(g, g));
    const __m256 root = _mm256_sqrt_ps(grown);
    if (is.kind == CF_ADAGRAD) {
        const __m256 rate = _mm256_div_ps(the->rate, root);
        const __m256 w = is.charged ? step_charged(the, first, rate, g, load_due(the, ids))
                                    : _mm256_sub_ps(first, _mm256_mul_ps(rate, g));
        store_pairs(at, w, grown);
        return;
    }
    const __m256 sigma =
        _mm256_mul_ps(_mm256_sub_ps(root, _mm256_loadu_ps(row->root + k)), the->inverse_rate);
    const __m256 z = _mm256_sub_ps(_mm256_add_ps(first, g),
                                   _mm256_mul_ps(sigma, _mm256_loadu_ps(row->weight + k)));
    store_pairs(at, z, grown);
}

/* Asks for the coordinates of a row to come, which may be no row at all. Eight as popular as these
 * are near anyway: the first ids of a row mostly. */
CF_AVX2 static inline void prefetch_coordinates(const cf_train_walk *walk, uint32_t number) {
    const cf_csr *const rows = walk->rows;
    size_t begin, end;
    if (cf_find_row(rows, number, &begin, &end) != CF_OK)
        return;
    const uint32_t *const ids = rows->indices + begin;
    const size_t n = end - begin;
    const __m256i near = _mm256_set1_epi32(NEAR - 1);
    size_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        const __m256i some = _mm256_loadu_si256((const void *)(ids + k));
        if (_mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_min_epu32(some, near), some)) == -1)
            continue;
        for (size_t j = 0; j < LANES; j++)
            cf_prefetch_coordinate(walk->model->state, ids[k + j], 2);
    }
    for (; k < n; k++)
        cf_prefetch_coordinate(walk->model->state, ids[k], 2);
}

/* Checks the row at order[0] and finds its coordinates; asks for rows behind it. */
CF_AVX2 static inline __attribute__((always_inline)) cf_code prepare_row(cf_walk_shape is,
                                                                         const cf_train_walk *walk,
                                                                         const constants *the,
                                                                         const uint32_t *order,
                                                                         ready_row *row) {
    const cf_csr *const rows = walk->rows;
    const size_t known = (size_t)(walk->order_end - order);
    size_t begin, end;
    const cf_code code = cf_find_row(rows, order[0], &begin, &end);
    if (code != CF_OK)
        return code;
    const uint32_t *const ids = rows->indices + begin;
    const size_t n = end - begin, whole = n - n % LANES;
    __m256i highest = _mm256_setzero_si256();
    row->number = order[0];
    row->begin = begin;
    row->n = n;
    for (size_t k = 0; k < whole; k += LANES) {
        const __m256i some = _mm256_loadu_si256((const void *)(ids + k));
        highest = _mm256_max_epu32(highest, some);
        if (k < LONGEST)
            place_lanes(is, the, some, row->at + k);
    }
    if (whole < n) {
        const __m256i mask = lane_mask(n - whole);
        const __m256i some = _mm256_maskload_epi32((const void *)(ids + whole), mask);
        highest = _mm256_max_epu32(highest, some);
        if (whole < LONGEST) {
            place_lanes(is, the, some, row->at + whole);
            fill_up(row->at + whole, mask, row->spare);
        }
    }
    if (!all_below(highest, walk->model->n_ids, n))
        return CF_E_ID;
    cf_csr_prefetch_order(rows, order, known, CF_ROWS_AHEAD);
    if (CF_IDS_AHEAD < known)
        prefetch_coordinates(walk, order[CF_IDS_AHEAD]);
    return CF_OK;
}

/* A row's margin without the intercept. */
CF_AVX2 static inline __attribute__((always_inline)) float
read_row(cf_walk_shape is, const cf_train_walk *walk, const constants *the, ready_row *row,
         row_buffer *buffer) {
    const uint32_t *const ids = walk->rows->indices + row->begin;
    const float *const data = walk->rows->data + row->begin;
    const size_t n = row->n, whole = n - n % LANES;
    __m256 sum = _mm256_setzero_ps();
    for (size_t k = 0; k < whole; k += LANES) {
        const __m256i some = _mm256_loadu_si256((const void *)(ids + k));
        const __m256 w = read_lanes(is, the, row->at + k, some, buffer, k);
        sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_loadu_ps(data + k), w));
    }
    if (whole < n) {
        const __m256i mask = lane_mask(n - whole);
        row->spare[0] = 0;
        row->spare[1] = 1;
        const __m256i some = _mm256_maskload_epi32((const void *)(ids + whole), mask);
        const __m256 w = read_lanes(is, the, row->at + whole, some, buffer, whole);
        const __m256 product = _mm256_mul_ps(_mm256_maskload_ps(data + whole, mask), w);
        sum = _mm256_add_ps(sum, _mm256_and_ps(product, _mm256_castsi256_ps(mask)));
    }
    return sum_lanes(sum);
}

/* Its step. */
CF_AVX2 static inline __attribute__((always_inline)) void
write_row(cf_walk_shape is, const cf_train_walk *walk, const constants *the, ready_row *row,
          const row_buffer *buffer, float error) {
    const uint32_t *const ids = walk->rows->indices + row->begin;
    const float *const data = walk->rows->data + row->begin;
    const size_t n = row->n, whole = n - n % LANES;
    const __m256 errors = _mm256_set1_ps(error);
    for (size_t k = 0; k < whole; k += LANES) {
        const __m256i some = _mm256_loadu_si256((const void *)(ids + k));
        const __m256 g = _mm256_mul_ps(errors, _mm256_loadu_ps(data + k));
        write_lanes(is, the, row->at + k, some, buffer, k, g);
    }
    if (whole < n) {
        const __m256i mask = lane_mask(n - whole);
        const __m256i some = _mm256_maskload_epi32((const void *)(ids + whole), mask);
        const __m256 g = _mm256_mul_ps(errors, _mm256_maskload_ps(data + whole, mask));
        write_lanes(is, the, row->at + whole, some, buffer, whole, g);
    }
}

CF_AVX2 static inline __attribute__((always_inline)) cf_status train_rows(cf_walk_shape is,
                                                                          cf_train_walk *walk,
                                                                          const uint32_t *order,
                                                                          size_t n) {
    const cf_train_model *const model = walk->model;
    const cf_penalties penalties = model->penalties;
    const cf_penalty most = cf_penalty_due(penalties, SIZE_MAX, 1.0f), free = {0, 0};
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = is.kind;
    float *const intercept = walk->hot + walk->n_hot * 2;
    ready_row rows[2];
    row_buffer buffer;
    constants the = {
        .rate = _mm256_set1_ps(optimizer.learning_rate),
        .inverse_rate = _mm256_set1_ps(1.0f / optimizer.learning_rate),
        .initial = _mm256_set1_ps(optimizer.initial),
        .sign = _mm256_set1_ps(-0.0f),
        .one = _mm256_set1_ps(1.0f),
        .state = address(model->state),
        .times = _mm256_set1_ps(1.0f),
    };
    if (is.hot) {
        the.to_hot = _mm256_sub_epi64(address(walk->hot), the.state);
        the.last_hot = last_id(walk->n_hot);
    }
    if (is.charged) {
        the.penalties = &penalties.of[0].l1;
        the.last_penalty = last_id(penalties.n);
        the.most_due = (pairs){_mm256_set1_ps(most.l1), _mm256_set1_ps(most.l2)};
    }
    cf_code code = n ? prepare_row(is, walk, &the, order, &rows[0]) : CF_OK;
    for (size_t i = 0; i < n; i++) {
        ready_row *const row = &rows[i % 2], *const next = &rows[(i + 1) % 2];
        if (code != CF_OK)
            return cf_fail(code, i);
        const float rows_seen = (float)(walk->rows_seen + (double)i);
        if (row->n > LONGEST) {
            cf_train_row(is, walk, row->number, row->begin, row->begin + row->n, rows_seen);
            if (i + 1 < n)
                code = prepare_row(is, walk, &the, order + i + 1, next);
            continue;
        }
        if (is.charged && is.kind == CF_FTRL) {
            the.times = _mm256_set1_ps(rows_seen);
            the.most_due.first = _mm256_set1_ps(most.l1 * rows_seen);
            the.most_due.second = _mm256_set1_ps(most.l2 * rows_seen);
        }
        const float margin = cf_optimizer_weight(optimizer, intercept, free) +
                             read_row(is, walk, &the, row, &buffer);
        const float error = cf_row_error(walk, row->number, margin);
        if (i + 1 < n) /* while the error is waited for */
            code = prepare_row(is, walk, &the, order + i + 1, next);
        write_row(is, walk, &the, row, &buffer, error);
        if (model->fit_intercept)
            cf_optimizer_update(optimizer, intercept, error, free);
        walk->total->n_rows++;
        walk->total->n_updates++;
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
    const bool is_charged = walk->model->penalties.n > 0, is_hot = walk->n_hot > 0;
#define CF_CHOOSE(name, kind_, charged_, hot_)                                                     \
    if (walk->model->optimizer.kind == kind_ && is_charged == charged_ && is_hot == hot_)          \
        return name(walk, order, n);
    CF_SHAPES(CF_CHOOSE)
    return cf_train_rows_scalar(walk, order, n); /* sgd */
}
#endif
