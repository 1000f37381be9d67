/* The fast path for ordinary lines in NEON: the primitives of cf_libsvm_vector.h. */
#if defined(__aarch64__)
#include <arm_neon.h>

#define CF_TARGET /* NEON is part of every AArch64 */
#include "cf_libsvm_vector.h"

CF_INLINE unsigned lowest_bit(uint64_t bits) { return (unsigned)__builtin_ctzll(bits); }

/* Eight turns for the usual 5 to 8 bits: their count is hard to predict. */
CF_INLINE size_t cf_append_bits(uint16_t *list, size_t n, uint64_t bits, size_t at) {
    const size_t n_bits = (size_t)__builtin_popcountll(bits);
    uint16_t *const to = list + n;
    const uint64_t stop = (uint64_t)1 << 63; /* so that the turns too many find a bit */
    for (unsigned i = 0; i < 8; i++, bits &= bits - 1)
        to[i] = (uint16_t)(at + lowest_bit(bits | stop));
    for (unsigned i = 8; __builtin_expect(i < n_bits, 0); i++, bits &= bits - 1)
        to[i] = (uint16_t)(at + lowest_bit(bits));
    return n + n_bits;
}

/* One bit a byte, where bytes 4 i + k of the text are in lane i of vector k: each vector's top bits
 * slide in beside the next one's. */
CF_INLINE uint64_t mask_of(uint8x16_t v0, uint8x16_t v1, uint8x16_t v2, uint8x16_t v3) {
    const uint8x16_t fours = vsriq_n_u8(vsriq_n_u8(v3, v2, 1), vsriq_n_u8(v1, v0, 1), 2);
    const uint8x16_t doubled = vsriq_n_u8(fours, fours, 4);
    const uint8x8_t packed = vshrn_n_u16(vreinterpretq_u16_u8(doubled), 4);
    return vget_lane_u64(vreinterpret_u64_u8(packed), 0);
}

CF_INLINE uint64_t equal(uint8x16x4_t bytes, char c) {
    const uint8x16_t wanted = vdupq_n_u8((uint8_t)c);
    return mask_of(vceqq_u8(bytes.val[0], wanted), vceqq_u8(bytes.val[1], wanted),
                   vceqq_u8(bytes.val[2], wanted), vceqq_u8(bytes.val[3], wanted));
}

CF_INLINE uint8x16_t are_digits(uint8x16_t bytes) {
    return vcltq_u8(vsubq_u8(bytes, vdupq_n_u8('0')), vdupq_n_u8(10));
}

CF_INLINE cf_masks cf_mask_block(const uint8_t *p) {
    const uint8x16x4_t bytes = vld4q_u8(p);
    const cf_masks masks = {equal(bytes, ' '), equal(bytes, '\n'), equal(bytes, ':'),
                            mask_of(are_digits(bytes.val[0]), are_digits(bytes.val[1]),
                                    are_digits(bytes.val[2]), are_digits(bytes.val[3]))};
    return masks;
}

/* Pairs of lanes as one number of twice the width: the first, times `scale`, plus the second. */
CF_INLINE uint16x8_t join_digits(uint8x16_t v) {
    const uint16x8_t pairs = vreinterpretq_u16_u8(v);
    return vmlaq_n_u16(vshrq_n_u16(pairs, 8), vandq_u16(pairs, vdupq_n_u16(0xff)), 10);
}

CF_INLINE uint32x4_t join_pairs(uint16x8_t v) {
    const uint32x4_t fours = vreinterpretq_u32_u16(v);
    return vmlaq_n_u32(vshrq_n_u32(fours, 16), vandq_u32(fours, vdupq_n_u32(0xffff)), 100);
}

/* The digits at the end of two words as two numbers of four digits each; *full has 0 in the low
 * byte of words that are digits all through. */
