/* The kernels of cf_block_streams.h for NEON.
 *
 * As in cf_block_avx2.c rows are written in whole vectors: what lies behind a run is overwritten by
 * the next one, and the last rows of a block go to the scalar kernels. There is no gather, so what
 * is looked up in a table is read lane by lane; codes become places, and bits lanes, in vectors.
 */
#include "cf_block_rows.h"

#if defined(__aarch64__)
#include <arm_neon.h>

enum { LANES = 8 };

/* Its loops are vectors already, and its population counts NEON's. */
static cf_block_survey survey(const cf_block_streams *s, const cf_block_position *p,
                              uint32_t n_rows, int64_t first, int64_t *ends) {
    return cf_block_scalar.survey(s, p, n_rows, first, ends);
}

static uint32_t rebase(uint32_t *ids, size_t n, uint32_t base) {
    return cf_block_scalar.rebase(ids, n, base);
}

static inline void store_eight(uint32_t *out, uint16x8_t v) {
    vst1q_u32(out, vmovl_u16(vget_low_u16(v)));
    vst1q_u32(out + 4, vmovl_high_u16(v));
}

/* Eight codes of a tier, the first of them the i-th. */
static inline uint16x8_t load_codes(const uint8_t *codes, unsigned tier, uint32_t i) {
    if (tier == 1)
        return vmovl_u8(vld1_u8(codes + i));
    if (tier == 3)
        return vreinterpretq_u16_u8(vld1q_u8(codes + 2 * (size_t)i));
    /* Two codes in three bytes; if the first one starts in the middle of a byte, the even lanes
     * are shifted instead of the odd ones. */
    static const uint8_t PLACES[2][16] = {{0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11},
                                          {0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12}};
    static const int16_t SHIFTS[9] = {0, -4, 0, -4, 0, -4, 0, -4, 0};
    const uint32_t odd = i & 1;
    const uint8x16_t bytes = vld1q_u8(codes + (i + (size_t)(i >> 1)));
    const uint16x8_t both = vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(PLACES[odd])));
    return vandq_u16(vshlq_u16(both, vld1q_s16(SHIFTS + odd)), vdupq_n_u16(0xfff));
}

/* out[j] = table[places[j]], a lane at a time. */
static inline void look_up(const uint32_t *table, uint16x8_t places, uint32_t *out) {
    const uint64x2_t words = vreinterpretq_u64_u16(places);
    for (unsigned half = 0; half < 2; half++) {
        const uint64_t four = half ? vgetq_lane_u64(words, 1) : vgetq_lane_u64(words, 0);
        for (unsigned j = 0; j < 4; j++)
            out[4 * half + j] = table[four >> 16 * j & 0xffff];
    }
}

static inline int expand_tier(const uint8_t *codes, unsigned tier, uint32_t i, uint32_t n,
                              uint32_t size, const uint32_t *ids, uint32_t *out) {
    const uint32_t whole = n & ~(uint32_t)(LANES - 1);
    if (size < cf_tier_room(tier) && whole != 0) {
        uint16x8_t largest = vdupq_n_u16(0);
        for (uint32_t k = 0; k < whole; k += LANES)
            largest = vmaxq_u16(largest, load_codes(codes, tier, i + k));
        if (vmaxvq_u16(largest) >= size)
            return 0;
    }
    if (ids != NULL)
        for (uint32_t k = 0; k < whole; k += LANES)
            look_up(ids, load_codes(codes, tier, i + k), out + k);
    else
        for (uint32_t k = 0; k < whole; k += LANES)
            store_eight(out + k, load_codes(codes, tier, i + k));
    return cf_block_scalar.expand(codes, tier, i + whole, n - whole, size, ids, out + whole);
}

static int expand(const uint8_t *codes, unsigned tier, uint32_t i, uint32_t n, uint32_t size,
                  const uint32_t *ids, uint32_t *out) {
    if (tier == 1)
        return expand_tier(codes, 1, i, n, size, ids, out);
    if (tier == 2)
        return expand_tier(codes, 2, i, n, size, ids, out);
    return expand_tier(codes, 3, i, n, size, ids, out);
}

