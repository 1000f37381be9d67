/* cf_mix.h -- a fixed hash of 64 bits (internal to csrc). */
#ifndef CF_MIX_H
#define CF_MIX_H

#include <stdint.h>

/* SplitMix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output. Fixed:
 * stored data depends on it. */
static inline uint64_t cf_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

#endif
