#include "cf_gradient.h"

#include <string.h>

#include "cf_loss.h"

cf_gradient_total cf_gradient_sum(const cf_minibatch *batch, const float *w, size_t n_local,
                                  float intercept, float *gradient, float *touches) {
    const cf_csr *const rows = batch->rows;
    const uint32_t *local = batch->local;
    cf_gradient_total total = {0, 0, 0};
    cf_loss_sum loss = CF_LOSS_NONE;
    if (n_local)
        memset(gradient, 0, n_local * sizeof *gradient);
    if (n_local && touches)
        memset(touches, 0, n_local * sizeof *touches);
    for (size_t i = 0; i < batch->n; i++) {
        const size_t row = batch->order ? batch->order[i] : i;
        const size_t begin = (size_t)rows->indptr[row];
        const size_t length = (size_t)rows->indptr[row + 1] - begin;
        const float *const data = rows->data + begin;
        float margin = intercept;
        for (size_t k = 0; k < length; k++)
            margin += data[k] * w[local[k]];
        const bool positive = rows->labels[row] > 0;
        const float weight = rows->weights ? rows->weights[row] : 1.0f;
        const float error =
            batch->class_weight[positive] * weight * cf_loss_error(&loss, margin, positive, weight);
        total.weight += weight;
        total.intercept += error;
        for (size_t k = 0; k < length; k++)
            gradient[local[k]] += error * data[k];
        if (touches)
            for (size_t k = 0; k < length; k++)
                touches[local[k]] += 1.0f;
        local += length;
    }
    cf_loss_flush(&loss);
    total.loss = loss.loss;
    return total;
}
