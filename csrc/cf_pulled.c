#include "cf_pulled.h"

#include <string.h>

#include "cf_bits.h"
#include "cf_id_set.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    WORD_BITS = 64,
    FEW_WORDS = 1 << 14, /* looking at all of so many costs less than noting which are used */
    NEAR_IDS = 1 << 13
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

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

static inline uint64_t bit_of(size_t i) { return (uint64_t)1 << i % WORD_BITS; }

/* Copies the entries' ids; returns the highest. */
static uint32_t gather(const cf_csr *rows, const uint32_t *order, size_t n, uint32_t *ids,
                       size_t *n_entries) {
    size_t filled = 0;
    uint32_t highest = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t begin = (size_t)rows->indptr[order[i]];
        const size_t length = (size_t)rows->indptr[order[i] + 1] - begin;
        for (size_t k = 0; k < length; k++) { /* the compiler makes vectors of it */
            const uint32_t id = rows->indices[begin + k];
            highest = id > highest ? id : highest;
            ids[filled + k] = id;
        }
        filled += length;
    }
    *n_entries = filled;
    return highest;
}

/* Says which ids below NEAR_IDS there are, and copies the others; returns how many. Most entries
 * are near, and many of them the same: to set a bit for each would wait for the one before again
 * and again, where storing a byte waits for nothing. */
static size_t sort_out(const uint32_t *ids, size_t n, uint8_t *near, uint32_t *far) {
    size_t n_far = 0;
    for (size_t k = 0; k < n; k++) {
        const bool is_far = ids[k] >= NEAR_IDS;
        near[is_far ? NEAR_IDS : ids[k]] = 1;
        far[n_far] = ids[k];
        n_far += is_far;
    }
    return n_far;
}

/* Eight bytes of 0 or 1 as bits. */
static inline uint64_t bits_of_bytes(const uint8_t *bytes) {
    return cf_load_u64(bytes) * 0x0102040810204080 >> 56;
}

static inline void set_bits(const cf_pulled_scratch *scratch, bool note_used, const uint8_t *near,
                            const uint32_t *far, size_t n_far) {
    uint64_t *const bits = scratch->bits, *const used = used_words(scratch);
    const size_t n_words = id_words(scratch->n_ids);
    for (size_t word = 0; word < NEAR_IDS / WORD_BITS && word < n_words; word++) {
        uint64_t made = 0;
        for (unsigned i = 0; i < WORD_BITS; i += 8)
            made |= bits_of_bytes(near + word * WORD_BITS + i) << i;
        bits[word] = made;
        if (note_used && made)
            used[word / WORD_BITS] |= bit_of(word);
    }
    for (size_t k = 0; k < n_far; k++) {
        const size_t word = far[k] / WORD_BITS;
        bits[word] |= bit_of(far[k]);
        if (note_used)
            used[word / WORD_BITS] |= bit_of(word);
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

/* Which of 64 words, or less at the end, are not 0. */
static inline uint64_t which_used(const uint64_t *words, size_t n) {
    uint64_t used = 0;
    for (size_t i = 0; i < n; i++)
        used |= (uint64_t)(words[i] != 0) << i;
    return used;
}

#if defined(__x86_64__)
#define CF_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))

CF_AVX2 static inline uint64_t which_used_avx2(const uint64_t *words, size_t n) {
    if (n < WORD_BITS)
        return which_used(words, n);
    uint64_t empty = 0;
    for (unsigned i = 0; i < WORD_BITS; i += 4) {
        const __m256i four = _mm256_loadu_si256((const __m256i *)(words + i));
        const __m256i zero = _mm256_cmpeq_epi64(four, _mm256_setzero_si256());
        empty |= (uint64_t)(unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(zero)) << i;
    }
    return ~empty;
}
#endif

/* `fast`: there is an instruction that counts bits. */
static inline __attribute__((always_inline)) size_t
rank_ids(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids, size_t n, bool fast,
         uint64_t (*which)(const uint64_t *words, size_t n)) {
    const size_t n_words = id_words(scratch->n_ids);
    uint32_t found = 0;
    for (size_t first = 0; first < n_words; first += WORD_BITS) {
        uint64_t *const used = used_words(scratch) + first / WORD_BITS;
        if (find_used)
            *used = which(scratch->bits + first, least(n_words - first, WORD_BITS));
        for (uint64_t some = *used; some; some &= some - 1) {
            const size_t word = first + (unsigned)__builtin_ctzll(some);
            scratch->before[word] = found;
            found += count_bits(scratch->bits[word], fast);
        }
    }
    for (size_t k = 0; k < n; k++) {
        const size_t word = ids[k] / WORD_BITS;
        const uint64_t lower = scratch->bits[word] & (bit_of(ids[k]) - 1);
        ids[k] = scratch->before[word] + count_bits(lower, fast);
    }
    return found;
}

size_t cf_rank_ids_scalar(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids,
                          size_t n) {
#if defined(__aarch64__)
    return rank_ids(scratch, find_used, ids, n, true, which_used);
#else
    return rank_ids(scratch, find_used, ids, n, false, which_used);
#endif
}

#if defined(__x86_64__)
CF_AVX2 size_t cf_rank_ids_avx2(const cf_pulled_scratch *scratch, bool find_used, uint32_t *ids,
                                size_t n) {
    return rank_ids(scratch, find_used, ids, n, true, which_used_avx2);
}
#endif

cf_status cf_pulled_localize(const cf_kernels *kernels, const cf_csr *rows, const uint32_t *order,
                             size_t n, const cf_pulled_scratch *scratch, uint32_t *local,
                             size_t *n_distinct) {
    uint8_t near[NEAR_IDS + 1] = {0};
    size_t n_entries;
    const uint32_t highest = gather(rows, order, n, local, &n_entries);
    *n_distinct = 0;
    if (n_entries && highest >= scratch->n_ids)
        return cf_fail(CF_E_ID, n_entries);
    uint32_t *const far = local + n_entries;
    const size_t n_far = sort_out(local, n_entries, near, far);
    const bool few = id_words(scratch->n_ids) <= FEW_WORDS;
    if (few)
        set_bits(scratch, false, near, far, n_far);
    else
        set_bits(scratch, true, near, far, n_far);
    *n_distinct = kernels->rank_ids(scratch, few, local, n_entries);
    return cf_ok();
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

void cf_pulled_sort(const cf_pulled_scratch *scratch, uint32_t *ids, size_t n) {
    uint64_t *const bits = scratch->bits, *const used = used_words(scratch);
    for (size_t i = 0; i < n; i++) {
        const size_t word = ids[i] / WORD_BITS;
        bits[word] |= bit_of(ids[i]);
        used[word / WORD_BITS] |= bit_of(word);
    }
    cf_pulled_take_ids(scratch, n, ids);
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
