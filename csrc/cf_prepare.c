#include "cf_prepare.h"

/* Rows whose entries, then whose entries' places, are asked for ahead of time. */
enum { ROWS_AHEAD = 8, IDS_AHEAD = 3 };

static void prefetch_places(const cf_csr *rows, size_t row, const cf_places *places) {
    size_t begin, end;
    if (row >= rows->n_rows || !cf_csr_row(rows, row, &begin, &end))
        return;
    for (size_t k = begin; k < end; k++)
        if (rows->indices[k] < places->n_ids)
            __builtin_prefetch(places->of + rows->indices[k]);
}

cf_status cf_prepare(const cf_csr *rows, const uint32_t *order, size_t n_order,
                     const cf_places *places, size_t first_entry, float *labels, int64_t *indptr,
                     uint32_t *indices, float *data, float *weights, size_t nnz_room) {
    size_t filled = 0;
    indptr[0] = (int64_t)first_entry;
    for (size_t i = 0; i < n_order; i++) {
        size_t begin, end;
        if (order[i] >= rows->n_rows)
            return cf_fail(CF_E_ROW, i);
        if (!cf_csr_row(rows, order[i], &begin, &end))
            return cf_fail(CF_E_INDPTR, order[i]);
        if (end - begin > nnz_room - filled)
            return cf_fail(CF_E_ROOM, i);
        if (i + ROWS_AHEAD < n_order)
            cf_csr_prefetch(rows, order[i + ROWS_AHEAD]);
        if (i + IDS_AHEAD < n_order)
            prefetch_places(rows, order[i + IDS_AHEAD], places);
        for (size_t k = begin; k < end; k++) {
            const size_t id = rows->indices[k];
            if (id >= places->n_ids || places->of[id].place >= places->n_places)
                return cf_fail(CF_E_ID, k);
            indices[filled] = places->of[id].place;
            data[filled++] = rows->data[k] / places->of[id].divisor;
        }
        labels[i] = rows->labels[order[i]];
        if (rows->weights)
            weights[i] = rows->weights[order[i]];
        indptr[i + 1] = (int64_t)(first_entry + filled);
    }
    return cf_ok();
}
