/* cf_lanes.h -- four floats side by side (internal to csrc).
 *
 * Four floats are a vector register on every CPU we run on, so this is plain C of gcc and clang:
 * all tables of kernels share it and give the same bits.
 */
#ifndef CF_LANES_H
#define CF_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef float cf_four __attribute__((vector_size(16)));
typedef int32_t cf_four_mask __attribute__((vector_size(16))); /* lanes are 0 or -1 */

static inline cf_four cf_four_load(const float *p) {
    cf_four four;
    memcpy(&four, p, sizeof four);
    return four;
}

static inline void cf_four_store(float *p, cf_four four) { memcpy(p, &four, sizeof four); }

static inline cf_four cf_four_of(float x) { return (cf_four){x, x, x, x}; }

/* a where the mask is set, b elsewhere. */
static inline cf_four cf_four_where(cf_four_mask mask, cf_four a, cf_four b) {
    return (cf_four)((mask & (cf_four_mask)a) | (~mask & (cf_four_mask)b));
}

/* cf_expf of cf_math.h in each lane, to the bit; the reasons for its steps are there. */
static inline cf_four cf_four_exp(cf_four x) {
    x = cf_four_where(x < -87.0f, cf_four_of(-87.0f), x);
    x = cf_four_where(x > 87.0f, cf_four_of(87.0f), x);
    const cf_four shifted = x * 1.44269504f + 12582912.0f;
    const cf_four n = shifted - 12582912.0f;
    const cf_four r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const cf_four square = r * r;
    const cf_four high = (1.0f / 120 * r + 1.0f / 24) + square * (1.0f / 720);
    const cf_four p = (1.0f + r) + square * ((1.0f / 6 * r + 0.5f) + square * high);
    typedef uint32_t bits __attribute__((vector_size(16)));
    return p * (cf_four)(((bits)shifted - 0x4b400000u + 127) << 23);
}

/* cf_sides of cf_math.h in each lane. */
static inline void cf_four_sides(cf_four margin, cf_four *likely, cf_four *unlikely) {
    const cf_four e = cf_four_exp(cf_four_where(margin < 0.0f, margin, -margin));
    *likely = 1.0f / (1.0f + e);
    *unlikely = e * *likely;
}

/* By number: an id that nobody has looked at yet may lead anywhere. */
static inline void cf_fetch_weight(const float *w, uint32_t id) {
    __builtin_prefetch((const void *)((uintptr_t)w + sizeof *w * id));
}

/* A sparse row times dense weights: the sum of data[k] * w[ids[k]]; every id must be inside w.
 * Meanwhile the weights of the entries `ahead` places on are asked for, if that is not 0: those
 * entries must exist, but their ids may lead anywhere.
 *
 * Entries 4i + j are summed in lane j, since one chain of additions takes as long as its latency;
 * then lanes (0 + 2) + (1 + 3), then the last few entries. */
static inline float cf_dot_ahead(const float *data, const uint32_t *ids, size_t n, const float *w,
                                 size_t ahead) {
    cf_four sums = {0, 0, 0, 0};
    const size_t whole = n & ~(size_t)3;
    for (size_t k = 0; k < whole; k += 4) {
        if (ahead)
            for (size_t lane = 0; lane < 4; lane++)
                cf_fetch_weight(w, ids[k + lane + ahead]);
        const cf_four mine = {w[ids[k]], w[ids[k + 1]], w[ids[k + 2]], w[ids[k + 3]]};
        sums += cf_four_load(data + k) * mine;
    }
    if (ahead)
        for (size_t k = whole; k < n; k++)
            cf_fetch_weight(w, ids[k + ahead]);
    float sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    switch (n & 3) {
    case 3:
        sum += data[whole + 2] * w[ids[whole + 2]]; /* fall through */
    case 2:
        sum += data[whole + 1] * w[ids[whole + 1]]; /* fall through */
    case 1:
        sum += data[whole] * w[ids[whole]];
    }
    return sum;
}

static inline float cf_dot(const float *data, const uint32_t *ids, size_t n, const float *w) {
    return cf_dot_ahead(data, ids, n, w, 0);
}

#endif
