/* cf_optimizer.h -- one coordinate's update, for sgd, adagrad and ftrl.
 *
 * The state of coordinate j is `cf_optimizer_width(kind)` floats, the weight first, so weight and
 * state share a cache line:   sgd {w}   adagrad {w, s}   ftrl {w, z, n, unused}.
 *
 * Gradients are sums over the rows of a mini-batch, of the loss alone. Penalties are charged only
 * to coordinates that a mini-batch touches, yet the fixed point is that of
 *     sum_i loss_i + W (l2/2 |w|^2 + l1 |w|_1),   W the sum of row weights:
 *   sgd, adagrad: a column stored in c rows is touched c times an epoch, so each touch is charged
 *     l1 = W l1 / c and l2 = W l2 / c (the caller's `penalty` pair);
 *   ftrl: its closed form knows how much is due in all, so the pair is the charge per row,
 *     W l1 / n and W l2 / n, times the rows seen.
 * The l2 and l1 parts are applied as a proximal step, which is stable for any charge and leaves
 * exact zeros (Duchi and Singer 2009). FTRL-proximal is McMahan et al. 2013, with l1 growing with
 * the rows seen so that it stays the l1 of a mean objective.
 */
#ifndef CF_OPTIMIZER_H
#define CF_OPTIMIZER_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { CF_SGD, CF_ADAGRAD, CF_FTRL } cf_optimizer_kind;

typedef struct {
    cf_optimizer_kind kind;
    float learning_rate; /* > 0; ftrl's alpha */
    float initial;       /* adagrad: the accumulator's first value, > 0; ftrl: beta */
} cf_optimizer;

typedef struct {
    float l1, l2;
} cf_penalty;

static inline size_t cf_optimizer_width(cf_optimizer_kind kind) {
    return kind == CF_SGD ? 1 : kind == CF_ADAGRAD ? 2 : 4;
}

/* argmin_v (v - w)^2 / 2 + l1 |v| + l2 / 2 v^2 */
static inline float cf_shrink(float w, float l1, float l2) {
    const float size = fabsf(w) - l1;
    return size > 0 ? copysignf(size, w) / (1.0f + l2) : 0.0f;
}

/* Hogwild threads share these floats without locks: each is one aligned 4-byte access, a lost
 * update is noise of the kind stochastic gradients have anyway. `volatile` keeps the compiler from
 * splitting, repeating or inventing accesses. */
static inline float cf_shared_read(const float *p) { return *(const volatile float *)p; }
static inline void cf_shared_write(float *p, float value) { *(volatile float *)p = value; }

static inline float cf_ftrl_weight(cf_optimizer optimizer, float z, float n, float l1, float l2) {
    const float size = fabsf(z) - l1;
    if (!(size > 0))
        return 0.0f;
    return -copysignf(size, z) / ((optimizer.initial + sqrtf(n)) / optimizer.learning_rate + l2);
}

/* Applies gradient `g` to one coordinate. `penalty` has been multiplied by the number of touches
 * (sgd, adagrad) or of rows seen (ftrl). */
static inline void cf_optimizer_update(cf_optimizer optimizer, float *state, float g,
                                       cf_penalty penalty) {
    switch (optimizer.kind) {
    case CF_SGD: {
        const float rate = optimizer.learning_rate;
        const float w = cf_shared_read(&state[0]) - rate * g;
        cf_shared_write(&state[0], cf_shrink(w, rate * penalty.l1, rate * penalty.l2));
        break;
    }
    case CF_ADAGRAD: {
        const float s = cf_shared_read(&state[1]) + g * g;
        const float rate = optimizer.learning_rate / sqrtf(s);
        const float w = cf_shared_read(&state[0]) - rate * g;
        cf_shared_write(&state[1], s);
        cf_shared_write(&state[0], cf_shrink(w, rate * penalty.l1, rate * penalty.l2));
        break;
    }
    case CF_FTRL: {
        const float w = cf_shared_read(&state[0]), n = cf_shared_read(&state[2]);
        const float grown = n + g * g;
        const float sigma = (sqrtf(grown) - sqrtf(n)) / optimizer.learning_rate;
        const float z = cf_shared_read(&state[1]) + g - sigma * w;
        cf_shared_write(&state[1], z);
        cf_shared_write(&state[2], grown);
        cf_shared_write(&state[0], cf_ftrl_weight(optimizer, z, grown, penalty.l1, penalty.l2));
        break;
    }
    }
}

/* Sets n coordinates to weight 0 and the optimiser's first state. */
void cf_optimizer_clear(cf_optimizer optimizer, float *state, size_t n);

/* Gives coordinate `state` the starting weight `w` (an intercept at the base rate). */
void cf_optimizer_set(cf_optimizer optimizer, float *state, float w);

/* Reads n weights out of the state. ftrl's are computed anew for `rows_seen`, since those of
 * coordinates not touched lately were charged too little; `penalties` is [n] or NULL. */
void cf_optimizer_weights(cf_optimizer optimizer, const float *state, size_t n,
                          const cf_penalty *penalties, double rows_seen, float *weights);

#endif
