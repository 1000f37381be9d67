#include "cf_crc32c.h"

#include "cf_bits.h"
#include "cf_crc32c_table.h"

/* Slice-by-8: eight bytes a step, one table each, about 2 GB/s. */
uint32_t cf_crc32c_scalar(uint32_t crc, const uint8_t *data, size_t n) {
    crc = ~crc;
    for (; n >= 8; n -= 8, data += 8) {
        const uint64_t word = cf_load_u64(data) ^ crc;
        crc = TABLE[7][word & 0xff] ^ TABLE[6][word >> 8 & 0xff] ^ TABLE[5][word >> 16 & 0xff] ^
              TABLE[4][word >> 24 & 0xff] ^ TABLE[3][word >> 32 & 0xff] ^
              TABLE[2][word >> 40 & 0xff] ^ TABLE[1][word >> 48 & 0xff] ^ TABLE[0][word >> 56];
    }
    for (; n != 0; n--)
        crc = crc >> 8 ^ TABLE[0][(crc ^ *data++) & 0xff];
    return ~crc;
}

#if defined(__x86_64__) || defined(__aarch64__)
/* What the two processors call their instruction. */
#if defined(__x86_64__)
#include <nmmintrin.h>
#define TARGET               __attribute__((target("sse4.2,crc32")))
#define CRC32C               cf_crc32c_sse42
#define STEP_WORD(crc, word) _mm_crc32_u64(crc, word)
#define STEP_BYTE(crc, byte) _mm_crc32_u8(crc, byte)
#else
#include <arm_acle.h>
#define TARGET               __attribute__((target("+crc")))
#define CRC32C               cf_crc32c_armv8
#define STEP_WORD(crc, word) __crc32cd((uint32_t)(crc), word)
#define STEP_BYTE(crc, byte) __crc32cb(crc, byte)
#endif

/* Product of two polynomials modulo Castagnoli's, bits reversed (bit 31 is x^0). */
static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (int i = 0; i < 32; i++) {
        product ^= b & (0u - (a >> 31));
        a <<= 1;
        b = b >> 1 ^ (0x82f63b78u & (0u - (b & 1)));
    }
    return product;
}

/* x^(8 n): multiplying a CRC by it appends n zero bytes. */
static uint32_t zero_bytes(size_t n) {
    uint32_t power = 0x80000000u, square = 0x00800000u; /* x^0, x^8 */
    for (; n != 0; n >>= 1) {
        if (n & 1)
            power = multiply(power, square);
        square = multiply(square, square);
    }
    return power;
}

/* The instruction takes 3 cycles but a new one can start every cycle: three independent thirds run
 * side by side and are joined by two multiplications, which pays from a few kilobytes on. */
TARGET uint32_t CRC32C(uint32_t crc, const uint8_t *data, size_t n) {
    uint64_t a = ~crc;
    a &= 0xffffffffu;
    if (n >= 6144) {
        const size_t third = n / 3 & ~(size_t)7;
        uint64_t b = 0, c = 0;
        for (size_t i = 0; i < third; i += 8) {
            a = STEP_WORD(a, cf_load_u64(data + i));
            b = STEP_WORD(b, cf_load_u64(data + third + i));
            c = STEP_WORD(c, cf_load_u64(data + 2 * third + i));
        }
        const uint32_t shift = zero_bytes(third);
        a = multiply((uint32_t)a, shift) ^ (uint32_t)b;
        a = multiply((uint32_t)a, shift) ^ (uint32_t)c;
        data += 3 * third;
        n -= 3 * third;
    }
    for (; n >= 8; n -= 8, data += 8)
        a = STEP_WORD(a, cf_load_u64(data));
    uint32_t rest = (uint32_t)a;
    for (; n != 0; n--)
        rest = STEP_BYTE(rest, *data++);
    return ~rest;
}
#endif
