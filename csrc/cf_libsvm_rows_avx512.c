/* The fast path for ordinary lines in AVX-512: the primitives of cf_libsvm_vector.h. */
#if defined(__x86_64__)
#define CF_TARGET                                                                                  \
    __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,"         \
                          "avx512cd,avx512vbmi,avx512vbmi2")))
#include "cf_libsvm_vector.h"

CF_INLINE size_t cf_append_bits(uint16_t *list, size_t n, uint64_t bits, size_t at) {
    const __m512i places = _mm512_set_epi8(
        63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41,
        40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18,
        17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i set = _mm512_maskz_compress_epi8(bits, places);
    const __m512i wide = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(set));
    _mm512_storeu_si512(list + n, _mm512_add_epi16(wide, _mm512_set1_epi16((short)at)));
    return n + (size_t)__builtin_popcountll(bits);
}

CF_INLINE cf_masks cf_mask_block(const uint8_t *p) {
    const __m512i bytes = _mm512_loadu_si512(p);
    const cf_masks masks = {_mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(' ')),
                            _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\n')),
                            _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(':')),
                            _mm512_cmplt_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8('0')),
                                                   _mm512_set1_epi8(10))};
    return masks;
}

CF_INLINE __m128i around(const uint8_t *chunk, unsigned colon) {
    return _mm_loadu_si128((const __m128i *)(chunk + colon - 8));
}

/* The 8 bytes before and the 8 from four colons, each pair in a lane. */
CF_INLINE __m512i around_four(const uint8_t *chunk, const uint16_t *colons) {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(around(chunk, colons[0])),
                                                around(chunk, colons[4]), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(around(chunk, colons[8])),
                                                 around(chunk, colons[12]), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* The digits at the end of eight words as two numbers of four digits each; *full gets a bit for
 * every word that is digits all through. */
CF_INLINE __m512i fours(__m512i words, unsigned *full) {
    const __m512i digits = _mm512_sub_epi8(words, _mm512_set1_epi8('0'));
    const __m512i others = _mm512_movm_epi8(_mm512_cmpgt_epu8_mask(digits, _mm512_set1_epi8(9)));
    const __m512i junk = _mm512_sub_epi64(_mm512_set1_epi64(64), _mm512_lzcnt_epi64(others));
    *full = _mm512_testn_epi64_mask(others, others);
    const __m512i own = _mm512_and_si512(digits, _mm512_sllv_epi64(_mm512_set1_epi64(-1), junk));
    const __m512i pairs = _mm512_maddubs_epi16(own, _mm512_set1_epi16(0x010a));
    return _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00010064));
}

CF_TARGET static void cf_convert(const uint8_t *chunk, cf_marks *marks, size_t n, uint32_t base,
                                 uint32_t *indices, float *data) {
    const __m512i bases = _mm512_set1_epi32((int)base), ten = _mm512_set1_epi32(10);
    const __m256i places = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0,
                                            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i before = _mm512_setzero_si512();
    for (unsigned i = 0; i < 16; i++) /* the last turn reads them */
        marks->colons[n + i] = marks->colons[n - 1];
    size_t n_values = 0;
    for (size_t i = 0; i < n; i += 16) {
        const uint16_t *const colons = marks->colons + i;
        const __m512i e0 = around_four(chunk, colons), e1 = around_four(chunk, colons + 1);
        const __m512i e2 = around_four(chunk, colons + 2), e3 = around_four(chunk, colons + 3);

        unsigned full_a, full_b;
        const __m512i a = fours(_mm512_unpacklo_epi64(e0, e1), &full_a);
        const __m512i b = fours(_mm512_unpacklo_epi64(e2, e3), &full_b);
        __m512i ids = _mm512_madd_epi16(_mm512_packus_epi32(a, b), _mm512_set1_epi32(0x00012710));
        if (__builtin_expect((full_a | full_b) != 0, 0)) {
            uint32_t wide[16];
            _mm512_storeu_si512(wide, ids);
            for (unsigned k = 0; k < 16; k++)
                if (!widen_id(chunk + colons[k], &wide[k]))
                    note_odd(marks, i + k);
            ids = _mm512_loadu_si512(wide);
        }
        const __m512i previous = _mm512_alignr_epi32(ids, before, 15);
        before = ids;
        const __mmask16 falls = _mm512_cmple_epu32_mask(ids, previous);
        memcpy(marks->falls + i / 8, &falls, sizeof falls);

        /* The colon, the first byte of the value and two more, sixteen times. */
        const __m512i words = _mm512_castps_si512(
            _mm512_shuffle_ps(_mm512_castsi512_ps(_mm512_unpackhi_epi64(e0, e1)),
                              _mm512_castsi512_ps(_mm512_unpackhi_epi64(e2, e3)), 0x88));
        const __m512i two = _mm512_srli_epi32(_mm512_slli_epi32(words, 8), 16);
        const __m512i to_blank = _mm512_sub_epi32(two, _mm512_set1_epi32(' ' << 8 | '0'));
        const __m512i to_newline = _mm512_sub_epi32(two, _mm512_set1_epi32('\n' << 8 | '0'));
        const __mmask16 other = (__mmask16)(_mm512_cmpge_epu32_mask(to_blank, ten) &
                                            _mm512_cmpge_epu32_mask(to_newline, ten));
        const __m512 values =
            _mm512_cvtepi32_ps(_mm512_and_si512(to_blank, _mm512_set1_epi32(0xff)));
        const __m128i set = _mm_maskz_compress_epi8(other, _mm256_castsi256_si128(places));
        _mm256_storeu_si256(
            (__m256i *)(marks->values + n_values),
            _mm256_add_epi16(_mm256_cvtepu8_epi16(set), _mm256_set1_epi16((short)i)));
        n_values += (size_t)__builtin_popcount(other);

        const __mmask16 inside = (__mmask16)(n - i >= 16 ? 0xffffu : (1u << (n - i)) - 1);
        _mm512_mask_storeu_epi32(indices + i, inside, _mm512_sub_epi32(ids, bases));
        _mm512_mask_storeu_ps(data + i, inside, values);
    }
    while (n_values > 0 && marks->values[n_values - 1] >= n)
        n_values--; /* repeats of the last colon */
    marks->n_values = n_values;
}

CF_TARGET size_t cf_libsvm_rows_avx512(const cf_libsvm_options *options, const uint8_t *text,
                                       size_t n, size_t pos, size_t last, cf_libsvm_rows *rows) {
    return read_rows(options, text, n, pos, last, rows);
}
#endif
