#include "cf_train.h"

#include "cf_gradient.h"
#include "cf_localize.h"
#include "cf_train_rows.h"

/* The charge for `touches` touches of coordinate j, or for all rows seen. */
static cf_penalty charge(const cf_train_model *model, size_t j, float touches, double rows_seen) {
    const float times = model->optimizer.kind == CF_FTRL ? (float)rows_seen : touches;
    return cf_penalty_due(model->penalties, j, times);
}

/* Mini-batches of one row. */
static cf_status train_rows(const cf_kernels *kernels, const cf_train_model *model,
                            const cf_csr *rows, const uint32_t *order, size_t n_order,
                            cf_train_total *total) {
    const cf_hot *const hot = model->hot;
    const size_t width = cf_optimizer_width(model->optimizer.kind);
    cf_train_walk walk = {
        .model = model,
        .rows = rows,
        .hot = hot ? hot->own : model->state + model->n_ids * width,
        .n_hot = hot ? hot->n : 0,
        .order_end = n_order ? order + n_order : order,
        .rows_seen = model->rows_seen,
        .loss = CF_LOSS_NONE,
        .total = total,
    };
    cf_status status = cf_ok();
    size_t done = 0;
    if (hot)
        cf_hot_fetch(hot, model->state, model->n_ids, width);
    while (status.code == CF_OK && done < n_order) {
        const size_t left = n_order - done, n = hot && hot->every < left ? hot->every : left;
        status = kernels->train_rows(&walk, order + done, n);
        if (status.code != CF_OK)
            status.offset += done;
        walk.rows_seen += (double)n;
        done += n;
        if (hot)
            cf_hot_exchange(hot, model->state, model->n_ids, width);
    }
    cf_loss_flush(&walk.loss);
    total->loss_sum = walk.loss.loss;
    return status;
}

/* Renumbers the entries of a mini-batch's rows one after another into scratch->local. */
static cf_status localize_batch(const cf_train_model *model, const cf_csr *rows,
                                const uint32_t *order, size_t n, const cf_train_scratch *scratch,
                                size_t *n_distinct) {
    return cf_localize_rows(rows, order, n, scratch->table, model->n_ids, scratch->local,
                            scratch->room, scratch->distinct, n_distinct);
}

/* Pulls the weights of a localised mini-batch and sums its gradient; returns the intercept's. */
static inline float sum_gradient(cf_optimizer_kind kind, const cf_train_model *model,
                                 const cf_csr *rows, const uint32_t *order, size_t n,
                                 const cf_train_scratch *scratch, size_t n_distinct,
                                 double rows_seen, cf_train_total *total) {
    enum { AHEAD = 16 };
    const size_t width = cf_optimizer_width(kind);
    cf_optimizer optimizer = model->optimizer;
    optimizer.kind = kind;
    for (size_t j = 0; j < n_distinct; j++) {
        if (j + AHEAD < n_distinct)
            __builtin_prefetch(model->state + scratch->distinct[j + AHEAD] * width, 1);
        const uint32_t id = scratch->distinct[j];
        scratch->weights[j] = cf_optimizer_weight(optimizer, model->state + id * width,
                                                  charge(model, id, 0.0f, rows_seen));
    }
    const bool charged = model->penalties.n && model->optimizer.kind != CF_FTRL;
    const cf_minibatch batch = {
        rows, order, n, scratch->local, {model->class_weight[0], model->class_weight[1]}};
    const float intercept =
        cf_optimizer_weight(optimizer, model->state + model->n_ids * width, (cf_penalty){0, 0});
    const cf_gradient_total summed =
        cf_gradient_sum(&batch, scratch->weights, n_distinct, intercept, scratch->gradient,
                        charged ? scratch->touches : NULL);
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
    const bool charged = model->penalties.n > 0;
    for (size_t j = 0; j < n; j++) {
        const cf_penalty penalty =
            charged ? charge(model, ids[j], touches[j], rows_seen) : (cf_penalty){0, 0};
        cf_optimizer_update(optimizer, model->state + ids[j] * width, gradient[j], penalty);
    }
    if (model->fit_intercept)
        cf_optimizer_update(optimizer, model->state + model->n_ids * width,
                            intercept_gradient * model->intercept_rate, (cf_penalty){0, 0});
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
        const double rows_seen = model->rows_seen + (double)first;
        const float intercept_gradient = sum_gradient(kind, model, rows, order + first, n, scratch,
                                                      n_distinct, rows_seen, total);
        apply(kind, model, scratch->distinct, scratch->gradient, scratch->touches, n_distinct,
              intercept_gradient, rows_seen);
        total->n_updates++;
    }
    return cf_ok();
}

cf_status cf_train(const cf_kernels *kernels, const cf_train_model *model, const cf_csr *rows,
                   const uint32_t *order, size_t n_order, size_t minibatch_size,
                   const cf_train_scratch *scratch, cf_train_total *total) {
    *total = (cf_train_total){0, 0, 0, 0};
    if (minibatch_size == 1)
        return train_rows(kernels, model, rows, order, n_order, total);
    switch (model->optimizer.kind) { /* a constant in each call, so each has a loop of its own */
    case CF_SGD:
        return train_batched(CF_SGD, model, rows, order, n_order, minibatch_size, scratch, total);
    case CF_ADAGRAD:
        return train_batched(CF_ADAGRAD, model, rows, order, n_order, minibatch_size, scratch,
                             total);
    case CF_FTRL:
        return train_batched(CF_FTRL, model, rows, order, n_order, minibatch_size, scratch, total);
    }
    return cf_ok();
}

cf_status cf_train_gradient(const cf_train_model *model, const cf_csr *rows, const uint32_t *order,
                            size_t n_order, const cf_train_scratch *scratch, size_t *n_distinct,
                            float *intercept_gradient, cf_train_total *total) {
    *total = (cf_train_total){0, 0, 0, 0};
    const cf_status status = localize_batch(model, rows, order, n_order, scratch, n_distinct);
    if (status.code != CF_OK)
        return status;
    *intercept_gradient = sum_gradient(model->optimizer.kind, model, rows, order, n_order, scratch,
                                       *n_distinct, model->rows_seen, total);
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
