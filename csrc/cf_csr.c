#include "cf_csr.h"

#include <string.h>

cf_status cf_csr_take(const cf_csr *rows, const uint32_t *order, size_t n_order, float *out_labels,
                      int64_t *out_indptr, uint32_t *out_indices, float *out_data,
                      float *out_weights, size_t nnz_room) {
    size_t filled = 0;
    out_indptr[0] = 0;
    for (size_t i = 0; i < n_order; i++) {
        const size_t row = order[i];
        size_t begin, end;
        if (row >= rows->n_rows)
            return cf_fail(CF_E_ROW, i);
        if (!cf_csr_row(rows, row, &begin, &end))
            return cf_fail(CF_E_INDPTR, row);
        const size_t n = end - begin;
        if (n > nnz_room - filled)
            return cf_fail(CF_E_ROOM, i);
        if (n) {
            memcpy(out_indices + filled, rows->indices + begin, n * sizeof *out_indices);
            memcpy(out_data + filled, rows->data + begin, n * sizeof *out_data);
        }
        filled += n;
        out_labels[i] = rows->labels[row];
        if (rows->weights)
            out_weights[i] = rows->weights[row];
        out_indptr[i + 1] = (int64_t)filled;
    }
    return cf_ok();
}
