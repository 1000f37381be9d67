#include "cf_train.h"

#include "cf_gradient.h"
#include "cf_localize.h"
#include "cf_loss.h"

/* How far ahead memory is asked for: a row's entries, then the coordinates they name. Found by
 * trial on rows of 35 entries and a model of 2^19; both are flat around these values. */
enum { ROWS_AHEAD = 8, IDS_AHEAD = 3 };

/* Checks row order[i] and gives its entries. */
static cf_code find_row(const cf_csr *rows, uint32_t row, size_t *begin, size_t *end) {
    if (row >= rows->n_rows)
        return CF_E_ROW;
    return cf_csr_row(rows, row, begin, end) ? CF_OK : CF_E_INDPTR;
}

static cf_code check_ids(const cf_csr *rows, size_t begin, size_t end, size_t n_ids) {
    uint32_t highest = 0;
    for (size_t k = begin; k < end; k++)
        highest = rows->indices[k] > highest ? rows->indices[k] : highest;
    return begin < end && highest >= n_ids ? CF_E_ID : CF_OK;
}

static void prefetch_entries(const cf_csr *rows, uint32_t row) {
    size_t begin, end;
    if (find_row(rows, row, &begin, &end) != CF_OK)
        return;
    for (size_t k = begin; k < end; k += 16) { /* 64-byte lines */
        __builtin_prefetch(rows->indices + k);
        __builtin_prefetch(rows->data + k);
    }
}

static void prefetch_state(const cf_train_model *model, size_t width, const cf_csr *rows,
                           uint32_t row) {
    size_t begin, end;
    if (find_row(rows, row, &begin, &end) != CF_OK)
        return;
    for (size_t k = begin; k < end; k++)
        if (rows->indices[k] < model->n_ids)
            __builtin_prefetch(model->state + rows->indices[k] * width, 1);
}

/* The charge for `touches` touches of coordinate j, or for all rows seen. */
static cf_penalty charge(const cf_train_model *model, size_t j, float touches, double rows_seen) {
    cf_penalty penalty = {0, 0};
    if (model->penalties) {
        const float times = model->optimizer.kind == CF_FTRL ? (float)rows_seen : touches;
        penalty.l1 = model->penalties[j].l1 * times;
        penalty.l2 = model->penalties[j].l2 * times;
    }
    return penalty;
}

/* What one row contributes: its error (p - label, weighted) and its loss. */
static float row_error(const cf_train_model *model, const cf_csr *rows, uint32_t row, float margin,
                       cf_loss_sum *loss, cf_train_total *total) {
    const bool positive = rows->labels[row] > 0;
    const float weight = rows->weights ? rows->weights[row] : 1.0f;
    total->weight_sum += weight;
    return model->class_weight[positive] * weight * cf_loss_error(loss, margin, positive, weight);
}

/* Mini-batches of one row: a row's ids are distinct, so its entries update the model directly.
 * The optimiser is a constant at every call of this function, so each gets a loop of its own. */
static inline cf_status train_single(cf_optimizer_kind kind, const cf_train_model *model,
                                     const cf_csr *rows, const uint32_t *order, size_t n_order,
                                     cf_loss_sum *loss, cf_train_total *total) {
    const size_t width = cf_optimizer_width(kind);
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = kind;
    float *const intercept = model->state + model->n_ids * width;
    for (size_t i = 0; i < n_order; i++) {
        size_t begin, end;
        cf_code code = find_row(rows, order[i], &begin, &end);
        if (code == CF_OK)
            code = check_ids(rows, begin, end, model->n_ids);
        if (code != CF_OK)
            return cf_fail(code, i);
        if (i + ROWS_AHEAD < n_order)
            prefetch_entries(rows, order[i + ROWS_AHEAD]);
        if (i + IDS_AHEAD < n_order)
            prefetch_state(model, width, rows, order[i + IDS_AHEAD]);

        float margin = cf_shared_read(intercept);
        for (size_t k = begin; k < end; k++)
            margin += rows->data[k] * cf_shared_read(model->state + rows->indices[k] * width);
        const float error = row_error(model, rows, order[i], margin, loss, total);
        const double rows_seen = model->rows_seen + (double)(i + 1);
        for (size_t k = begin; k < end; k++) {
            const size_t id = rows->indices[k];
            cf_optimizer_update(optimizer, model->state + id * width, error * rows->data[k],
                                charge(model, id, 1.0f, rows_seen));
        }
        if (model->fit_intercept)
            cf_optimizer_update(optimizer, intercept, error, (cf_penalty){0, 0});
        total->n_rows++;
        total->n_updates++;
    }
    return cf_ok();
}

