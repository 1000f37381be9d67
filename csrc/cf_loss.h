/* cf_loss.h -- a row's error and log-loss in training (internal to csrc). */
#ifndef CF_LOSS_H
#define CF_LOSS_H

#include <math.h>
#include <stdbool.h>

#include "cf_math.h"

/* Sums of log-loss without a logarithm a row: the product of the probabilities given to the right
 * labels, whose log is taken only when the next factor (at least e^-87) could underflow it. */
typedef struct {
    double product, loss;
} cf_loss_sum;

#define CF_LOSS_NONE ((cf_loss_sum){1.0, 0.0})

static inline void cf_loss_flush(cf_loss_sum *sum) {
    sum->loss -= log(sum->product);
    sum->product = 1.0;
}

/* `right` is the probability given to the label, `toward` the margin in its direction. */
static inline void cf_loss_add(cf_loss_sum *sum, float toward, float right, float weight) {
    if (!(toward > -80.0f)) { /* cf_expf clamps near there; NaN comes along too */
        sum->loss -= (double)weight * toward;
    } else if (weight == 1.0f) {
        sum->product *= right;
        if (!(sum->product > 1e-250))
            cf_loss_flush(sum);
    } else {
        sum->loss -= (double)weight * log(right);
    }
}

/* The error p - label of a row with this margin; its loss times `weight` goes to the sum.
 *
 * Without a branch on the label or the margin's sign, which would often be mispredicted, and what
 * the CPU did of the next row meanwhile be lost. Both probabilities keep their digits: neither is a
 * difference. */
static inline float cf_loss_error(cf_loss_sum *sum, float margin, bool positive, float weight) {
    const float sign = (float)(2 * (int)positive - 1);
    const float toward = sign * margin;
    const float odds = cf_expf(toward);
    const float wrong = 1.0f / (1.0f + odds);
    cf_loss_add(sum, toward, odds * wrong, weight);
    return -sign * wrong;
}

#endif
