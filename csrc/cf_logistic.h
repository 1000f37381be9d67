/* cf_logistic.h -- margins, logistic loss and its gradient over sparse rows.
 *
 * Labels are 1 (positive) or 0. The loss of a row with margin m is log(1 + e^-m) if positive and
 * log(1 + e^m) if not, in nats. Margins are summed in float32, losses in float64; the order of
 * either sum is fixed, so equal input gives equal bits with every table of kernels.
 */
#ifndef CF_LOGISTIC_H
#define CF_LOGISTIC_H

#include "cf_csr.h"
#include "cf_gradient.h"
#include "cf_status.h"

/* margins[i] = intercept + the sum of data * w[indices] over row i. Columns at or above n_weights
 * count as weight 0: new data may have columns that the model never saw. */
cf_status cf_logistic_margins(const cf_csr *rows, const float *w, size_t n_weights, float intercept,
                              float *margins);

typedef struct {
    double loss_sum;   /* sum of weight * loss */
    double weight_sum; /* sum of weights */
    double correct;    /* weight of the rows on the right side of margin 0 (0 counts as negative) */
} cf_logistic_total;

/* `weights` may be NULL. */
cf_logistic_total cf_logistic_loss(const float *margins, const float *labels, const float *weights,
                                   size_t n_rows);

/* p[i] = 1 / (1 + e^-margins[i]); may run in place. */
void cf_logistic_probabilities(const float *margins, size_t n_rows, float *p);

/* cf_gradient_sum for rows that are one mini-batch, in order, and whose indices count into
 * w[n_weights]; all of it is checked first, and nothing written on failure. */
cf_status cf_logistic_gradient(const cf_csr *rows, const float *w, size_t n_weights,
                               float intercept, float *gradient, cf_gradient_total *total);

#endif
