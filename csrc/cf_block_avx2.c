/* The kernels of cf_block_streams.h for AVX2.
 *
 * Rows are written in whole vectors: what lies behind a run is overwritten by the next one, so no
 * loop asks how many are left. The last rows of a block, where that would leave the arrays, go to
 * the scalar kernels.
 */
#include "cf_block_rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))

enum { LANES = 8 };

TARGET static cf_block_survey survey(const cf_block_streams *s, const cf_block_position *p,
                                     uint32_t n_rows, int64_t first, int64_t *ends) {
    return cf_block_survey_inline(s, p, n_rows, first, ends);
}

/* Eight codes of a tier, the first of them the i-th. */
TARGET static inline __m256i load_codes(const uint8_t *codes, unsigned tier, uint32_t i) {
    if (tier == 1)
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(codes + i)));
    if (tier == 3)
        return _mm256_cvtepu16_epi32(
            _mm_loadu_si128((const __m128i *)(const void *)(codes + 2 * (size_t)i)));
    /* Two codes in three bytes; if the first one starts in the middle of a byte, the even lanes
     * are shifted instead of the odd ones. */
    const uint32_t odd = i & 1;
    const __m256i bytes = _mm256_broadcastsi128_si256(
        _mm_loadu_si128((const __m128i *)(const void *)(codes + (i + (size_t)(i >> 1)))));
    const __m256i even_places =
        _mm256_setr_epi8(0, 1, -1, -1, 1, 2, -1, -1, 3, 4, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 7, 8,
                         -1, -1, 9, 10, -1, -1, 10, 11, -1, -1);
    const __m256i odd_places =
        _mm256_setr_epi8(0, 1, -1, -1, 2, 3, -1, -1, 3, 4, -1, -1, 5, 6, -1, -1, 6, 7, -1, -1, 8, 9,
                         -1, -1, 9, 10, -1, -1, 11, 12, -1, -1);
    const __m256i shifts = _mm256_xor_si256(_mm256_set_epi32(4, 0, 4, 0, 4, 0, 4, 0),
                                            _mm256_set1_epi32((int)(4 * odd)));
    const __m256i both = _mm256_shuffle_epi8(bytes, odd ? odd_places : even_places);
    return _mm256_and_si256(_mm256_srlv_epi32(both, shifts), _mm256_set1_epi32(0xfff));
}

TARGET static inline int expand_tier(const uint8_t *codes, unsigned tier, uint32_t i, uint32_t n,
                                     uint32_t size, const uint32_t *ids, uint32_t *out) {
    const uint32_t whole = n & ~(uint32_t)(LANES - 1);
    if (size < cf_tier_room(tier)) {
        __m256i largest = _mm256_setzero_si256();
        for (uint32_t k = 0; k < whole; k += LANES)
            largest = _mm256_max_epu32(largest, load_codes(codes, tier, i + k));
        const __m256i limit = _mm256_set1_epi32((int)size);
        if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(limit, largest)) != -1 && whole != 0)
            return 0;
    }
    for (uint32_t k = 0; k < whole; k += LANES) {
        __m256i found = load_codes(codes, tier, i + k);
        if (ids != NULL)
            found = _mm256_i32gather_epi32((const int *)(const void *)ids, found, 4);
        _mm256_storeu_si256((__m256i *)(void *)(out + k), found);
    }
    return cf_block_scalar.expand(codes, tier, i + whole, n - whole, size, ids, out + whole);
}

TARGET static int expand(const uint8_t *codes, unsigned tier, uint32_t i, uint32_t n, uint32_t size,
                         const uint32_t *ids, uint32_t *out) {
    if (tier == 1)
        return expand_tier(codes, 1, i, n, size, ids, out);
    if (tier == 2)
        return expand_tier(codes, 2, i, n, size, ids, out);
    return expand_tier(codes, 3, i, n, size, ids, out);
}

TARGET static void expand_outside(const uint8_t *bytes, unsigned width, uint32_t n, uint32_t *out) {
    if (width == 4) {
        if (n != 0)
            memcpy(out, bytes, 4 * (size_t)n);
        return;
    }
    char places[16];
    for (unsigned i = 0; i < 16; i++)
        places[i] = (char)(i % 4 < width ? i / 4 * width + i % 4 : 0x80);
    const __m128i shuffle = _mm_loadu_si128((const __m128i *)(const void *)places);
    const uint32_t whole = n & ~(uint32_t)3;
    for (uint32_t i = 0; i < whole; i += 4) {
        const __m128i four =
            _mm_loadu_si128((const __m128i *)(const void *)(bytes + (size_t)width * i));
        _mm_storeu_si128((__m128i *)(void *)(out + i), _mm_shuffle_epi8(four, shuffle));
    }
    cf_block_scalar.expand_outside(bytes + (size_t)width * whole, width, n - whole, out + whole);
}

/* Lanes of a byte's bits: which, one after the other. */
TARGET static inline __m256i lanes_of(const uint64_t *spread, unsigned byte) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(spread + byte)));
}