CF_INLINE uint32x4_t fours(uint64x2_t words, uint64x2_t *full) {
    const uint8x16_t bytes = vreinterpretq_u8_u64(words);
    uint64x2_t junk = vreinterpretq_u64_u8(vmvnq_u8(are_digits(bytes)));
    junk = vorrq_u64(junk, vshrq_n_u64(junk, 8));
    junk = vorrq_u64(junk, vshrq_n_u64(junk, 16));
    junk = vorrq_u64(junk, vshrq_n_u64(junk, 32));
    *full = junk;
    const uint8x16_t digits = vandq_u8(bytes, vdupq_n_u8(15));
    return join_pairs(join_digits(vbicq_u8(digits, vreinterpretq_u8_u64(junk))));
}

/* The 8 bytes before and the 8 from a colon. */
CF_INLINE uint64x2_t around(const uint8_t *chunk, unsigned colon) {
    return vreinterpretq_u64_u8(vld1q_u8(chunk + colon - 8));
}

/* Ids before four colons, the words behind them, and whether no id may have more than 8 digits. */
CF_INLINE uint32x4_t read_four(const uint8_t *chunk, const uint16_t *colons, uint32x4_t *behind,
                               bool *narrow) {
    const uint64x2_t e0 = around(chunk, colons[0]), e1 = around(chunk, colons[1]);
    const uint64x2_t e2 = around(chunk, colons[2]), e3 = around(chunk, colons[3]);
    uint64x2_t full_a, full_b;
    const uint32x4_t a = fours(vzip1q_u64(e0, e1), &full_a);
    const uint32x4_t b = fours(vzip1q_u64(e2, e3), &full_b);
    const uint64x2_t full = vandq_u64(full_a, full_b);
    *narrow = vgetq_lane_u64(full, 0) & vgetq_lane_u64(full, 1) & 1;
    *behind = vuzp1q_u32(vreinterpretq_u32_u64(vzip2q_u64(e0, e1)),
                         vreinterpretq_u32_u64(vzip2q_u64(e2, e3)));
    return vmlaq_n_u32(vuzp2q_u32(a, b), vuzp1q_u32(a, b), 10000);
}

/* A bit a lane. */
CF_INLINE unsigned bits_of(uint32x4_t low, uint32x4_t high) {
    static const uint16_t BITS[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t lanes = vcombine_u16(vmovn_u32(low), vmovn_u32(high));
    return vaddvq_u16(vandq_u16(lanes, vld1q_u16(BITS)));
}

/* Where the two bytes behind a colon are a digit and an end: all ones. Its number in *value. */
CF_INLINE uint32x4_t are_plain(uint32x4_t behind, float32x4_t *value) {
    const uint32x4_t two = vshrq_n_u32(vshlq_n_u32(behind, 8), 16), nine = vdupq_n_u32(9);
    const uint32x4_t to_blank = vsubq_u32(two, vdupq_n_u32(' ' << 8 | '0'));
    const uint32x4_t to_newline = vsubq_u32(two, vdupq_n_u32('\n' << 8 | '0'));
    *value = vcvtq_f32_u32(vandq_u32(to_blank, vdupq_n_u32(0xff)));
    return vorrq_u32(vcleq_u32(to_blank, nine), vcleq_u32(to_newline, nine));
}

CF_TARGET static void cf_convert(const uint8_t *chunk, cf_marks *marks, size_t n, uint32_t base,
                                 uint32_t *indices, float *data) {
    const uint32x4_t bases = vdupq_n_u32(base);
    uint32x4_t before = vdupq_n_u32(0);
    for (unsigned i = 0; i < 8; i++) /* the last turn reads them */
        marks->colons[n + i] = marks->colons[n - 1];
    size_t n_values = 0;
    for (size_t i = 0; i < n; i += 8) {
        const uint16_t *const colons = marks->colons + i;
        uint32x4_t behind[2];
        bool narrow[2];
        uint32x4_t low = read_four(chunk, colons, &behind[0], &narrow[0]);
        uint32x4_t high = read_four(chunk, colons + 4, &behind[1], &narrow[1]);
        if (__builtin_expect(!(narrow[0] & narrow[1]), 0)) {
            uint32_t wide[8];
            vst1q_u32(wide, low);
            vst1q_u32(wide + 4, high);
            for (unsigned k = 0; k < 8; k++)
                if (!widen_id(chunk + colons[k], &wide[k]))
                    note_odd(marks, i + k);
            low = vld1q_u32(wide);
            high = vld1q_u32(wide + 4);
        }
        marks->falls[i / 8] = (uint8_t)bits_of(vcleq_u32(low, vextq_u32(before, low, 3)),
                                               vcleq_u32(high, vextq_u32(low, high, 3)));
        before = high;

        float32x4_t low_values, high_values;
        const uint32x4_t low_plain = are_plain(behind[0], &low_values);
        const uint32x4_t high_plain = are_plain(behind[1], &high_values);
        for (unsigned other = ~bits_of(low_plain, high_plain) & 0xff; other; other &= other - 1)
            marks->values[n_values++] = (uint16_t)(i + lowest_bit(other));

        low = vsubq_u32(low, bases);
        high = vsubq_u32(high, bases);
        if (__builtin_expect(n - i >= 8, 1)) {
            vst1q_u32(indices + i, low);
            vst1q_u32(indices + i + 4, high);
            vst1q_f32(data + i, low_values);
            vst1q_f32(data + i + 4, high_values);
        } else {
            uint32_t last_ids[8];
            float last_values[8];
            vst1q_u32(last_ids, low);
            vst1q_u32(last_ids + 4, high);
            vst1q_f32(last_values, low_values);
            vst1q_f32(last_values + 4, high_values);
            memcpy(indices + i, last_ids, (n - i) * sizeof *indices);
            memcpy(data + i, last_values, (n - i) * sizeof *data);
        }
    }
    while (n_values > 0 && marks->values[n_values - 1] >= n)
        n_values--; /* repeats of the last colon */
    marks->n_values = n_values;
}

/* A nibble a byte. */
CF_INLINE uint64_t nibbles_of(uint8x16_t v) {
    return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(v), 4)), 0);
}

