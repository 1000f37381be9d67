/* With the better guesses and the registers of AVX-512. As one vector of sixteen lanes they would
 * take no less time here, and half a group would need loops of its own. */
#if defined(__x86_64__)
#define LOOP               __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#define GUESS_INVERSE_SQRT _mm256_rsqrt14_ps
#define KERNELS            cf_grid_avx512

#include "cf_grid_eights.h"
#endif
