/* The fast path for ordinary lines in AVX2: the primitives of cf_libsvm_vector.h. */
#if defined(__x86_64__)
#define CF_TARGET __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))
#include "cf_libsvm_vector.h"

/* A fixed number of turns for the usual 5 to 12 bits: their count is hard to predict. */
CF_INLINE size_t cf_append_bits(uint16_t *list, size_t n, uint64_t bits, size_t at) {
    const size_t n_bits = (size_t)__builtin_popcountll(bits);
    uint16_t *const to = list + n;
    for (unsigned i = 0; i < 12; i++, bits = _blsr_u64(bits))
        to[i] = (uint16_t)(at + _tzcnt_u64(bits));
    if (__builtin_expect(n_bits > 12, 0))
        for (unsigned i = 12; i < n_bits; i++, bits = _blsr_u64(bits))
            to[i] = (uint16_t)(at + _tzcnt_u64(bits));
    return n + n_bits;
}

CF_INLINE uint64_t mask_of(__m256i low, __m256i high) {
    return (uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high)
                                                     << 32;
}

CF_INLINE uint64_t equal(__m256i low, __m256i high, char c) {
    const __m256i wanted = _mm256_set1_epi8(c);
    return mask_of(_mm256_cmpeq_epi8(low, wanted), _mm256_cmpeq_epi8(high, wanted));
}

/* 0xff where a byte is not a digit: these are above 0x75 as signed bytes after the shift. */
CF_INLINE __m256i not_digits(__m256i bytes) {
    return _mm256_cmpgt_epi8(_mm256_set1_epi8(0x76),
                             _mm256_add_epi8(bytes, _mm256_set1_epi8(0x7f - '9')));
}

CF_INLINE cf_masks cf_mask_block(const uint8_t *p) {
    const __m256i low = _mm256_loadu_si256((const __m256i *)p);
    const __m256i high = _mm256_loadu_si256((const __m256i *)(p + 32));
    const cf_masks masks = {equal(low, high, ' '), equal(low, high, '\n'), equal(low, high, ':'),
                            ~mask_of(not_digits(low), not_digits(high))};
    return masks;
}

/* The 8 bytes before and the 8 from two colons, one in each half. */
CF_INLINE __m256i around(const uint8_t *chunk, unsigned low, unsigned high) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(chunk + low - 8))),
        _mm_loadu_si128((const __m128i *)(chunk + high - 8)), 1);
}

/* The digits at the end of four words as two numbers of four digits each; *full has 0 in the low
 * byte of words that are digits all through. */
CF_INLINE __m256i fours(__m256i words, __m256i *full) {
    __m256i junk = not_digits(words);
    junk = _mm256_or_si256(junk, _mm256_srli_epi64(junk, 8));
    junk = _mm256_or_si256(junk, _mm256_srli_epi64(junk, 16));
    junk = _mm256_or_si256(junk, _mm256_srli_epi64(junk, 32));
    *full = junk;
    const __m256i digits = _mm256_andnot_si256(junk, _mm256_sub_epi8(words, _mm256_set1_epi8('0')));
    const __m256i pairs = _mm256_maddubs_epi16(digits, _mm256_set1_epi16(0x010a));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00010064));
}

/* Appends `at` + the positions of the set bits of a half byte. */
CF_INLINE size_t append_half(uint16_t *list, size_t n, unsigned bits, size_t at) {
    static const uint32_t PLACES[16] = {0,          0,          0x00000001, 0x00000100,
                                        0x00000002, 0x00000200, 0x00000201, 0x00020100,
                                        0x00000003, 0x00000300, 0x00000301, 0x00030100,
                                        0x00000302, 0x00030200, 0x00030201, 0x03020100};
    const __m128i places = _mm_cvtepu8_epi16(_mm_cvtsi32_si128((int)PLACES[bits]));
    _mm_storel_epi64((__m128i *)(list + n), _mm_add_epi16(places, _mm_set1_epi16((short)at)));
    return n + (size_t)__builtin_popcount(bits);
}

