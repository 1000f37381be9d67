/* Sixteen lanes as two vectors of eight. Included once for each kind of CPU, by a file that defines
 *
 *     LOOP                  attributes of functions that use them
 *     GUESS_INVERSE_SQRT    the CPU's instruction for 1 / sqrt(v), about
 *     KERNELS               the name of what comes of it (cf_grid_loops.h)
 */
#include <float.h>
#include <immintrin.h>
#include <stdint.h>

#define VEC 8

typedef float vec __attribute__((vector_size(32)));
typedef int32_t vec_mask __attribute__((vector_size(32)));

LOOP static inline __attribute__((always_inline)) vec vec_sqrt(vec v) {
    return (vec)_mm256_sqrt_ps((__m256)v);
}

LOOP static inline __attribute__((always_inline)) vec vec_inverse_sqrt(vec v) {
    const vec most = FLT_MAX - (vec){0};
    v = (vec)_mm256_min_ps((__m256)most, (__m256)v); /* NaN stays */
    const vec y = (vec)GUESS_INVERSE_SQRT((__m256)v);
    return y * (1.5f - 0.5f * v * y * y);
}

LOOP static inline __attribute__((always_inline)) int vec_all(vec_mask mask) {
    return _mm256_movemask_ps((__m256)mask) == 0xff;
}

#include "cf_grid_loops.h"
