/* Counting line ends and colons: what sizes the output of the LibSVM parser. */
#include "cf_variants.h"

void cf_count_lines_colons_scalar(const uint8_t *text, size_t n, size_t *n_lines,
                                  size_t *n_colons) {
    size_t lines = 0, colons = 0;
    for (size_t i = 0; i < n; i++) {
        lines += text[i] == '\n';
        colons += text[i] == ':';
    }
    *n_lines = lines;
    *n_colons = colons;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* The sum of 32 unsigned bytes. */
__attribute__((target("avx2"))) static size_t sum_bytes(__m256i v) {
    const __m256i sums = _mm256_sad_epu8(v, _mm256_setzero_si256());
    return (size_t)(_mm256_extract_epi64(sums, 0) + _mm256_extract_epi64(sums, 1) +
                    _mm256_extract_epi64(sums, 2) + _mm256_extract_epi64(sums, 3));
}

/* A match is -1 in its byte, so subtracting adds one; a byte counter lasts 255 vectors. */
__attribute__((target("avx2"))) void cf_count_lines_colons_avx2(const uint8_t *text, size_t n,
                                                                size_t *n_lines, size_t *n_colons) {
    const __m256i newline = _mm256_set1_epi8('\n'), colon = _mm256_set1_epi8(':');
    size_t lines = 0, colons = 0, i = 0;
    while (n - i >= 32) {
        const size_t vectors = (n - i) / 32 < 255 ? (n - i) / 32 : 255;
        __m256i line_bytes = _mm256_setzero_si256(), colon_bytes = _mm256_setzero_si256();
        for (size_t v = 0; v < vectors; v++, i += 32) {
            const __m256i bytes = _mm256_loadu_si256((const __m256i *)(text + i));
            line_bytes = _mm256_sub_epi8(line_bytes, _mm256_cmpeq_epi8(bytes, newline));
            colon_bytes = _mm256_sub_epi8(colon_bytes, _mm256_cmpeq_epi8(bytes, colon));
        }
        lines += sum_bytes(line_bytes);
        colons += sum_bytes(colon_bytes);
    }
    size_t tail_lines, tail_colons;
    cf_count_lines_colons_scalar(text + i, n - i, &tail_lines, &tail_colons);
    *n_lines = lines + tail_lines;
    *n_colons = colons + tail_colons;
}
#endif

#if defined(__aarch64__)
#include <arm_neon.h>

/* As above with 16 bytes a vector. */
void cf_count_lines_colons_neon(const uint8_t *text, size_t n, size_t *n_lines, size_t *n_colons) {
    const uint8x16_t newline = vdupq_n_u8('\n'), colon = vdupq_n_u8(':');
    size_t lines = 0, colons = 0, i = 0;
    while (n - i >= 16) {
        const size_t vectors = (n - i) / 16 < 255 ? (n - i) / 16 : 255;
        uint8x16_t line_bytes = vdupq_n_u8(0), colon_bytes = vdupq_n_u8(0);
        for (size_t v = 0; v < vectors; v++, i += 16) {
            const uint8x16_t bytes = vld1q_u8(text + i);
            line_bytes = vsubq_u8(line_bytes, vceqq_u8(bytes, newline));
            colon_bytes = vsubq_u8(colon_bytes, vceqq_u8(bytes, colon));
        }
        lines += vaddlvq_u8(line_bytes);
        colons += vaddlvq_u8(colon_bytes);
    }
    size_t rest_lines, rest_colons;
    cf_count_lines_colons_scalar(text + i, n - i, &rest_lines, &rest_colons);
    *n_lines = lines + rest_lines;
    *n_colons = colons + rest_colons;
}
#endif
