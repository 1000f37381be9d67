#include "cf_prepare.h"

/* Rows whose entries, then whose entries' places, are asked for ahead of time. */
enum { ROWS_AHEAD = 8, IDS_AHEAD = 3 };
/* Entries that are divided at once, in vectors. */
enum { TOGETHER = 64 };

static void prefetch_places(const cf_csr *rows, size_t row, const cf_places *places) {
    size_t begin, end;
    if (row >= rows->n_rows || !cf_csr_row(rows, row, &begin, &end))
        return;
    /* By addresses that nobody checks, since nothing is read by them. */
    for (size_t k = begin; k < end; k++)
        __builtin_prefetch(
            (const void *)((uintptr_t)places->of + sizeof *places->of * (size_t)rows->indices[k]));
}

/* Up to TOGETHER entries from the k-th on; whether all have places. */
static bool prepare_entries(const cf_csr *rows, size_t k, size_t n, const cf_places *places,
                            uint32_t *restrict indices, float *restrict data) {
    const uint32_t *const ids = rows->indices + k, *const of = places->of;
    const float *const values = rows->data + k;
    const size_t n_ids = places->n_ids, n_places = places->n_places;
    const uint32_t last = (uint32_t)places->n_divisors - 1;
    float divisors[TOGETHER];
    size_t n_bad = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t id = ids[i];
        const uint32_t place = of[id < n_ids ? id : 0];
        n_bad += (id >= n_ids) | (place >= n_places);
        indices[i] = place;
        /* The smaller one. Which it is nothing predicts, and compilers like to branch. */
        divisors[i] = places->divisors[last ^ ((place ^ last) & (0u - (place < last)))];
    }
    for (size_t i = 0; i < n; i++)
        data[i] = values[i] / divisors[i];
    return n_bad == 0;
}

/* The first of the entries from the k-th on that has no place. */
static cf_status without_place(const cf_csr *rows, size_t k, const cf_places *places) {
    while (rows->indices[k] < places->n_ids && places->of[rows->indices[k]] < places->n_places)
        k++;
    return cf_fail(CF_E_ID, k);
}

cf_status cf_prepare(const cf_csr *rows, const uint32_t *order, size_t n_order,
                     const cf_places *places, size_t first_entry, float *labels, int64_t *indptr,
                     uint32_t *indices, float *data, float *weights, size_t nnz_room) {
    const bool nowhere = places->n_ids == 0 || places->n_divisors == 0;
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
        if (begin != end && nowhere)
            return cf_fail(CF_E_ID, begin);
        if (i + ROWS_AHEAD < n_order)
            cf_csr_prefetch(rows, order[i + ROWS_AHEAD]);
        if (i + IDS_AHEAD < n_order)
            prefetch_places(rows, order[i + IDS_AHEAD], places);
        for (size_t k = begin; k < end; k += TOGETHER) {
            const size_t n = end - k < TOGETHER ? end - k : TOGETHER;
            if (!prepare_entries(rows, k, n, places, indices + filled, data + filled))
                return without_place(rows, k, places);
            filled += n;
        }
        labels[i] = rows->labels[order[i]];
        if (rows->weights)
            weights[i] = rows->weights[order[i]];
        indptr[i + 1] = (int64_t)(first_entry + filled);
    }
    return cf_ok();
}
