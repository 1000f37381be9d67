/* cf_block_rows.h -- what the kernels of all instruction sets share as source (internal). */
#ifndef CF_BLOCK_ROWS_H
#define CF_BLOCK_ROWS_H

#include "cf_block_streams.h"

/* Eight bytes of a bitmap from byte `at` on, those past its end 0. Reads past it, into the counts
 * or the padding. */
static inline uint64_t cf_bitmap_word(const uint8_t *bitmap, uint32_t at, uint32_t n_bytes) {
    const uint64_t word = cf_load_u64(bitmap + at);
    const uint32_t left = n_bytes - at;
    return left >= 8 ? word : word & ~(UINT64_MAX << 8 * left);
}

/* Ones for the members begin to end of tier 0 that lie in word k. */
static inline uint64_t cf_bitmap_mask(uint32_t k, uint32_t begin, uint32_t end) {
    const uint32_t low = begin > 64 * k ? begin - 64 * k : 0;
    const uint32_t high = end > 64 * k ? end - 64 * k : 0;
    const uint64_t below_high = high >= 64 ? UINT64_MAX : ~(UINT64_MAX << high);
    return low >= 64 ? 0 : below_high & (UINT64_MAX << low);
}

/* Takes `base` off every id. For targets with and without vectors. */
__attribute__((always_inline)) static inline uint32_t cf_rebase_inline(uint32_t *ids, size_t n,
                                                                       uint32_t base) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        ids[i] -= base;
        largest = ids[i] > largest ? ids[i] : largest;
    }
    return largest;
}

/* For targets with and without a population count. */
__attribute__((always_inline)) static inline cf_block_survey
cf_block_survey_inline(const cf_block_streams *s, const cf_block_position *p, uint32_t n_rows,
                       int64_t first, int64_t *ends) {
    const cf_dictionary *d = s->dictionary;
    const uint32_t bytes = d->bitmap_bytes, n_tables = d->n_narrow + d->n_wide;
    cf_block_survey found = {0};
    uint32_t more = p->more;
    uint64_t stray = 0;
    const uint64_t narrow = cf_bitmap_mask(0, 0, d->n_narrow);
    const uint64_t wide = cf_bitmap_mask(0, d->n_narrow, n_tables);
    const uint64_t members = cf_bitmap_mask(0, 0, d->tier_size[0]);
    for (uint32_t row = p->row; row < p->row + n_rows; row++) {
        uint32_t n[CF_BLOCK_COUNTS];
        if (!cf_block_row_counts(s, row, &more, n)) {
            found.stray_bits = 1;
            return found;
        }
        uint64_t n_row = 0;
        for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
            found.n_codes[t] += n[t];
            n_row += n[t];
        }
        const uint8_t *bitmap = s->bitmaps + (size_t)row * bytes;
        if (bytes <= 8) {
            const uint64_t bits = cf_bitmap_word(bitmap, 0, bytes);
            stray |= bits & ~members;
            n_row += (unsigned)__builtin_popcountll(bits);
            found.n_narrow += (unsigned)__builtin_popcountll(bits & narrow);
            found.n_wide += (unsigned)__builtin_popcountll(bits & wide);
        } else {
            for (uint32_t k = 0; 8 * k < bytes; k++) {
                const uint64_t bits = cf_bitmap_word(bitmap, 8 * k, bytes);
                stray |= bits & ~cf_bitmap_mask(k, 0, d->tier_size[0]);
                n_row += (unsigned)__builtin_popcountll(bits);
                if (64 * k < n_tables) {
                    const uint64_t with = cf_bitmap_mask(k, 0, d->n_narrow);
                    const uint64_t wider = cf_bitmap_mask(k, d->n_narrow, n_tables);
                    found.n_narrow += (unsigned)__builtin_popcountll(bits & with);
                    found.n_wide += (unsigned)__builtin_popcountll(bits & wider);
                }
            }
        }
        found.n_entries += n_row;
        found.max_row = n_row > found.max_row ? n_row : found.max_row;
        *ends++ = (int64_t)((uint64_t)first + found.n_entries); /* checked by the caller, later */
    }
    found.n_more = more - p->more;
    found.stray_bits = stray != 0;
    return found;
}

#endif
