#include "cf_gradient.h"

#include <string.h>

#include "cf_lanes.h"
#include "cf_loss.h"

/* Rows whose margins, then errors, then gradient are computed together: the errors as vectors, and
 * no row waits for the exponential of the one before. Few enough to find their entries in the
 * first-level cache the second time. */
enum { ROWS = 32 };

typedef struct {
    const float *data[ROWS];
    size_t length[ROWS];
    float sign[ROWS]; /* 1 for a positive label, -1 for another */
    float weight[ROWS];
    float toward[ROWS]; /* the margin in the label's direction */
    float right[ROWS];  /* the probability given to the label */
    float wrong[ROWS];  /* and what it leaves to 1 */
} row_group;

static const uint32_t *margins(const cf_minibatch *batch, size_t first, size_t n,
                               const uint32_t *local, const float *w, float intercept,
                               row_group *group) {
    const cf_csr *const rows = batch->rows;
    for (size_t i = 0; i < n; i++) {
        const size_t row = batch->order ? batch->order[first + i] : first + i;
        const size_t begin = (size_t)rows->indptr[row];
        const size_t length = (size_t)rows->indptr[row + 1] - begin;
        const float sign = rows->labels[row] > 0 ? 1.0f : -1.0f;
        group->data[i] = length ? rows->data + begin : NULL;
        group->length[i] = length;
        group->sign[i] = sign;
        group->weight[i] = rows->weights ? rows->weights[row] : 1.0f;
        group->toward[i] = sign * (intercept + cf_dot(group->data[i], local, length, w));
        local = length ? local + length : local;
    }
    return local;
}

static void probabilities(row_group *group, size_t n) {
    for (size_t i = 0; i < n; i += 4) { /* ROWS is a multiple of 4; what is beyond n is not used */
        const cf_four toward = cf_four_load(group->toward + i);
        cf_four likely, unlikely;
        cf_four_sides(toward, &likely, &unlikely);
        cf_four_store(group->right + i, cf_four_where(toward < 0.0f, unlikely, likely));
        cf_four_store(group->wrong + i, cf_four_where(toward < 0.0f, likely, unlikely));
    }
}

/* Ids of a row are usually distinct, but nothing here relies on it. */
static void scatter(const float *data, const uint32_t *local, size_t n, float error,
                    float *gradient) {
    size_t k = 0;
    for (; k + 4 <= n; k += 4) {
        const cf_four parts = error * cf_four_load(data + k);
        gradient[local[k]] += parts[0];
        gradient[local[k + 1]] += parts[1];
        gradient[local[k + 2]] += parts[2];
        gradient[local[k + 3]] += parts[3];
    }
    for (; k < n; k++)
        gradient[local[k]] += error * data[k];
}

cf_gradient_total cf_gradient_sum(const cf_minibatch *batch, const float *w, size_t n_local,
                                  float intercept, float *gradient, float *touches) {
    const uint32_t *local = batch->local;
    cf_gradient_total total = {0, 0, 0};
    cf_loss_sum loss = CF_LOSS_NONE;
    row_group group;
    memset(group.toward, 0, sizeof group.toward);
    if (n_local)
        memset(gradient, 0, n_local * sizeof *gradient);
    if (n_local && touches)
        memset(touches, 0, n_local * sizeof *touches);
    for (size_t first = 0; first < batch->n; first += ROWS) {
        const size_t n = batch->n - first < ROWS ? batch->n - first : ROWS;
        const uint32_t *const next = margins(batch, first, n, local, w, intercept, &group);
        probabilities(&group, n);
        for (size_t i = 0; i < n; i++) {
            const size_t length = group.length[i];
            const float weight = group.weight[i];
            const float error =
                batch->class_weight[group.sign[i] > 0] * weight * (-group.sign[i] * group.wrong[i]);
            cf_loss_add(&loss, group.toward[i], group.right[i], weight);
            total.weight += weight;
            total.intercept += error;
            scatter(group.data[i], local, length, error, gradient);
            if (touches)
                for (size_t k = 0; k < length; k++)
                    touches[local[k]] += 1.0f;
            local = length ? local + length : local;
        }
        local = next;
    }
    cf_loss_flush(&loss);
    total.loss = loss.loss;
    return total;
}
