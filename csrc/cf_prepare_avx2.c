/* Eight entries at a time. Places are asked for some vectors ahead, since most of them are of ids
 * that the nearer caches do not have. */
#include "cf_prepare.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { LANES = 8, AHEAD = 4 * LANES };

static inline __attribute__((target("avx2"))) __m256i last_of(size_t n) {
    return _mm256_set1_epi32((int)(uint32_t)(n - 1));
}

__attribute__((target("avx2"))) size_t cf_place_entries_avx2(const cf_places *places,
                                                             const uint32_t *ids,
                                                             const float *values, size_t n,
                                                             uint32_t *indices, float *data) {
    /* Gathers take signed numbers of 32 bits. */
    if (places->n_ids > INT32_MAX || places->n_divisors > INT32_MAX)
        return cf_place_entries_scalar(places, ids, values, n, indices, data);
    const __m256i last_id = last_of(places->n_ids), last_place = last_of(places->n_places);
    const __m256i last_divisor = last_of(places->n_divisors);
    size_t done = 0;
    for (; n - done >= LANES; done += LANES) {
        if (n - done >= AHEAD + LANES)
            for (size_t i = 0; i < LANES; i++) /* by an address that nobody checks, nor reads */
                __builtin_prefetch((const void *)((uintptr_t)places->of +
                                                  sizeof *places->of * ids[done + AHEAD + i]));
        const __m256i id = _mm256_loadu_si256((const void *)(ids + done));
        const __m256i in = _mm256_min_epu32(id, last_id);
        const __m256i place = _mm256_i32gather_epi32((const void *)places->of, in, 4);
        const __m256i bad = _mm256_or_si256(
            _mm256_xor_si256(id, in), _mm256_xor_si256(place, _mm256_min_epu32(place, last_place)));
        if (!_mm256_testz_si256(bad, bad))
            return done;
        const __m256i of = _mm256_min_epu32(place, last_divisor);
        const __m256 divisor = _mm256_i32gather_ps(places->divisors, of, 4);
        const __m256 value = _mm256_loadu_ps(values + done);
        _mm256_storeu_si256((void *)(indices + done), place);
        _mm256_storeu_ps(data + done, _mm256_div_ps(value, divisor));
    }
    if (done == n)
        return n;
    return done + cf_place_entries_scalar(places, ids + done, values + done, n - done,
                                          indices + done, data + done);
}
#endif
