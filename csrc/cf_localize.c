#include "cf_localize.h"

enum { PREFETCH_AHEAD = 32 }; /* entries; the table is larger than the nearer caches */

cf_status cf_localize(const uint32_t *ids, size_t nnz, uint32_t *table, size_t n_ids,
                      uint32_t *local, uint32_t *distinct, size_t *n_distinct) {
    uint32_t n = 0;
    distinct[0] = 0;
    *n_distinct = 0;
    if (nnz > UINT32_MAX)
        return cf_fail(CF_E_DISTINCT, UINT32_MAX);
    for (size_t i = 0; i < nnz; i++) {
        const uint32_t id = ids[i];
        if (id >= n_ids)
            return cf_fail(CF_E_ID, i);
        if (i + PREFETCH_AHEAD < nnz && ids[i + PREFETCH_AHEAD] < n_ids)
            __builtin_prefetch(table + ids[i + PREFETCH_AHEAD], 1);
        /* No branch on new or seen: about one entry in three is new, in no pattern. */
        const uint32_t place = table[id];
        const uint32_t inside = place < n ? place : 0;
        const uint32_t seen = (place < n) & (distinct[inside] == id);
        const uint32_t mine = seen ? place : n;
        distinct[n] = seen ? distinct[n] : id;
        n += 1 - seen;
        table[id] = mine;
        local[i] = mine;
    }
    *n_distinct = n;
    return cf_ok();
}

cf_status cf_localize_rows(const cf_csr *rows, const uint32_t *order, size_t n, uint32_t *table,
                           size_t n_ids, uint32_t *local, size_t room, uint32_t *distinct,
                           size_t *n_distinct) {
    size_t filled = 0; /* ids are gathered, then renumbered in place */
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        if (order[i] >= rows->n_rows)
            return cf_fail(CF_E_ROW, i);
        if (!cf_csr_row(rows, order[i], &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        if (end - begin > room - filled)
            return cf_fail(CF_E_ROOM, i);
        for (size_t k = begin; k < end; k++)
            local[filled++] = rows->indices[k];
    }
    return cf_localize(local, filled, table, n_ids, local, distinct, n_distinct);
}
