#include "cf_block_sort.h"

enum { AHEAD = 96 }; /* entries whose places are asked for before they are needed */

/* Sets the bits of a row's members: of each kind in the bitmap those listed from `from` on. */
static void set_bits(uint32_t *const lists[CF_KINDS], const uint32_t *from, const uint32_t *n,
                     uint8_t *bitmap, uint32_t n_bytes) {
    uint64_t word = 0; /* of the first eight bytes: mostly all there is */
    if (n_bytes > 8)
        memset(bitmap, 0, n_bytes);
    for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_BIT; k++)
        for (uint32_t i = from[k]; i < n[k]; i++) {
            const uint32_t member = lists[k][i];
            if (member < 64)
                word |= UINT64_C(1) << member;
            else
                bitmap[member >> 3] = (uint8_t)(bitmap[member >> 3] | 1u << (member & 7));
        }
    if (n_bytes != 0)
        cf_store_u64(bitmap, word); /* what is too much the next row overwrites */
}

int cf_block_sort_scalar(const cf_block_input *rows, size_t row, size_t n_rows,
                         const cf_dictionary_index *index, cf_block_sorted *sorted,
                         uint8_t *bitmaps, uint32_t *counts) {
    const uint32_t *ids = rows->indices;
    const uint32_t n_bytes = index->dictionary->bitmap_bytes;
    const int64_t last = rows->indptr[rows->n_rows];
    if (cf_count_falls(rows, row, n_rows) != 0)
        return 0;
    uint32_t *const *work = sorted->work;
    uint32_t *const lists[CF_KINDS] = {sorted->tables[0],
                                       sorted->tables[1],
                                       work[0],
                                       work[1],
                                       work[2],
                                       work[3],
                                       sorted->outside + sorted->n[CF_OUTSIDE]};
    uint32_t *const values[CF_KINDS] = {sorted->values[0], sorted->values[1], work[4], work[4],
                                        work[4],           work[4],           work[4]};
    uint32_t n[CF_KINDS] = {0};
    for (size_t i = 0; i < n_rows; i++) {
        uint32_t from[CF_KINDS];
        memcpy(from, n, sizeof from);
        for (int64_t e = rows->indptr[row + i]; e < rows->indptr[row + i + 1]; e++) {
            if (e + AHEAD < last)
                __builtin_prefetch(cf_dictionary_line(index, ids[e + AHEAD]));
            /* Which kind comes next is not predictable, so no branch asks. */
            const uint32_t place = cf_dictionary_place(index, ids[e]);
            const uint32_t kind = place >> CF_KIND_SHIFT, at = n[kind]++;
            lists[kind][at] = kind == CF_KIND_OUTSIDE ? ids[e] : place & 0xffff;
            values[kind][at] = cf_float_bits(rows->data[e]);
        }
        for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
            counts[CF_BLOCK_COUNTS * i + t] = n[CF_KIND_8 + t] - from[CF_KIND_8 + t];
        for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_WIDE; k++)
            sorted->valued_ends[i][k] = n[k];
        set_bits(lists, from, n, bitmaps + i * n_bytes, n_bytes);
    }
    for (uint32_t i = 0; i < n[CF_KIND_8]; i++)
        sorted->eight[sorted->n[0] + i] = (uint8_t)lists[CF_KIND_8][i];
    for (uint32_t i = 0; i < n[CF_KIND_12]; i++)
        sorted->twelve[sorted->n[1] + i] = (uint16_t)lists[CF_KIND_12][i];
    for (uint32_t i = 0; i < n[CF_KIND_16]; i++)
        sorted->sixteen[sorted->n[2] + i] = (uint16_t)lists[CF_KIND_16][i];
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        sorted->n[t] += n[CF_KIND_8 + t];
    memcpy(sorted->n_valued, n, sizeof sorted->n_valued);
    return 1;
}
