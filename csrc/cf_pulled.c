#include "cf_pulled.h"

#include <string.h>

#include "cf_bits.h"
#include "cf_id_set.h"

enum {
    WORD_BITS = 64,
    FEW_WORDS = 1 << 14, /* looking at all of so many costs less than noting which are used */
    LANES = 4,
    NEAR_WORDS = 16
};

static size_t id_words(size_t n_ids) { return n_ids / WORD_BITS + 1; }

size_t cf_pulled_words(size_t n_ids) { return id_words(n_ids) + id_words(n_ids) / WORD_BITS + 1; }

static uint64_t *used_words(const cf_pulled_scratch *scratch) {
    return scratch->bits + id_words(scratch->n_ids);
}

cf_status cf_pulled_entries(const cf_csr *rows, const uint32_t *order, size_t n,
                            size_t *n_entries) {
    size_t counted = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin, end;
        if (order[i] >= rows->n_rows)
            return cf_fail(CF_E_ROW, i);
        if (!cf_csr_row(rows, order[i], &begin, &end))
            return cf_fail(CF_E_INDPTR, i);
        counted += end - begin;
    }
    *n_entries = counted;
    return cf_ok();
}

static cf_status gather(const cf_csr *rows, const uint32_t *order, size_t n, size_t n_ids,
                        uint32_t *ids, size_t *n_entries) {
    size_t filled = 0;
    uint32_t highest = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t begin = (size_t)rows->indptr[order[i]];
        const size_t length = (size_t)rows->indptr[order[i] + 1] - begin;
        for (size_t k = 0; k < length; k++) {
            const uint32_t id = rows->indices[begin + k];
            highest = id > highest ? id : highest;
            ids[filled + k] = id;
        }
        filled += length;
    }
    *n_entries = filled;
    return filled && highest >= n_ids ? cf_fail(CF_E_ID, 0) : cf_ok();
}

static inline uint64_t bit_of(size_t i) { return (uint64_t)1 << i % WORD_BITS; }

/* The most popular ids share few words: writing to one of those at once after the other would wait
 * for it each time, so neighbours write to copies. */
static inline void set_bits(const cf_pulled_scratch *scratch, bool note_used, const uint32_t *ids,
                            size_t n) {
    uint64_t near[LANES][NEAR_WORDS] = {{0}}, nothing[LANES] = {0};
    uint64_t *const bits = scratch->bits, *const used = used_words(scratch);
    const size_t n_words = id_words(scratch->n_ids);
    for (size_t k = 0; k < n; k++) {
        const size_t lane = k % LANES, word = ids[k] / WORD_BITS;
        *(word < NEAR_WORDS ? &near[lane][word] : &bits[word]) |= bit_of(ids[k]);
        if (note_used)
            *(word < NEAR_WORDS ? &nothing[lane] : &used[word / WORD_BITS]) |= bit_of(word);
    }
    for (size_t word = 0; word < NEAR_WORDS && word < n_words; word++) {
        for (size_t lane = 0; lane < LANES; lane++)
            bits[word] |= near[lane][word];
        if (note_used && bits[word])
            used[0] |= bit_of(word);
    }
}

static inline unsigned count_bits(uint64_t word, bool by_instruction) {
    if (by_instruction)
        return (unsigned)__builtin_popcountll(word);
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (unsigned)(word * 0x0101010101010101 >> 56);
}

static inline __attribute__((always_inline)) size_t rank_ids(const cf_pulled_scratch *scratch,
                                                             bool find_used, uint32_t *ids,
                                                             size_t n, bool by_instruction) {
    const uint64_t *const bits = scratch->bits;
    uint64_t *const used = used_words(scratch);
    uint32_t *const before = scratch->before;
    const size_t n_words = id_words(scratch->n_ids);
    uint32_t found = 0;
    for (size_t first = 0; first < n_words; first += WORD_BITS) {
        const size_t these = n_words - first < WORD_BITS ? n_words - first : WORD_BITS;
        uint64_t some = used[first / WORD_BITS];
        if (find_used) {
            for (size_t i = 0; i < these; i++)
                some |= (uint64_t)(bits[first + i] != 0) << i;
            used[first / WORD_BITS] = some;
        }
        for (; some; some &= some - 1) {
            const size_t word = first + (unsigned)__builtin_ctzll(some);
            before[word] = found;
            found += count_bits(bits[word], by_instruction);
        }
    }
    for (size_t k = 0; k < n; k++) {
        const size_t word = ids[k] / WORD_BITS;
        const uint64_t lower = bits[word] & (bit_of(ids[k]) - 1);
        ids[k] = before[word] + count_bits(lower, by_instruction);
    }
    return found;
}

