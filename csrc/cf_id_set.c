#include "cf_id_set.h"

#include "cf_bits.h"

enum { WORD_BITS = 64, WORD_BYTES = 8, STEP_BYTES = 2, SKIP = CF_ID_SET_SKIP };

bool cf_ids_increase(const uint32_t *ids, size_t n, size_t n_ids) {
    bool increase = n == 0 || ids[n - 1] < n_ids;
    for (size_t i = 1; i < n; i++)
        increase &= ids[i] > ids[i - 1];
    return increase;
}

size_t cf_id_set_bound(size_t n, size_t n_ids) {
    return CF_ID_SET_HEAD + STEP_BYTES * (n + n_ids / SKIP + 1);
}

/* The length of the bitmap that makes the set shortest: a word pays where it has over 4 ids. */
static size_t best_words(const uint32_t *ids, size_t n) {
    size_t best = 0;
    int64_t most_saved = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t words = ids[i] / WORD_BITS + 1;
        if (i + 1 < n && ids[i + 1] / WORD_BITS + 1 == words)
            continue;
        const int64_t saved = (int64_t)(STEP_BYTES * (i + 1)) - (int64_t)(WORD_BYTES * words);
        if (saved > most_saved) {
            most_saved = saved;
            best = words;
        }
    }
    return best;
}

size_t cf_id_set_write(const uint32_t *ids, size_t n, uint8_t *out) {
    const size_t n_words = best_words(ids, n);
    uint8_t *at = cf_id_set_begin(out);
    size_t i = 0;
    for (size_t w = 0; w < n_words; w++, at += WORD_BYTES) {
        uint64_t word = 0;
        for (; i < n && ids[i] / WORD_BITS == w; i++)
            word |= (uint64_t)1 << ids[i] % WORD_BITS;
        cf_store_u64(at, word);
    }
    cf_id_set_tail tail = cf_id_set_tail_begin(at, n_words);
    for (; i < n; i++)
        cf_id_set_put(&tail, ids[i]);
    return cf_id_set_end(out, n_words, &tail);
}

size_t cf_id_set_end(uint8_t *out, size_t n_words, const cf_id_set_tail *tail) {
    const uint8_t *const first_step = out + CF_ID_SET_HEAD + n_words * WORD_BYTES;
    cf_store_u32(out, (uint32_t)n_words);
    cf_store_u32(out + 4, (uint32_t)((size_t)(tail->at - first_step) / STEP_BYTES));
    return (size_t)(tail->at - out);
}

cf_status cf_id_set_read(const uint8_t **at, const uint8_t *end, size_t n, size_t n_ids,
                         uint32_t *ids) {
    const uint8_t *p = *at;
    if ((size_t)(end - p) < CF_ID_SET_HEAD)
        return cf_fail(CF_E_MESSAGE, 0);
    const size_t n_words = cf_load_u32(p), n_steps = cf_load_u32(p + 4);
    p += CF_ID_SET_HEAD;
    const size_t left = (size_t)(end - p);
    if (n_words > left / WORD_BYTES || n_steps > (left - n_words * WORD_BYTES) / STEP_BYTES ||
        n_words > (n_ids + WORD_BITS - 1) / WORD_BITS)
        return cf_fail(CF_E_MESSAGE, 0);
    size_t i = 0;
    for (size_t w = 0; w < n_words; w++, p += WORD_BYTES) {
        for (uint64_t word = cf_load_u64(p); word; word &= word - 1) {
            if (i == n)
                return cf_fail(CF_E_MESSAGE, i);
            ids[i++] = (uint32_t)(w * WORD_BITS + (unsigned)__builtin_ctzll(word));
        }
    }
    if (i && ids[i - 1] >= n_ids)
        return cf_fail(CF_E_MESSAGE, i);
    uint64_t next = (uint64_t)n_words * WORD_BITS;
    for (size_t k = 0; k < n_steps; k++, p += STEP_BYTES) {
        const uint32_t step = cf_load_u16(p);
        next += step;
        if (step == SKIP)
            continue;
        if (i == n || next >= n_ids)
            return cf_fail(CF_E_MESSAGE, i);
        ids[i++] = (uint32_t)next++;
    }
    if (i != n)
        return cf_fail(CF_E_MESSAGE, i);
    *at = p;
    return cf_ok();
}