/* Renumbers the entries of a mini-batch's rows one after another into scratch->local. */
static cf_status localize_batch(const cf_train_model *model, const cf_csr *rows,
                                const uint32_t *order, size_t n, const cf_train_scratch *scratch,
                                size_t *n_distinct) {
    uint32_t *const ids = scratch->local; /* gathered, then renumbered in place */
    size_t filled = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        const cf_code code = find_row(rows, order[i], &begin, &end);
        if (code != CF_OK)
            return cf_fail(code, i);
        if (end - begin > scratch->room - filled)
            return cf_fail(CF_E_ROOM, i);
        for (size_t k = begin; k < end; k++)
            ids[filled++] = rows->indices[k];
    }
    return cf_localize(ids, filled, scratch->table, model->n_ids, scratch->local, scratch->distinct,
                       n_distinct);
}

/* Pulls the weights of a localised mini-batch and sums its gradient; returns the intercept's. */
static float sum_gradient(const cf_train_model *model, size_t width, const cf_csr *rows,
                          const uint32_t *order, size_t n, const cf_train_scratch *scratch,
                          size_t n_distinct, cf_train_total *total) {
    enum { AHEAD = 16 };
    for (size_t j = 0; j < n_distinct; j++) {
        if (j + AHEAD < n_distinct)
            __builtin_prefetch(model->state + scratch->distinct[j + AHEAD] * width, 1);
        scratch->weights[j] = cf_shared_read(model->state + scratch->distinct[j] * width);
    }
    const bool charged = model->penalties && model->optimizer.kind != CF_FTRL;
    const cf_minibatch batch = {
        rows, order, n, scratch->local, {model->class_weight[0], model->class_weight[1]}};
    const cf_gradient_total summed = cf_gradient_sum(
        &batch, scratch->weights, n_distinct, cf_shared_read(model->state + model->n_ids * width),
        scratch->gradient, charged ? scratch->touches : NULL);
    if (!charged)
        for (size_t j = 0; j < n_distinct; j++)
            scratch->touches[j] = 0.0f;
    total->n_rows += n;
    total->loss_sum += summed.loss;
    total->weight_sum += summed.weight;
    return summed.intercept;
}

/* One optimiser step with a summed gradient. */
static inline void apply(cf_optimizer_kind kind, const cf_train_model *model, const uint32_t *ids,
                         const float *gradient, const float *touches, size_t n,
                         float intercept_gradient, double rows_seen) {
    const size_t width = cf_optimizer_width(kind);
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = kind;
    for (size_t j = 0; j < n; j++)
        cf_optimizer_update(optimizer, model->state + ids[j] * width, gradient[j],
                            charge(model, ids[j], touches[j], rows_seen));
    if (model->fit_intercept)
        cf_optimizer_update(optimizer, model->state + model->n_ids * width, intercept_gradient,
                            (cf_penalty){0, 0});
}