TARGET static void place_ids(const cf_block_streams *s, const cf_block_position *p, uint32_t n_rows,
                             const cf_block_sources *from, uint32_t *out, size_t room) {
    const uint32_t bytes = s->dictionary->bitmap_bytes;
    const uint64_t *spread = s->dictionary->spread;
    cf_block_position q = *p;
    cf_block_sources rest = *from;
    const uint32_t *const end = out + room;
    for (; n_rows != 0; n_rows--, q.row++) {
        uint32_t n[CF_BLOCK_COUNTS], more = q.more;
        cf_block_row_counts(s, q.row, &more, n);
        const uint64_t most = (uint64_t)n[0] + n[1] + n[2] + n[3] + 8 * bytes + LANES;
        if (most > (size_t)(end - out))
            break;
        q.more = more;
        const uint8_t *bitmap = s->bitmaps + (size_t)q.row * bytes;
        for (uint32_t k = 0; k < bytes; k++) {
            const __m256i members =
                _mm256_loadu_si256((const __m256i *)(const void *)(from->bitmap + 8 * (size_t)k));
            _mm256_storeu_si256((__m256i *)(void *)out,
                                _mm256_permutevar8x32_epi32(members, lanes_of(spread, bitmap[k])));
            out += _mm_popcnt_u32(bitmap[k]);
        }
        for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
            const uint32_t *codes = rest.codes[t];
            uint32_t i = 0;
            do {
                _mm256_storeu_si256((__m256i *)(void *)(out + i),
                                    _mm256_loadu_si256((const __m256i *)(const void *)(codes + i)));
                i += LANES;
            } while (i < n[t]);
            out += n[t];
            rest.codes[t] = codes + n[t];
        }
    }
    cf_block_place_ids_scalar(s, &q, n_rows, &rest, out, (size_t)(end - out));
}

/* Codes that were escapes: bit i of `escapes` is the i-th of the members of this byte. */
static int place_escapes(const cf_block_streams *s, cf_block_position *p, uint32_t first_rank,
                         unsigned members, unsigned escapes, float *data) {
    for (unsigned i = 0; members != 0; members &= members - 1, i++)
        if (escapes >> i & 1 &&
            !cf_block_second_value(s, p, first_rank + (uint32_t)__builtin_ctz(members), data + i))
            return 0;
    return 1;
}

TARGET static int place_values(const cf_block_streams *s, cf_block_position *p, uint32_t n_rows,
                               int64_t first, const int64_t *ends, float *data, size_t room) {
    const cf_dictionary *d = s->dictionary;
    const uint32_t bytes = d->bitmap_bytes, n_tables = d->n_narrow + d->n_wide;
    const uint32_t narrow_bytes = (d->n_narrow + 7) / 8;
    const __m256 ones = _mm256_set1_ps(1.0f);
    if (n_rows == 0)
        return 1;
    uint32_t e = p->entry;
    const uint32_t last = (uint32_t)(ends[n_rows - 1] - first);
    for (uint32_t i = e; i < last; i += LANES) {
        if (room - i < LANES) {
            for (; i < last; i++)
                data[i] = 1.0f;
            break;
        }
        _mm256_storeu_ps(data + i, ones);
    }
    if (n_tables == 0)
        return 1;
    cf_block_position q = *p;
    const __m256i lanes = _mm256_setr_epi32(0, 256, 512, 768, 1024, 1280, 1536, 1792);
    for (uint32_t row = 0; row < n_rows; row++) {
        if (room - e < n_tables + 2 * LANES) {
            q.row = p->row + row;
            q.entry = e;
            const int fine =
                cf_block_place_values_scalar(s, &q, n_rows - row, first, ends + row, data, room);
            q.row = p->row;
            q.entry = p->entry;
            *p = q;
            return fine;
        }
        const uint8_t *bitmap = s->bitmaps + (size_t)(p->row + row) * bytes;
        float *at = data + e;
        for (uint32_t k = 0; k < narrow_bytes; k++) {
            const uint32_t left = d->n_narrow - 8 * k;
            const unsigned members = bitmap[k] & (left >= 8 ? 0xffu : (1u << left) - 1);
            const unsigned n = (unsigned)_mm_popcnt_u32(members);
            const __m128i codes =
                _mm_loadl_epi64((const __m128i *)(const void *)(s->narrow + q.narrow));
            const __m256i tables = _mm256_permutevar8x32_epi32(lanes, lanes_of(d->spread, members));
            const __m256i places = _mm256_add_epi32(tables, _mm256_cvtepu8_epi32(codes));
            _mm256_storeu_ps(at, _mm256_i32gather_ps(d->narrow + 2048 * (size_t)k, places, 4));
            const unsigned escapes =
                (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(codes, _mm_set1_epi8(-1))) &
                ((1u << n) - 1);
            q.narrow += n;
            if (escapes != 0 && !place_escapes(s, &q, 8 * k, members, escapes, at))
                return 0;
            at += n;
        }
        for (uint32_t rank = d->n_narrow; rank < n_tables; rank++)
            if (bitmap[rank >> 3] >> (rank & 7) & 1 && !cf_block_wide_value(s, &q, rank, at++))
                return 0;
        _mm256_storeu_ps(at, ones);
        e = (uint32_t)(ends[row] - first);
    }
    *p = q;
    return 1;
}

TARGET static uint32_t rebase(uint32_t *ids, size_t n, uint32_t base) {
    return cf_rebase_inline(ids, n, base);
}

const cf_block_kernels cf_block_avx2 = {
    .survey = survey,
    .expand = expand,
    .expand_outside = expand_outside,
    .place_ids = place_ids,
    .place_values = place_values,
    .rebase = rebase,
    .sort = cf_block_sort_avx2,
};
#endif