static void expand_outside(const uint8_t *bytes, unsigned width, uint32_t n, uint32_t *out) {
    uint8_t places[16];
    for (unsigned i = 0; i < 16; i++)
        places[i] = (uint8_t)(i % 4 < width ? i / 4 * width + i % 4 : 0xff);
    const uint8x16_t shuffle = vld1q_u8(places);
    const uint32_t whole = n & ~(uint32_t)3;
    for (uint32_t i = 0; i < whole; i += 4)
        vst1q_u32(out + i,
                  vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(bytes + (size_t)width * i), shuffle)));
    cf_block_scalar.expand_outside(bytes + (size_t)width * whole, width, n - whole, out + whole);
}

/* The members of a bitmap's byte, out of eight; what is behind them is of no account. */
static inline void place_members(const uint32_t *members, uint64_t lanes, uint32_t *out) {
    static const uint8_t LOW[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const uint8_t HIGH[16] = {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7};
    static const uint8_t BYTES[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    const uint8x16_t of = vreinterpretq_u8_u64(vdupq_n_u64(lanes)), bytes = vld1q_u8(BYTES);
    const uint8x16x2_t from = {
        {vreinterpretq_u8_u32(vld1q_u32(members)), vreinterpretq_u8_u32(vld1q_u32(members + 4))}};
    /* Lane l is bytes 4 l to 4 l + 3. */
    const uint8x16_t low = vsliq_n_u8(bytes, vqtbl1q_u8(of, vld1q_u8(LOW)), 2);
    const uint8x16_t high = vsliq_n_u8(bytes, vqtbl1q_u8(of, vld1q_u8(HIGH)), 2);
    vst1q_u32(out, vreinterpretq_u32_u8(vqtbl2q_u8(from, low)));
    vst1q_u32(out + 4, vreinterpretq_u32_u8(vqtbl2q_u8(from, high)));
}

/* How many bits are set in the bytes of a word before each byte; *all: in the whole word. */
static inline uint64_t bits_before(uint64_t word, unsigned *all) {
    const uint8x8_t counts = vcnt_u8(vcreate_u8(word));
    const uint64_t sums =
        vget_lane_u64(vreinterpret_u64_u8(counts), 0) * UINT64_C(0x0101010101010101);
    *all = (unsigned)(sums >> 56);
    return sums << 8;
}

static void place_ids(const cf_block_streams *s, const cf_block_position *p, uint32_t n_rows,
                      const cf_block_sources *from, uint32_t *out, size_t room) {
    const uint32_t bytes = s->dictionary->bitmap_bytes;
    const uint64_t *spread = s->dictionary->spread;
    cf_block_position q = *p;
    cf_block_sources rest = *from;
    const uint32_t *const end = out + room;
    for (; n_rows != 0; n_rows--, q.row++) {
        uint32_t n[CF_BLOCK_COUNTS], more = q.more;
        cf_block_row_counts(s, q.row, &more, n);
        const uint64_t most = (uint64_t)n[0] + n[1] + n[2] + n[3] + 8 * bytes + LANES;
        if (most > (size_t)(end - out))
            break;
        q.more = more;
        const uint8_t *bitmap = s->bitmaps + (size_t)q.row * bytes;
        for (uint32_t at = 0; at < bytes; at += 8) {
            const uint32_t here = bytes - at < 8 ? bytes - at : 8;
            uint64_t word = cf_bitmap_word(bitmap, at, bytes);
            unsigned all;
            uint64_t before = bits_before(word, &all);
            const uint32_t *members = from->bitmap + 8 * (size_t)at;
            for (uint32_t k = 0; k < here; k++, word >>= 8, before >>= 8, members += 8)
                place_members(members, spread[word & 0xff], out + (before & 0xff));
            out += all;
        }
        for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
            const uint32_t *codes = rest.codes[t];
            uint32_t i = 0;
            do {
                const uint32x4_t low = vld1q_u32(codes + i), high = vld1q_u32(codes + i + 4);
                vst1q_u32(out + i, low);
                vst1q_u32(out + i + 4, high);
                i += LANES;
            } while (i < n[t]);
            out += n[t];
            rest.codes[t] = codes + n[t];
        }
    }
    cf_block_place_ids_scalar(s, &q, n_rows, &rest, out, (size_t)(end - out));
}

/* Codes that were escapes: byte i of `escapes` is the i-th of the members of this byte. */
static int place_escapes(const cf_block_streams *s, cf_block_position *p, uint32_t first_rank,
                         unsigned members, uint64_t escapes, float *data) {
    for (unsigned i = 0; members != 0; members &= members - 1, i++)
        if (escapes >> 8 * i & 1 &&
            !cf_block_second_value(s, p, first_rank + (uint32_t)__builtin_ctz(members), data + i))
            return 0;
    return 1;
}

/* Eight values, of which the first n are meant: by lane a table of 256, by code a value of it. */
static inline void look_up_values(const float *tables, uint64_t lanes, uint8x8_t codes,
                                  float *data) {
    const uint16x8_t places = vreinterpretq_u16_u8(
        vzip1q_u8(vcombine_u8(codes, codes), vreinterpretq_u8_u64(vdupq_n_u64(lanes))));
    const uint64x2_t words = vreinterpretq_u64_u16(places);
    for (unsigned half = 0; half < 2; half++) {
        const uint64_t four = half ? vgetq_lane_u64(words, 1) : vgetq_lane_u64(words, 0);
        for (unsigned j = 0; j < 4; j++)
            data[4 * half + j] = tables[four >> 16 * j & 0xffff];
    }
}

static int place_values(const cf_block_streams *s, cf_block_position *p, uint32_t n_rows,
                        int64_t first, const int64_t *ends, float *data, size_t room) {
    const cf_dictionary *d = s->dictionary;
    const uint32_t bytes = d->bitmap_bytes, n_tables = d->n_narrow + d->n_wide;
    const uint32_t narrow_bytes = (d->n_narrow + 7) / 8;
    const float32x4_t ones = vdupq_n_f32(1.0f);
    if (n_rows == 0)
        return 1;
    uint32_t e = p->entry;
    const uint32_t last = (uint32_t)(ends[n_rows - 1] - first);
    for (uint32_t i = e; i < last; i += LANES) {
        if (room - i < LANES) {
            for (; i < last; i++)
                data[i] = 1.0f;
            break;
        }
        vst1q_f32(data + i, ones);
        vst1q_f32(data + i + 4, ones);
    }
    if (n_tables == 0)
        return 1;
    cf_block_position q = *p;
    for (uint32_t row = 0; row < n_rows; row++) {
        if (room - e < n_tables + 2 * LANES) {
            q.row = p->row + row;
            q.entry = e;
            const int fine =
                cf_block_place_values_scalar(s, &q, n_rows - row, first, ends + row, data, room);
            q.row = p->row;
            q.entry = p->entry;
            *p = q;
            return fine;
        }
        const uint8_t *bitmap = s->bitmaps + (size_t)(p->row + row) * bytes;
        float *at = data + e;
        for (uint32_t k = 0; k < narrow_bytes; k++) {
            const uint32_t left = d->n_narrow - 8 * k;
            const unsigned members = bitmap[k] & (left >= 8 ? 0xffu : (1u << left) - 1);
            const unsigned n = vget_lane_u8(vcnt_u8(vcreate_u8(members)), 0);
            const uint8x8_t codes = vld1_u8(s->narrow + q.narrow);
            look_up_values(d->narrow + 2048 * (size_t)k, d->spread[members], codes, at);
            /* 0 where n is 0, and no shift by 64 */
            const uint64_t meant = (UINT64_C(1) << 4 * n << 4 * n) - 1;
            const uint64_t escapes =
                vget_lane_u64(vreinterpret_u64_u8(vceq_u8(codes, vdup_n_u8(CF_NARROW_ESCAPE))), 0) &
                meant;
            q.narrow += n;
            if (escapes != 0 && !place_escapes(s, &q, 8 * k, members, escapes, at))
                return 0;
            at += n;
        }
        for (uint32_t rank = d->n_narrow; rank < n_tables; rank++)
            if (bitmap[rank >> 3] >> (rank & 7) & 1 && !cf_block_wide_value(s, &q, rank, at++))
                return 0;
        vst1q_f32(at, ones);
        vst1q_f32(at + 4, ones);
        e = (uint32_t)(ends[row] - first);
    }
    *p = q;
    return 1;
}

const cf_block_kernels cf_block_neon = {
    .survey = survey,
    .expand = expand,
    .expand_outside = expand_outside,
    .place_ids = place_ids,
    .place_values = place_values,
    .rebase = rebase,
    .sort = cf_block_sort_scalar,
};
#endif
