#include "cf_columns.h"

/* Entries; tables are larger than the nearer caches. */
enum { AHEAD = 48 };

/* Asks for what an index names, even one beyond the table: of which nothing is read then. */
static inline void ask(const void *table, size_t offset) {
    __builtin_prefetch((const void *)((uintptr_t)table + offset), 1);
}

cf_status cf_columns_scan(const uint32_t *indices, const float *data, size_t nnz,
                          cf_column_table *table) {
    uint32_t *const ones = table->ones;
    cf_column *const others = table->others;
    const size_t n_columns = table->n_columns, last_ahead = nnz > AHEAD ? nnz - AHEAD : 0;
    for (size_t i = 0; i < nnz; i++) {
        const uint32_t id = indices[i];
        if (id >= n_columns)
            return cf_fail(CF_E_ID, i);
        if (i < last_ahead)
            ask(ones, sizeof *ones * (size_t)indices[i + AHEAD]);
        const float x = data[i];
        if (x == 1.0f) {
            ones[id]++;
            continue;
        }
        /* Where values are, more are likely. To look at the one ahead, too, would mispredict. */
        if (i < last_ahead)
            ask(others, sizeof *others * (size_t)indices[i + AHEAD]);
        if (!cf_column_add(table, id, x))
            return cf_fail(CF_E_ROOM, i);
    }
    return cf_ok();
}

static cf_column merged(cf_column a, cf_column b) {
    a.count += b.count;
    a.min = b.min < a.min ? b.min : a.min;
    a.max = b.max > a.max ? b.max : a.max;
    a.sum_squares += b.sum_squares;
    return a;
}

size_t cf_columns_merge(const uint32_t *a_ids, const cf_column *a, size_t n_a,
                        const uint32_t *b_ids, const cf_column *b, size_t n_b, uint32_t *out_ids,
                        cf_column *out) {
    size_t i = 0, j = 0, k = 0;
    while (i < n_a && j < n_b) {
        const uint32_t a_id = a_ids[i], b_id = b_ids[j];
        out_ids[k] = a_id < b_id ? a_id : b_id;
        if (a_id == b_id)
            out[k++] = merged(a[i++], b[j++]);
        else
            out[k++] = a_id < b_id ? a[i++] : b[j++];
    }
    for (; i < n_a; i++, k++) {
        out_ids[k] = a_ids[i];
        out[k] = a[i];
    }
    for (; j < n_b; j++, k++) {
        out_ids[k] = b_ids[j];
        out[k] = b[j];
    }
    return k;
}

/* Division, not multiplication by a reciprocal: the largest entry must come out as exactly 1. */
void cf_columns_scale(const uint32_t *indices, const float *data, size_t nnz, const float *pairs,
                      size_t n_columns, float *out) {
    enum { NEAR = 4096 }; /* columns whose pairs the nearest cache holds */
    const bool is_far = n_columns > NEAR;
    for (size_t i = 0; i < nnz; i++) {
        const size_t id = indices[i];
        if (is_far && i + AHEAD < nnz && indices[i + AHEAD] < n_columns)
            __builtin_prefetch(pairs + 2 * (size_t)indices[i + AHEAD]);
        out[i] = id < n_columns ? (data[i] - pairs[2 * id]) / pairs[2 * id + 1] : data[i];
    }
}