CF_TARGET static void cf_convert(const uint8_t *chunk, cf_marks *marks, size_t n, uint32_t base,
                                 uint32_t *indices, float *data) {
    const __m256i bases = _mm256_set1_epi32((int)base), nine = _mm256_set1_epi32(9);
    const __m256i rotation = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
    __m256i before = _mm256_setzero_si256();
    for (unsigned i = 0; i < 8; i++) /* the last turn reads them */
        marks->colons[n + i] = marks->colons[n - 1];
    size_t n_values = 0;
    for (size_t i = 0; i < n; i += 8) {
        const uint16_t *const colons = marks->colons + i;
        const __m256i e04 = around(chunk, colons[0], colons[4]);
        const __m256i e15 = around(chunk, colons[1], colons[5]);
        const __m256i e26 = around(chunk, colons[2], colons[6]);
        const __m256i e37 = around(chunk, colons[3], colons[7]);

        __m256i full_a, full_b;
        const __m256i a = fours(_mm256_unpacklo_epi64(e04, e15), &full_a);
        const __m256i b = fours(_mm256_unpacklo_epi64(e26, e37), &full_b);
        __m256i ids = _mm256_madd_epi16(_mm256_packus_epi32(a, b), _mm256_set1_epi32(0x00012710));
        const unsigned narrow = (unsigned)_mm256_movemask_epi8(_mm256_and_si256(full_a, full_b));
        if (__builtin_expect((narrow & 0x01010101) != 0x01010101, 0)) {
            uint32_t wide[8];
            _mm256_storeu_si256((__m256i *)wide, ids);
            for (unsigned k = 0; k < 8; k++)
                if (!widen_id(chunk + colons[k], &wide[k]))
                    note_odd(marks, i + k);
            ids = _mm256_loadu_si256((const __m256i *)wide);
        }
        const __m256i rotated = _mm256_permutevar8x32_epi32(ids, rotation);
        const __m256i previous = _mm256_blend_epi32(rotated, before, 1);
        before = rotated;
        const __m256i fall = _mm256_cmpeq_epi32(_mm256_max_epu32(ids, previous), previous);
        marks->falls[i / 8] = (uint8_t)_mm256_movemask_ps(_mm256_castsi256_ps(fall));

        /* The colon, the first byte of the value and two more, eight times. */
        const __m256i words = _mm256_castps_si256(
            _mm256_shuffle_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi64(e04, e15)),
                              _mm256_castsi256_ps(_mm256_unpackhi_epi64(e26, e37)), 0x88));
        const __m256i two = _mm256_srli_epi32(_mm256_slli_epi32(words, 8), 16);
        const __m256i to_blank = _mm256_sub_epi32(two, _mm256_set1_epi32(' ' << 8 | '0'));
        const __m256i to_newline = _mm256_sub_epi32(two, _mm256_set1_epi32('\n' << 8 | '0'));
        const __m256i plain =
            _mm256_or_si256(_mm256_cmpeq_epi32(_mm256_min_epu32(to_blank, nine), to_blank),
                            _mm256_cmpeq_epi32(_mm256_min_epu32(to_newline, nine), to_newline));
        const __m256 values =
            _mm256_cvtepi32_ps(_mm256_and_si256(to_blank, _mm256_set1_epi32(0xff)));
        const unsigned other = ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(plain));
        n_values = append_half(marks->values, n_values, other & 15, i);
        n_values = append_half(marks->values, n_values, other >> 4 & 15, i + 4);

        ids = _mm256_sub_epi32(ids, bases);
        if (__builtin_expect(n - i >= 8, 1)) {
            _mm256_storeu_si256((__m256i *)(indices + i), ids);
            _mm256_storeu_ps(data + i, values);
        } else {
            uint32_t last_ids[8];
            float last_values[8];
            _mm256_storeu_si256((__m256i *)last_ids, ids);
            _mm256_storeu_ps(last_values, values);
            memcpy(indices + i, last_ids, (n - i) * sizeof *indices);
            memcpy(data + i, last_values, (n - i) * sizeof *data);
        }
    }
    while (n_values > 0 && marks->values[n_values - 1] >= n)
        n_values--; /* repeats of the last colon */
    marks->n_values = n_values;
}

CF_TARGET size_t cf_libsvm_rows_avx2(const cf_libsvm_options *options, const uint8_t *text,
                                     size_t n, size_t pos, size_t last, cf_libsvm_rows *rows) {
    return read_rows(options, text, n, pos, last, rows);
}
#endif
