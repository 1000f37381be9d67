#include "cf_pulled.h"

enum { WORD_BITS = 64, FEW_WORDS = 1 << 14 };

/* A bit for each id, and behind them a bit for each word of those, so that what is empty of a large
 * model is passed over quickly. */
static size_t id_words(size_t n_ids) { return n_ids / WORD_BITS + 1; }

size_t cf_pulled_words(size_t n_ids) { return id_words(n_ids) + id_words(n_ids) / WORD_BITS + 1; }

static cf_status gather(const cf_csr *rows, const uint32_t *order, size_t n, size_t n_ids,
                        uint32_t *ids, size_t room, size_t *n_entries) {
    size_t filled = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        if (order[i] >= rows->n_rows)
            return cf_fail(CF_E_ROW, i);
        if (!cf_csr_row(rows, order[i], &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        if (end - begin > room - filled)
            return cf_fail(CF_E_ROOM, i);
        uint32_t highest = 0;
        for (size_t k = begin; k < end; k++) {
            highest = rows->indices[k] > highest ? rows->indices[k] : highest;
            ids[filled + k - begin] = rows->indices[k];
        }
        if (begin != end && highest >= n_ids)
            return cf_fail(CF_E_ID, i);
        filled += end - begin;
    }
    *n_entries = filled;
    return cf_ok();
}

/* Takes the ids of word w, which follow `found` others. Bits that were not 0 before may be of ids
 * that cannot be, or more than there is room for: those are left out. */
static inline uint32_t take_word(const cf_pulled_scratch *scratch, size_t w, uint32_t found,
                                 uint32_t *ids, size_t room) {
    for (uint64_t word = scratch->bits[w]; word; word &= word - 1) {
        const uint32_t id = (uint32_t)(w * WORD_BITS + (unsigned)__builtin_ctzll(word));
        if (found == room || id >= scratch->n_ids)
            break;
        scratch->table[id] = found;
        ids[found++] = id;
    }
    scratch->bits[w] = 0;
    return found;
}

/* Looks at every word: where there are few, that costs less than telling which are not 0. */
static size_t find_few(const cf_pulled_scratch *scratch, const uint32_t *entries, size_t n,
                       uint32_t *ids, size_t room) {
    const size_t n_words = id_words(scratch->n_ids);
    uint32_t found = 0;
    for (size_t k = 0; k < n; k++)
        scratch->bits[entries[k] / WORD_BITS] |= (uint64_t)1 << entries[k] % WORD_BITS;
    for (size_t w = 0; w < n_words; w++)
        found = take_word(scratch, w, found, ids, room);
    return found;
}

static size_t find_many(const cf_pulled_scratch *scratch, const uint32_t *entries, size_t n,
                        uint32_t *ids, size_t room) {
    uint64_t *const used = scratch->bits + id_words(scratch->n_ids);
    const size_t n_used = id_words(scratch->n_ids) / WORD_BITS + 1;
    uint32_t found = 0;
    for (size_t k = 0; k < n; k++) {
        const size_t word = entries[k] / WORD_BITS;
        scratch->bits[word] |= (uint64_t)1 << entries[k] % WORD_BITS;
        used[word / WORD_BITS] |= (uint64_t)1 << word % WORD_BITS;
    }
    for (size_t i = 0; i < n_used; i++) {
        for (uint64_t some = used[i]; some; some &= some - 1)
            found = take_word(scratch, i * WORD_BITS + (unsigned)__builtin_ctzll(some), found, ids,
                              room);
        used[i] = 0;
    }
    return found;
}

cf_status cf_pulled_localize(const cf_csr *rows, const uint32_t *order, size_t n,
                             const cf_pulled_scratch *scratch, uint32_t *local, uint32_t *ids,
                             size_t room, size_t *n_entries, size_t *n_distinct) {
    *n_entries = *n_distinct = 0;
    const cf_status status = gather(rows, order, n, scratch->n_ids, local, room, n_entries);
    if (status.code != CF_OK)
        return status;
    const size_t n_words = id_words(scratch->n_ids);
    *n_distinct = n_words <= FEW_WORDS ? find_few(scratch, local, *n_entries, ids, room)
                                       : find_many(scratch, local, *n_entries, ids, room);
    for (size_t k = 0; k < *n_entries; k++)
        local[k] = scratch->table[local[k]];
    return cf_ok();
}

cf_status cf_pulled_gradient(const cf_minibatch *batch, size_t n_entries, const float *w,
                             size_t n_local, float intercept, float *gradient, float *touches,
                             cf_gradient_total *total) {
    size_t counted = 0;
    uint32_t highest = 0;
    for (size_t i = 0; i < batch->n; i++) {
        size_t begin, end;
        if (batch->order[i] >= batch->rows->n_rows)
            return cf_fail(CF_E_ROW, i);
        if (!cf_csr_row(batch->rows, batch->order[i], &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        counted += end - begin;
    }
    for (size_t k = 0; k < n_entries; k++) /* a maximum: the compiler makes vectors of it */
        highest = batch->local[k] > highest ? batch->local[k] : highest;
    if (counted != n_entries || (n_entries && highest >= n_local))
        return cf_fail(CF_E_ID, n_entries);
    *total = cf_gradient_sum(batch, w, n_local, intercept, gradient, touches);
    return cf_ok();
}