CF_INLINE unsigned first_nibble(uint64_t nibbles) { return nibbles ? lowest_bit(nibbles) / 4 : 16; }

CF_INLINE cf_decimal cf_read_decimal(const uint8_t *p) {
    static const int8_t LANES[16] = {-16, -15, -14, -13, -12, -11, -10, -9,
                                     -8,  -7,  -6,  -5,  -4,  -3,  -2,  -1};
    const uint8x16_t text = vld1q_u8(p);
    const uint64_t others = ~nibbles_of(are_digits(text));
    const uint64_t points = nibbles_of(vceqq_u8(text, vdupq_n_u8('.')));
    const unsigned whole = first_nibble(others);
    const uint64_t point = points & others & (0 - others); /* of the first other byte, or nothing */
    const unsigned has_point = point != 0;
    const unsigned length = first_nibble(others & ~(point * 15));
    /* Digits go to the right end of the vector, those before the point one further. */
    int8x16_t from = vaddq_s8(vld1q_s8(LANES), vdupq_n_s8((int8_t)length));
    const int8x16_t behind_point = vdupq_n_s8((int8_t)((whole + 1) & (0 - has_point)));
    from = vaddq_s8(from, vreinterpretq_s8_u8(vcgtq_s8(behind_point, from)));
    const uint8x16_t digits = vsubq_u8(text, vdupq_n_u8('0'));
    const uint8x16_t moved = vqtbl1q_u8(digits, vreinterpretq_u8_s8(from));
    const uint64x2_t pairs = vreinterpretq_u64_u32(join_pairs(join_digits(moved)));
    const uint32x2_t eights = vmla_n_u32(vshrn_n_u64(pairs, 32), vmovn_u64(pairs), 10000);
    const uint64_t number =
        (uint64_t)vget_lane_u32(eights, 0) * 100000000 + vget_lane_u32(eights, 1);
    const cf_decimal decimal = {(int64_t)number, length, length - whole - has_point, has_point};
    return decimal;
}

size_t cf_libsvm_rows_neon(const cf_libsvm_options *options, const uint8_t *text, size_t n,
                           size_t pos, size_t last, cf_libsvm_rows *rows) {
    return read_rows(options, text, n, pos, last, rows);
}
#endif
