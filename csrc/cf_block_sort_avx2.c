/* cf_block_sort.h for AVX2: eight entries at a time. Each list takes its own by a comparison with
 * its kind and a permutation that brings them together. */
#include "cf_block_sort.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))

enum { LANES = 8 };

/* Places of ids that lie one behind the other. One by one, since a gather takes longer on many
 * CPUs; in a loop of its own, which runs far ahead of what it waits for. */
TARGET static void look_up(const cf_dictionary_index *index, const uint32_t *ids, size_t n,
                           uint32_t *places) {
    const uint32_t *const direct = index->direct;
    size_t i = 0;
    if (direct == NULL) {
        for (; i < n; i++)
            places[i] = cf_dictionary_place(index, ids[i]);
        return;
    }
    const uint32_t n_direct = index->n_direct;
    const __m256i limit = _mm256_set1_epi32((int)n_direct);
    for (; i + LANES <= n; i += LANES) {
        const __m256i next = _mm256_loadu_si256((const __m256i *)(const void *)(ids + i));
        uint32_t known[LANES];
        _mm256_storeu_si256((__m256i *)(void *)known, _mm256_min_epu32(next, limit));
        for (unsigned k = 0; k < LANES; k++)
            places[i + k] = direct[known[k]];
    }
    for (; i < n; i++)
        places[i] = direct[ids[i] < n_direct ? ids[i] : n_direct];
}

/* From LANES - n on: -1 in the first n lanes. */
static const int32_t THERE[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};

TARGET static inline unsigned lanes_where(__m256i mask) {
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(mask));
}

TARGET static inline unsigned lanes_of(__m256i kinds, unsigned kind) {
    return lanes_where(_mm256_cmpeq_epi32(kinds, _mm256_set1_epi32((int)kind)));
}

/* Which bytes come first, to bring the lanes of a mask together. */
TARGET static inline __m128i order_of(const uint64_t *spread, unsigned mask) {
    return _mm_loadl_epi64((const __m128i *)(const void *)(spread + mask));
}

TARGET static inline void put_wide(uint32_t *list, __m256i items, __m128i order) {
    const __m256i together = _mm256_permutevar8x32_epi32(items, _mm256_cvtepu8_epi32(order));
    _mm256_storeu_si256((__m256i *)(void *)list, together);
}

TARGET static inline void put_half(uint16_t *list, __m128i items, const uint8_t *order) {
    const __m128i together = _mm_shuffle_epi8(items, _mm_loadu_si128((const __m128i *)order));
    _mm_storeu_si128((__m128i *)(void *)list, together);
}

