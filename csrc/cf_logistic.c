#include "cf_logistic.h"

#include <math.h>

#include "cf_math.h"

cf_status cf_logistic_margins(const cf_csr *rows, const float *w, size_t n_weights, float intercept,
                              float *margins) {
    enum { AHEAD = 64 }; /* entries; weights of a large model are far away */
    for (size_t i = 0; i < rows->n_rows; i++) {
        size_t begin, end;
        if (!cf_csr_row(rows, i, &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        float sum = intercept;
        for (size_t k = begin; k < end; k++) {
            const size_t id = rows->indices[k];
            if (k + AHEAD < rows->nnz && rows->indices[k + AHEAD] < n_weights)
                __builtin_prefetch(w + rows->indices[k + AHEAD]);
            sum += id < n_weights ? rows->data[k] * w[id] : 0.0f;
        }
        margins[i] = sum;
    }
    return cf_ok();
}

/* The form that neither overflows nor loses the small end. */
static double row_loss(float margin, bool positive) {
    const double m = positive ? margin : -(double)margin;
    return m > 0 ? log1p(exp(-m)) : log1p(exp(m)) - m;
}

static void total_add(cf_logistic_total *total, float margin, bool positive, double weight) {
    total->loss_sum += weight * row_loss(margin, positive);
    total->weight_sum += weight;
    total->correct += (margin > 0) == positive ? weight : 0.0;
}

cf_logistic_total cf_logistic_loss(const float *margins, const float *labels, const float *weights,
                                   size_t n_rows) {
    cf_logistic_total total = {0, 0, 0};
    for (size_t i = 0; i < n_rows; i++)
        total_add(&total, margins[i], labels[i] > 0, weights ? weights[i] : 1.0);
    return total;
}

void cf_logistic_probabilities(const float *margins, size_t n_rows, float *p) {
    for (size_t i = 0; i < n_rows; i++)
        p[i] = cf_sigmoid(margins[i]);
}

/* What cf_gradient_sum takes for granted. */
static cf_status check_rows(const cf_csr *rows, size_t n_weights) {
    for (size_t i = 0; i < rows->n_rows; i++) {
        size_t begin, end;
        if (!cf_csr_row(rows, i, &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        for (size_t k = begin; k < end; k++)
            if (rows->indices[k] >= n_weights)
                return cf_fail(CF_E_ID, k);
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
