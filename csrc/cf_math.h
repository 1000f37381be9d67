/* cf_math.h -- exp and the logistic function in fixed arithmetic.
 *
 * Not libm's: its results differ between versions and CPUs, and a run must give the same model for
 * the same seed wherever it is repeated.
 */
#ifndef CF_MATH_H
#define CF_MATH_H

#include <stdint.h>
#include <string.h>

/* e^x to 2 ulp, for x in [-87, 87]; clamped outside. Cody-Waite reduction by ln 2 in two parts,
 * then the Taylor polynomial of degree 6 on [-ln2/2, ln2/2] (its remainder is below 1.3e-7 / 8). */
static inline float cf_expf(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to the nearest whole number */
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const float square = r * r; /* by halves, which do not wait for each other */
    const float high = (1.0f / 120 * r + 1.0f / 24) + square * (1.0f / 720);
    const float p = (1.0f + r) + square * ((1.0f / 6 * r + 0.5f) + square * high);
    /* n again, out of the bits of the sum: converting a NaN to an integer is undefined. */
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000u + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* The logistic function on both sides: 1 / (1 + e^-|margin|) and what it leaves to 1. The smaller
 * is not a difference, so it keeps its digits. */
typedef struct {
    float likely, unlikely;
} cf_odds;

static inline cf_odds cf_sides(float margin) {
    const float e = cf_expf(margin < 0 ? margin : -margin);
    const float likely = 1.0f / (1.0f + e);
    return (cf_odds){likely, e * likely};
}

/* 1 / (1 + e^-margin). */
static inline float cf_sigmoid(float margin) {
    const cf_odds odds = cf_sides(margin);
    return margin < 0 ? odds.unlikely : odds.likely;
}

#endif