/* All eight or-ed together. */
TARGET static inline uint32_t united(__m256i bits) {
    __m128i half = _mm_or_si128(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    half = _mm_or_si128(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_or_si128(half, _mm_shuffle_epi32(half, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(half);
}

TARGET int cf_block_sort_avx2(const cf_block_input *rows, size_t row, size_t n_rows,
                              const cf_dictionary_index *index, cf_block_sorted *sorted,
                              uint8_t *bitmaps, uint32_t *counts) {
    const uint32_t n_bytes = index->dictionary->bitmap_bytes;
    const uint64_t *const spread = index->dictionary->spread;
    if (spread == NULL || n_bytes > 8)
        return cf_block_sort_scalar(rows, row, n_rows, index, sorted, bitmaps, counts);
    if (cf_count_falls(rows, row, n_rows) != 0)
        return 0;
    const int64_t first = rows->indptr[row];
    uint32_t *const places = sorted->work[0];
    look_up(index, rows->indices + first, (size_t)(rows->indptr[row + n_rows] - first), places);

    uint8_t *eight = sorted->eight + sorted->n[0];
    uint16_t *twelve = sorted->twelve + sorted->n[1], *sixteen = sorted->sixteen + sorted->n[2];
    uint32_t *outside = sorted->outside + sorted->n[3];
    uint32_t n_valued[2] = {0, 0};
    const __m256i one = _mm256_set1_epi32(1), all = _mm256_set1_epi32(-1);
    const __m256i low_half = _mm256_set1_epi32(0xffff);
    for (size_t i = 0; i < n_rows; i++) {
        const int64_t end = rows->indptr[row + i + 1];
        const uint8_t *const eight_from = eight;
        const uint16_t *const twelve_from = twelve, *const sixteen_from = sixteen;
        const uint32_t *const outside_from = outside;
        __m256i low = _mm256_setzero_si256(), high = low;
        for (int64_t e = rows->indptr[row + i]; e < end; e += LANES) {
            const int64_t here = end - e < LANES ? end - e : LANES;
            const __m256i there =
                _mm256_loadu_si256((const __m256i *)(const void *)(THERE + LANES - here));
            const __m256i found = _mm256_or_si256(
                _mm256_loadu_si256((const __m256i *)(const void *)(places + (e - first))),
                _mm256_xor_si256(there, all));
            const __m256i kinds = _mm256_srli_epi32(found, CF_KIND_SHIFT); /* of none no kind */
            const __m256i numbers = _mm256_and_si256(found, low_half);
            const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(numbers),
                                                    _mm256_extracti128_si256(numbers, 1));
            unsigned mask = lanes_of(kinds, CF_KIND_8);
            const __m128i bytes = _mm_packus_epi16(halves, halves);
            _mm_storel_epi64((__m128i *)(void *)eight,
                             _mm_shuffle_epi8(bytes, order_of(spread, mask)));
            eight += _mm_popcnt_u32(mask);
            mask = lanes_of(kinds, CF_KIND_12);
            put_half(twelve, halves, index->pair_order[mask]);
            twelve += _mm_popcnt_u32(mask);
            mask = lanes_of(kinds, CF_KIND_16);
            put_half(sixteen, halves, index->pair_order[mask]);
            sixteen += _mm_popcnt_u32(mask);
            /* Others are shifted out. */
            const __m256i members =
                _mm256_or_si256(numbers, _mm256_cmpgt_epi32(kinds, _mm256_set1_epi32(CF_KIND_BIT)));
            low = _mm256_or_si256(low, _mm256_sllv_epi32(one, members));
            if (n_bytes > 4)
                high = _mm256_or_si256(
                    high, _mm256_sllv_epi32(one, _mm256_sub_epi32(members, _mm256_set1_epi32(32))));
            mask = lanes_of(kinds, CF_KIND_OUTSIDE);
            put_wide(outside,
                     _mm256_maskload_epi32((const int *)(const void *)(rows->indices + e), there),
                     order_of(spread, mask));
            outside += _mm_popcnt_u32(mask);
            if (lanes_where(_mm256_cmpgt_epi32(_mm256_set1_epi32(CF_KIND_BIT), kinds)) == 0)
                continue;
            const __m256i values =
                _mm256_maskload_epi32((const int *)(const void *)(rows->data + e), there);
            for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_WIDE; k++) {
                mask = lanes_of(kinds, k);
                const __m128i order = order_of(spread, mask);
                put_wide(sorted->tables[k] + n_valued[k], numbers, order);
                put_wide(sorted->values[k] + n_valued[k], values, order);
                n_valued[k] += (uint32_t)_mm_popcnt_u32(mask);
            }
        }
        counts[CF_BLOCK_COUNTS * i] = (uint32_t)(eight - eight_from);
        counts[CF_BLOCK_COUNTS * i + 1] = (uint32_t)(twelve - twelve_from);
        counts[CF_BLOCK_COUNTS * i + 2] = (uint32_t)(sixteen - sixteen_from);
        counts[CF_BLOCK_COUNTS * i + 3] = (uint32_t)(outside - outside_from);
        sorted->valued_ends[i][0] = n_valued[0];
        sorted->valued_ends[i][1] = n_valued[1];
        if (n_bytes != 0)
            cf_store_u64(bitmaps + i * n_bytes, united(low) | (uint64_t)united(high) << 32);
    }
    sorted->n[0] = (uint32_t)(eight - sorted->eight);
    sorted->n[1] = (uint32_t)(twelve - sorted->twelve);
    sorted->n[2] = (uint32_t)(sixteen - sorted->sixteen);
    sorted->n[3] = (uint32_t)(outside - sorted->outside);
    memcpy(sorted->n_valued, n_valued, sizeof n_valued);
    return 1;
}
#endif