/* Mini-batches of several rows: pull the distinct weights, sum the gradient, push it. */
static inline cf_status train_batched(cf_optimizer_kind kind, const cf_train_model *model,
                                      const cf_csr *rows, const uint32_t *order, size_t n_order,
                                      size_t minibatch_size, const cf_train_scratch *scratch,
                                      cf_train_total *total) {
    for (size_t first = 0; first < n_order; first += minibatch_size) {
        const size_t n = n_order - first < minibatch_size ? n_order - first : minibatch_size;
        size_t n_distinct;
        const cf_status status =
            localize_batch(model, rows, order + first, n, scratch, &n_distinct);
        if (status.code != CF_OK)
            return cf_fail(status.code, first);
        const float intercept_gradient = sum_gradient(model, cf_optimizer_width(kind), rows,
                                                      order + first, n, scratch, n_distinct, total);
        apply(kind, model, scratch->distinct, scratch->gradient, scratch->touches, n_distinct,
              intercept_gradient, model->rows_seen + (double)(first + n));
        total->n_updates++;
    }
    return cf_ok();
}

static inline cf_status train(cf_optimizer_kind kind, const cf_train_model *model,
                              const cf_csr *rows, const uint32_t *order, size_t n_order,
                              size_t minibatch_size, const cf_train_scratch *scratch,
                              cf_loss_sum *loss, cf_train_total *total) {
    if (minibatch_size == 1)
        return train_single(kind, model, rows, order, n_order, loss, total);
    return train_batched(kind, model, rows, order, n_order, minibatch_size, scratch, total);
}

cf_status cf_train(const cf_train_model *model, const cf_csr *rows, const uint32_t *order,
                   size_t n_order, size_t minibatch_size, const cf_train_scratch *scratch,
                   cf_train_total *total) {
    cf_loss_sum loss = CF_LOSS_NONE;
    cf_status status = cf_ok();
    *total = (cf_train_total){0, 0, 0, 0};
    switch (model->optimizer.kind) {
    case CF_SGD:
        status = train(CF_SGD, model, rows, order, n_order, minibatch_size, scratch, &loss, total);
        break;
    case CF_ADAGRAD:
        status =
            train(CF_ADAGRAD, model, rows, order, n_order, minibatch_size, scratch, &loss, total);
        break;
    case CF_FTRL:
        status = train(CF_FTRL, model, rows, order, n_order, minibatch_size, scratch, &loss, total);
        break;
    }
    cf_loss_flush(&loss);
    total->loss_sum += loss.loss;
    return status;
}

cf_status cf_train_gradient(const cf_train_model *model, const cf_csr *rows, const uint32_t *order,
                            size_t n_order, const cf_train_scratch *scratch, size_t *n_distinct,
                            float *intercept_gradient, cf_train_total *total) {
    *total = (cf_train_total){0, 0, 0, 0};
    const cf_status status = localize_batch(model, rows, order, n_order, scratch, n_distinct);
    if (status.code != CF_OK)
        return status;
    *intercept_gradient = sum_gradient(model, cf_optimizer_width(model->optimizer.kind), rows,
                                       order, n_order, scratch, *n_distinct, total);
    return status;
}

cf_status cf_train_apply(const cf_train_model *model, const uint32_t *ids, const float *gradient,
                         const float *touches, size_t n, float intercept_gradient,
                         const cf_train_scratch *scratch) {
    size_t n_distinct;
    if (n > scratch->room)
        return cf_fail(CF_E_ROOM, n);
    const cf_status status = cf_localize(ids, n, scratch->table, model->n_ids, scratch->local,
                                         scratch->distinct, &n_distinct);
    if (status.code != CF_OK)
        return status;
    for (size_t j = 0; j < n_distinct; j++)
        scratch->gradient[j] = scratch->touches[j] = 0.0f;
    for (size_t i = 0; i < n; i++) {
        scratch->gradient[scratch->local[i]] += gradient[i];
        scratch->touches[scratch->local[i]] += touches[i];
    }
    apply(model->optimizer.kind, model, scratch->distinct, scratch->gradient, scratch->touches,
          n_distinct, intercept_gradient, model->rows_seen);
    return status;
}
