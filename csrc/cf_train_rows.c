#include "cf_train_rows.h"

static cf_code check_ids(const cf_csr *rows, size_t begin, size_t end, size_t n_ids) {
    uint32_t highest = 0;
    for (size_t k = begin; k < end; k++)
        highest = rows->indices[k] > highest ? rows->indices[k] : highest;
    return begin < end && highest >= n_ids ? CF_E_ID : CF_OK;
}

static inline __attribute__((always_inline)) cf_status train_rows(cf_walk_shape is,
                                                                  cf_train_walk *walk,
                                                                  const uint32_t *order, size_t n) {
    const cf_csr *const rows = walk->rows;
    const size_t width = cf_optimizer_width(is.kind);
    const size_t known = (size_t)(walk->order_end - order);
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        cf_code code = cf_find_row(rows, order[i], &begin, &end);
        if (code == CF_OK)
            code = check_ids(rows, begin, end, walk->model->n_ids);
        if (code != CF_OK)
            return cf_fail(code, i);
        cf_csr_prefetch_order(rows, order + i, known - i, CF_ROWS_AHEAD);
        const uint32_t *ahead = NULL;
        if (i + CF_IDS_AHEAD < known)
            ahead = cf_ids_ahead(rows, order[i + CF_IDS_AHEAD], end - begin);
        for (size_t k = 0; ahead && k < end - begin; k++)
            cf_prefetch_coordinate(walk->model->state, ahead[k], width);
        cf_train_row(is, walk, order[i], begin, end, (float)(walk->rows_seen + (double)i));
    }
    return cf_ok();
}

static inline __attribute__((always_inline)) cf_status train_charged(cf_optimizer_kind kind,
                                                                     cf_train_walk *walk,
                                                                     const uint32_t *order,
                                                                     size_t n) {
    const bool hot = walk->n_hot > 0;
    if (walk->model->penalties.n)
        return hot ? train_rows((cf_walk_shape){kind, true, true}, walk, order, n)
                   : train_rows((cf_walk_shape){kind, true, false}, walk, order, n);
    return hot ? train_rows((cf_walk_shape){kind, false, true}, walk, order, n)
               : train_rows((cf_walk_shape){kind, false, false}, walk, order, n);
}

cf_status cf_train_rows_scalar(cf_train_walk *walk, const uint32_t *order, size_t n) {
    switch (walk->model->optimizer.kind) {
    case CF_SGD:
        return train_charged(CF_SGD, walk, order, n);
    case CF_ADAGRAD:
        return train_charged(CF_ADAGRAD, walk, order, n);
    case CF_FTRL:
        return train_charged(CF_FTRL, walk, order, n);
    }
    return cf_ok();
}
