/* The kernels of cf_block_streams.h in plain C, which define the answer. */
#include "cf_block_rows.h"

static cf_block_survey survey(const cf_block_streams *s, const cf_block_position *p,
                              uint32_t n_rows, int64_t first, int64_t *ends) {
    return cf_block_survey_inline(s, p, n_rows, first, ends);
}

static inline uint32_t code_at(const uint8_t *codes, unsigned tier, uint32_t i) {
    if (tier == 1)
        return codes[i];
    if (tier == 2)
        return cf_load_u16(codes + i + (i >> 1)) >> 4 * (i & 1) & 0xfff;
    return cf_load_u16(codes + 2 * (size_t)i);
}

static int expand(const uint8_t *codes, unsigned tier, uint32_t i, uint32_t n, uint32_t size,
                  const uint32_t *ids, uint32_t *out) {
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t code = code_at(codes, tier, i + k);
        if (code >= size)
            return 0;
        out[k] = ids != NULL ? ids[code] : code;
    }
    return 1;
}

static void expand_outside(const uint8_t *bytes, unsigned width, uint32_t n, uint32_t *out) {
    const uint32_t mask = UINT32_MAX >> (32 - 8 * width);
    for (uint32_t i = 0; i < n; i++)
        out[i] = cf_load_u32(bytes + (size_t)width * i) & mask;
}

void cf_block_place_ids_scalar(const cf_block_streams *s, const cf_block_position *p,
                               uint32_t n_rows, const cf_block_sources *from, uint32_t *out,
                               size_t room) {
    (void)room;
    const uint32_t bytes = s->dictionary->bitmap_bytes;
    uint32_t more = p->more;
    const uint32_t *codes[CF_BLOCK_COUNTS];
    memcpy(codes, from->codes, sizeof codes);
    for (uint32_t row = p->row; row < p->row + n_rows; row++) {
        const uint8_t *bitmap = s->bitmaps + (size_t)row * bytes;
        for (uint32_t at = 0; at < bytes; at += 8)
            for (uint64_t bits = cf_bitmap_word(bitmap, at, bytes); bits != 0; bits &= bits - 1)
                *out++ = from->bitmap[8 * at + (uint32_t)__builtin_ctzll(bits)];
        uint32_t n[CF_BLOCK_COUNTS];
        cf_block_row_counts(s, row, &more, n);
        for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
            for (uint32_t i = 0; i < n[t]; i++)
                *out++ = codes[t][i];
            codes[t] += n[t];
        }
    }
}

int cf_block_place_values_scalar(const cf_block_streams *s, cf_block_position *p, uint32_t n_rows,
                                 int64_t first, const int64_t *ends, float *data, size_t room) {
    (void)room;
    const cf_dictionary *d = s->dictionary;
    const uint32_t bytes = d->bitmap_bytes, n_tables = d->n_narrow + d->n_wide;
    uint32_t e = p->entry;
    for (uint32_t row = p->row; row < p->row + n_rows; row++) {
        const uint8_t *bitmap = s->bitmaps + (size_t)row * bytes;
        for (uint32_t k = 0; 64 * k < n_tables; k++) {
            uint64_t bits = cf_bitmap_word(bitmap, 8 * k, bytes) & cf_bitmap_mask(k, 0, n_tables);
            for (; bits != 0; bits &= bits - 1, e++) {
                const uint32_t rank = 64 * k + (uint32_t)__builtin_ctzll(bits);
                if (rank >= d->n_narrow) {
                    if (!cf_block_wide_value(s, p, rank, &data[e]))
                        return 0;
                    continue;
                }
                const uint8_t code = s->narrow[p->narrow++];
                data[e] = d->narrow[256 * (size_t)rank + code];
                if (code == CF_NARROW_ESCAPE && !cf_block_second_value(s, p, rank, &data[e]))
                    return 0;
            }
        }
        for (const uint32_t end = (uint32_t)(*ends++ - first); e < end; e++)
            data[e] = 1.0f;
    }
    return 1;
}

static uint32_t rebase(uint32_t *ids, size_t n, uint32_t base) {
    return cf_rebase_inline(ids, n, base);
}

const cf_block_kernels cf_block_scalar = {
    .survey = survey,
    .expand = expand,
    .expand_outside = expand_outside,
    .place_ids = cf_block_place_ids_scalar,
    .place_values = cf_block_place_values_scalar,
    .rebase = rebase,
    .sort = cf_block_sort_scalar,
};
