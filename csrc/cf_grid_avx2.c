#if defined(__x86_64__)
#define LOOP               __attribute__((target("avx2")))
#define GUESS_INVERSE_SQRT _mm256_rsqrt_ps
#define KERNELS            cf_grid_avx2

#include "cf_grid_eights.h"
#endif
