/* cf_optimizer.h -- one coordinate's update, for sgd, adagrad and ftrl.
 *
 * The state of coordinate j is `cf_optimizer_width(kind)` floats side by side:
 *     sgd {w}   adagrad {w, s}   ftrl {z, n}, from which the weight follows.
 *
 * Gradients are sums over the rows of a mini-batch, of the loss alone. Penalties are charged only
 * to coordinates that a mini-batch touches, yet the fixed point is that of
 *     sum_i loss_i + W (l2/2 |w|^2 + l1 |w|_1),   W the sum of row weights:
 *   sgd, adagrad: a column stored in c rows is touched c times an epoch, so each touch is charged
 *     l1 = W l1 / c and l2 = W l2 / c (the caller's `penalty` pair);
 *   ftrl: its closed form knows how much is due in all, so the pair is the charge per row,
 *     W l1 / n and W l2 / n, times the rows seen whenever the weight is read.
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

/* Of all coordinates: those from n - 1 on have the last pair. Most columns of click data have the
 * same, which then needs no memory but a register. */
typedef struct {
    const cf_penalty *of; /* [n] */
    size_t n;             /* 0: there are none */
} cf_penalties;

/* What coordinate j is charged `times` times over. */
static inline cf_penalty cf_penalty_due(cf_penalties penalties, size_t j, float times) {
    if (penalties.n == 0)
        return (cf_penalty){0, 0};
    const cf_penalty each = penalties.of[j < penalties.n ? j : penalties.n - 1];
    return (cf_penalty){each.l1 * times, each.l2 * times};
}

static inline size_t cf_optimizer_width(cf_optimizer_kind kind) { return kind == CF_SGD ? 1 : 2; }

/* argmin_v (v - u)^2 / 2 + rate (l1 |v| + l2 / 2 v^2), u = w - rate g. Written as a step from w,
 * since near the optimum u and v are w to all digits but the last, and what matters is whether the
 * pulls on it, which may be far apart in size from it, add up to 0. */
static inline float cf_proximal_step(float w, float rate, float g, cf_penalty penalty) {
    const float u = w - rate * g;
    if (penalty.l1 == 0 && penalty.l2 == 0)
        return u;
    if (fabsf(u) <= rate * penalty.l1)
        return 0.0f; /* NaN goes on */
    const float pull = (g + copysignf(penalty.l1, u)) + penalty.l2 * w;
    return w - rate * pull / (1.0f + rate * penalty.l2);
}

/* Hogwild threads share these floats without locks: each is one aligned 4-byte access (vector
 * kernels take the two of a coordinate in one of 8 bytes, which can only tear between them), a lost
 * update is noise of the kind stochastic gradients have anyway. `volatile` keeps the compiler from
 * splitting, repeating or inventing accesses. */
static inline float cf_shared_read(const float *p) { return *(const volatile float *)p; }
static inline void cf_shared_write(float *p, float value) { *(volatile float *)p = value; }

/* The weight of a coordinate. `due` matters for ftrl alone: the penalty of the rows seen so far. */
static inline float cf_optimizer_weight(cf_optimizer optimizer, const float *state,
                                        cf_penalty due) {
    const float first = cf_shared_read(&state[0]);
    if (optimizer.kind != CF_FTRL)
        return first;
    const float root = sqrtf(cf_shared_read(&state[1]));
    const float size = fabsf(first) - due.l1;
    if (size <= 0)
        return 0.0f; /* NaN goes on: a run must see that it diverged */
    const float inverse = 1.0f / optimizer.learning_rate;
    return -copysignf(size, first) / ((optimizer.initial + root) * inverse + due.l2);
}

/* Applies gradient `g`, taken at the coordinate's weight, to it. `penalty` is that of the touches
 * this step (sgd, adagrad), or of the rows seen before it (ftrl). */
static inline void cf_optimizer_update(cf_optimizer optimizer, float *state, float g,
                                       cf_penalty penalty) {
    switch (optimizer.kind) {
    case CF_SGD: {
        const float rate = optimizer.learning_rate;
        const float w = cf_shared_read(&state[0]);
        cf_shared_write(&state[0], cf_proximal_step(w, rate, g, penalty));
        break;
    }
    case CF_ADAGRAD: {
        const float s = cf_shared_read(&state[1]) + g * g;
        const float rate = optimizer.learning_rate / sqrtf(s);
        const float w = cf_shared_read(&state[0]);
        cf_shared_write(&state[1], s);
        cf_shared_write(&state[0], cf_proximal_step(w, rate, g, penalty));
        break;
    }
    case CF_FTRL: {
        const float inverse = 1.0f / optimizer.learning_rate;
        const float w = cf_optimizer_weight(optimizer, state, penalty);
        const float z = cf_shared_read(&state[0]), n = cf_shared_read(&state[1]);
        const float grown = n + g * g;
        const float sigma = (sqrtf(grown) - sqrtf(n)) * inverse;
        cf_shared_write(&state[0], z + g - sigma * w);
        cf_shared_write(&state[1], grown);
        break;
    }
    }
}

/* Sets n coordinates to weight 0 and the optimiser's first state. */
void cf_optimizer_clear(cf_optimizer optimizer, float *state, size_t n);

/* Gives coordinate `state` the starting weight `w` (an intercept at the base rate). */
void cf_optimizer_set(cf_optimizer optimizer, float *state, float w);

/* Reads n weights out of the state, as they are after `rows_seen` rows. */
void cf_optimizer_weights(cf_optimizer optimizer, const float *state, size_t n,
                          cf_penalties penalties, double rows_seen, float *weights);

#endif
