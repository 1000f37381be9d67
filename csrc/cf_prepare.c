#include "cf_prepare.h"

#include <string.h>

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

size_t cf_place_entries_scalar(const cf_places *places, const uint32_t *ids, const float *values,
                               size_t n, uint32_t *indices, float *data) {
    const uint32_t *const of = places->of;
    const size_t n_ids = places->n_ids, n_places = places->n_places;
    const uint32_t last = (uint32_t)places->n_divisors - 1;
    for (size_t done = 0; done < n; done += TOGETHER) {
        const size_t m = n - done < TOGETHER ? n - done : TOGETHER;
        uint32_t found[TOGETHER];
        float divisors[TOGETHER];
        size_t n_bad = 0;
        for (size_t i = 0; i < m; i++) {
            const size_t id = ids[done + i];
            const uint32_t place = of[id < n_ids ? id : 0];
            n_bad += (id >= n_ids) | (place >= n_places);
            found[i] = place;
            /* The smaller one. Which it is nothing predicts, and compilers like to branch. */
            divisors[i] = places->divisors[last ^ ((place ^ last) & (0u - (place < last)))];
        }
        if (n_bad)
            return done;
        memcpy(indices + done, found, m * sizeof *found);
        for (size_t i = 0; i < m; i++)
            data[done + i] = values[done + i] / divisors[i];
    }
    return n;
}

/* All n entries, or an error that counts from the first of them. */
static cf_status place_entries(const cf_kernels *kernels, const cf_places *places,
                               const uint32_t *ids, const float *values, size_t n,
                               uint32_t *indices, float *data) {
    if (n == 0)
        return cf_ok();
    if (places->n_ids == 0 || places->n_divisors == 0)
        return cf_fail(CF_E_ID, 0);
    size_t done = kernels->place_entries(places, ids, values, n, indices, data);
    if (done == n)
        return cf_ok();
    while (ids[done] < places->n_ids && places->of[ids[done]] < places->n_places)
        done++;
    return cf_fail(CF_E_ID, done);
}

cf_status cf_prepare_entries(const cf_kernels *kernels, const cf_places *places, uint32_t *indices,
                             float *data, size_t n) {
    return place_entries(kernels, places, indices, data, n, indices, data);
}

cf_status cf_prepare(const cf_kernels *kernels, const cf_csr *rows, const uint32_t *order,
                     size_t n_order, const cf_places *places, size_t first_entry, float *labels,
                     int64_t *indptr, uint32_t *indices, float *data, float *weights,
                     size_t nnz_room) {
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
        const size_t n = end - begin;
        const cf_status status =
            place_entries(kernels, places, rows->indices + begin, rows->data + begin, n,
                          indices + filled, data + filled);
        if (status.code != CF_OK)
            return cf_fail(status.code, begin + status.offset);
        filled += n;
        labels[i] = rows->labels[order[i]];
        if (rows->weights)
            weights[i] = rows->weights[order[i]];
        indptr[i + 1] = (int64_t)(first_entry + filled);
    }
    return cf_ok();
}