size_t cf_rank_ids_scalar(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids,
                          size_t n) {
#if defined(__aarch64__)
    return rank_ids(scratch, find_used, ids, n, true);
#else
    return rank_ids(scratch, find_used, ids, n, false);
#endif
}

#if defined(__x86_64__)
__attribute__((target("popcnt,bmi,bmi2"))) size_t
cf_rank_ids_popcnt(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids, size_t n) {
    return rank_ids(scratch, find_used, ids, n, true);
}
#endif

cf_status cf_pulled_localize(const cf_kernels *kernels, const cf_csr *rows, const uint32_t *order,
                             size_t n, const cf_pulled_scratch *scratch, uint32_t *local,
                             size_t *n_distinct) {
    size_t n_entries;
    *n_distinct = 0;
    const cf_status status = gather(rows, order, n, scratch->n_ids, local, &n_entries);
    if (status.code != CF_OK)
        return status;
    const bool few = id_words(scratch->n_ids) <= FEW_WORDS;
    if (few)
        set_bits(scratch, false, local, n_entries);
    else
        set_bits(scratch, true, local, n_entries);
    *n_distinct = kernels->rank_ids(scratch, few, local, n_entries);
    return status;
}

/* The length of the bitmap that makes the set shortest (cf_id_set.h): a word pays where it has over
 * 4 ids. */
static size_t best_words(const cf_pulled_scratch *scratch, size_t n_distinct) {
    const uint64_t *const used = used_words(scratch);
    const size_t n_words = id_words(scratch->n_ids);
    size_t best = 0, words = 0; /* up to and with the used word before */
    int64_t most_saved = 0;
    for (size_t first = 0; first < n_words && words <= n_distinct / 4; first += WORD_BITS)
        for (uint64_t some = used[first / WORD_BITS]; some; some &= some - 1) {
            const size_t word = first + (unsigned)__builtin_ctzll(some);
            const int64_t saved = 2 * (int64_t)scratch->before[word] - 8 * (int64_t)words;
            best = saved > most_saved ? words : best;
            most_saved = saved > most_saved ? saved : most_saved;
            words = word + 1;
        }
    return 2 * (int64_t)n_distinct - 8 * (int64_t)words > most_saved ? words : best;
}

size_t cf_pulled_write_set(const cf_pulled_scratch *scratch, size_t n_distinct, uint8_t *out) {
    uint64_t *const bits = scratch->bits, *const used = used_words(scratch);
    const size_t n_words = id_words(scratch->n_ids), dense = best_words(scratch, n_distinct);
    uint8_t *at = cf_id_set_begin(out);
    for (size_t word = 0; word < dense; word++, at += 8) {
        cf_store_u64(at, bits[word]);
        bits[word] = 0;
    }
    cf_id_set_tail tail = cf_id_set_tail_begin(at, dense);
    for (size_t first = 0; first < n_words; first += WORD_BITS) {
        for (uint64_t some = used[first / WORD_BITS]; some; some &= some - 1) {
            const size_t word = first + (unsigned)__builtin_ctzll(some);
            for (uint64_t ids = bits[word]; ids; ids &= ids - 1)
                cf_id_set_put(&tail, word * WORD_BITS + (unsigned)__builtin_ctzll(ids));
            bits[word] = 0;
        }
        used[first / WORD_BITS] = 0;
    }
    return cf_id_set_end(out, dense, &tail);
}

void cf_pulled_take_ids(const cf_pulled_scratch *scratch, size_t n_distinct, uint32_t *ids) {
    uint64_t *const bits = scratch->bits, *const used = used_words(scratch);
    const size_t n_words = id_words(scratch->n_ids);
    size_t taken = 0;
    for (size_t first = 0; first < n_words; first += WORD_BITS) {
        for (uint64_t some = used[first / WORD_BITS]; some; some &= some - 1) {
            const size_t word = first + (unsigned)__builtin_ctzll(some);
            for (uint64_t left = bits[word]; left && taken < n_distinct; left &= left - 1)
                ids[taken++] = (uint32_t)(word * WORD_BITS + (unsigned)__builtin_ctzll(left));
            bits[word] = 0;
        }
        used[first / WORD_BITS] = 0;
    }
}

cf_status cf_pulled_gradient(const cf_minibatch *batch, size_t n_entries, const float *w,
                             size_t n_local, float intercept, float *gradient, float *touches,
                             cf_gradient_total *total) {
    size_t counted;
    const cf_status status = cf_pulled_entries(batch->rows, batch->order, batch->n, &counted);
    if (status.code != CF_OK)
        return status;
    if (counted != n_entries)
        return cf_fail(CF_E_INDPTR, n_entries);
    *total = cf_gradient_sum(batch, w, n_local, intercept, gradient, touches);
    return status;
}
