#include "cf_dispatch.h"
#include "cf_variants.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xgetbv0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* __builtin_cpu_supports is not used: linked by some tool chains it is silently always 0. */
unsigned cf_cpu_features(void) {
    unsigned a, b, c, d, found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    const unsigned leaf1_c = c;
    if (leaf1_c & bit_SSE4_2)
        found |= CF_CPU_CRC32;
    if (!(leaf1_c & bit_OSXSAVE) || !(leaf1_c & bit_AVX) || !(leaf1_c & bit_POPCNT))
        return found;
    const uint64_t saved = xgetbv0();
    if ((saved & 0x06) != 0x06) /* xmm and ymm */
        return found;
    unsigned ext_c = 0;
    if (__get_cpuid(0x80000001u, &a, &b, &c, &d))
        ext_c = c;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return found;
    const unsigned avx2 = bit_AVX2 | bit_BMI | bit_BMI2;
    if ((b & avx2) != avx2 || !(ext_c & bit_LZCNT))
        return found;
    found |= CF_CPU_AVX2;
    const unsigned avx512 = bit_AVX512F | bit_AVX512CD | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const unsigned vbmi = bit_AVX512VBMI | bit_AVX512VBMI2;
    if ((b & avx512) == avx512 && (c & vbmi) == vbmi && (saved & 0xe6) == 0xe6)
        found |= CF_CPU_AVX512; /* 0xe6: opmask and both halves of zmm are saved as well */
    return found;
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

/* NEON is part of every AArch64; CRC-32 was optional in ARMv8.0 (bit 7 of AT_HWCAP). */
unsigned cf_cpu_features(void) {
    return CF_CPU_NEON | (getauxval(AT_HWCAP) & 1u << 7 ? CF_CPU_CRC32 : 0u);
}
#else
unsigned cf_cpu_features(void) { return CF_CPU_NEON | CF_CPU_CRC32; /* Apple's all have both */ }
#endif
#else
unsigned cf_cpu_features(void) { return 0; }
#endif

static const cf_kernels *const TABLES[] = {
#if defined(__x86_64__)
    &cf_kernels_avx512,
    &cf_kernels_avx2,
#elif defined(__aarch64__)
    &cf_kernels_neon,
#endif
    &cf_kernels_scalar,
};

const cf_kernels *cf_kernels_at(size_t i) {
    return i < sizeof TABLES / sizeof *TABLES ? TABLES[i] : NULL;
}
