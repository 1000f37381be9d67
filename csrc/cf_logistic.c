#include "cf_logistic.h"

#include <math.h>

#include "cf_lanes.h"
#include "cf_math.h"

/* Whether all ids are below n_weights. No early way out, so the compiler makes vectors of it; a
 * maximum of unsigned numbers takes the oldest CPUs twice as long as a sign. */
static bool are_inside(const uint32_t *ids, size_t n, size_t n_weights) {
    const uint32_t last = (uint32_t)n_weights - 1;
    uint32_t negative = 0, highest = 0;
    if (n == 0 || n_weights == 0)
        return n == 0;
    if (n_weights <= (size_t)1 << 31) {
        for (size_t k = 0; k < n; k++)
            negative |= ids[k] | (last - ids[k]);
        return negative >> 31 == 0;
    }
    for (size_t k = 0; k < n; k++)
        highest = ids[k] > highest ? ids[k] : highest;
    return highest < n_weights;
}

static float part_known(const float *data, const uint32_t *ids, size_t k, const float *w,
                        size_t n_weights) {
    return ids[k] < n_weights ? data[k] * w[ids[k]] : 0.0f;
}

/* cf_dot for ids that may be outside w, in the same order. */
static float dot_known(const float *data, const uint32_t *ids, size_t n, const float *w,
                       size_t n_weights) {
    float sums[4] = {0, 0, 0, 0};
    const size_t whole = n & ~(size_t)3;
    for (size_t k = 0; k < whole; k++)
        sums[k & 3] += part_known(data, ids, k, w, n_weights);
    float sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    for (size_t k = n; k > whole; k--)
        sum += part_known(data, ids, k - 1, w, n_weights);
    return sum;
}

cf_status cf_logistic_margins(const cf_csr *rows, const float *w, size_t n_weights, float intercept,
                              float *margins) {
    /* Weights that the nearer caches have are not asked for. */
    enum { AHEAD = 128, NEAR_WEIGHTS = 5 << 17 };
    const bool are_far = n_weights > NEAR_WEIGHTS;
    for (size_t i = 0; i < rows->n_rows; i++) {
        size_t begin, end;
        if (!cf_csr_row(rows, i, &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        const size_t n = end - begin;
        if (n == 0) {
            margins[i] = intercept;
            continue;
        }
        const uint32_t *const ids = rows->indices + begin;
        const float *const data = rows->data + begin;
        if (!are_inside(ids, n, n_weights))
            margins[i] = intercept + dot_known(data, ids, n, w, n_weights);
        else if (are_far && rows->nnz - end >= AHEAD)
            margins[i] = intercept + cf_dot_ahead(data, ids, n, w, AHEAD);
        else
            margins[i] = intercept + cf_dot(data, ids, n, w);
    }
    return cf_ok();
}

/* Sums of log(1 + e_i), one logarithm for many rows: the product of the 1 + e_i less 1 is kept,
 * which grows by terms of one sign, so a sum of small losses keeps its digits. */
typedef struct {
    double product; /* less 1 */
    size_t n;
} log_sum;

enum { FACTORS = 64 }; /* each at most 2, and each costs an ulp or two of the result */

static double log_sum_take(log_sum *sum) {
    const double taken = log1p(sum->product);
    *sum = (log_sum){0.0, 0};
    return taken;
}

/* Of a row, log(1 + e^-toward) = log(1 + e^-|toward|) + max(0, -toward) neither overflows nor loses
 * the small end. */
cf_logistic_total cf_logistic_loss(const float *margins, const float *labels, const float *weights,
                                   size_t n_rows) {
    cf_logistic_total total = {0, 0, 0};
    log_sum logs = {0.0, 0};
    for (size_t i = 0; i < n_rows; i++) {
        const bool positive = labels[i] > 0;
        const double weight = weights ? weights[i] : 1.0;
        const double toward = positive ? margins[i] : -(double)margins[i];
        const double e = exp(-fabs(toward));
        const double wrong = toward < 0 ? -toward : 0.0;
        if (weight == 1.0) {
            logs.product += e + logs.product * e;
            total.loss_sum += wrong;
            if (++logs.n == FACTORS)
                total.loss_sum += log_sum_take(&logs);
        } else {
            total.loss_sum += weight * (log1p(e) + wrong);
        }
        total.weight_sum += weight;
        total.correct += (margins[i] > 0) == positive ? weight : 0.0;
    }
    total.loss_sum += log_sum_take(&logs);
    return total;
}

void cf_logistic_probabilities(const float *margins, size_t n_rows, float *p) {
    const size_t whole = n_rows & ~(size_t)3;
    for (size_t i = 0; i < whole; i += 4) {
        const cf_four margin = cf_four_load(margins + i);
        cf_four likely, unlikely;
        cf_four_sides(margin, &likely, &unlikely);
        cf_four_store(p + i, cf_four_where(margin < 0.0f, unlikely, likely));
    }
    for (size_t i = whole; i < n_rows; i++)
        p[i] = cf_sigmoid(margins[i]);
}

/* What cf_gradient_sum takes for granted. */
static cf_status check_rows(const cf_csr *rows, size_t n_weights) {
    for (size_t i = 0; i < rows->n_rows; i++) {
        size_t begin, end;
        if (!cf_csr_row(rows, i, &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        if (begin == end || are_inside(rows->indices + begin, end - begin, n_weights))
            continue;
        while (rows->indices[begin] < n_weights)
            begin++;
        return cf_fail(CF_E_ID, begin);
    }
    return cf_ok();
}

cf_status cf_logistic_gradient(const cf_csr *rows, const float *w, size_t n_weights,
                               float intercept, float *gradient, cf_gradient_total *total) {
    const cf_status status = check_rows(rows, n_weights);
    if (status.code != CF_OK)
        return status;
    const uint32_t *local = rows->n_rows && rows->nnz ? rows->indices + rows->indptr[0] : NULL;
    const cf_minibatch batch = {rows, NULL, rows->n_rows, local, {1.0f, 1.0f}};
    *total = cf_gradient_sum(&batch, w, n_weights, intercept, gradient, NULL);
    return status;
}
