#include "cf_block_columns.h"

#include "cf_bits.h"

bool cf_block_columns_valued(cf_block_columns *columns, const cf_dictionary *dictionary,
                             const uint32_t *ranks, const uint32_t *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t rank = ranks[i];
        if (values[i] == CF_ONE_BITS)
            columns->ones[rank]++;
        else if (!cf_column_add(columns->table, dictionary->ids[rank], cf_float_of(values[i])))
            return false;
    }
    return true;
}

bool cf_block_columns_plain(cf_block_columns *columns, const uint32_t *indices, const float *data,
                            const uint32_t *entries, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t id = indices[entries[i]];
        const float x = data[entries[i]];
        if (x == 1.0f)
            columns->table->ones[id]++;
        else if (!cf_column_add(columns->table, id, x))
            return false;
    }
    return true;
}

/* How many rows have each bit of one of their bytes: in lanes of a byte, up to 255 rows at once. */
static void count_bits(const uint8_t *bytes, size_t n_rows, size_t stride, uint32_t counts[8]) {
    const uint64_t each = UINT64_C(0x0101010101010101), places = UINT64_C(0x8040201008040201);
    for (size_t row = 0; row < n_rows;) {
        const size_t end = n_rows - row < 255 ? n_rows : row + 255;
        uint64_t sums = 0;
        for (; row < end; row++)
            sums += ((each * bytes[row * stride] & places) + each * 0x7f) >> 7 & each;
        for (unsigned bit = 0; bit < 8; bit++)
            counts[bit] += (uint32_t)(sums >> 8 * bit) & 255;
    }
}

void cf_block_columns_ones(cf_block_columns *columns, const cf_dictionary *dictionary,
                           const cf_sorted_ones *sorted) {
    enum { AHEAD = 16 };
    const uint32_t n_valued = dictionary->n_narrow + dictionary->n_wide;
    const uint32_t n_bytes = dictionary->bitmap_bytes;
    for (uint32_t byte = n_valued / 8; byte < n_bytes; byte++) {
        uint32_t counts[8] = {0};
        count_bits(sorted->bitmaps + byte, sorted->n_rows, n_bytes, counts);
        for (uint32_t bit = 0; bit < 8; bit++)
            if (counts[bit] != 0 && 8 * byte + bit >= n_valued)
                columns->ones[8 * byte + bit] += counts[bit];
    }
    uint32_t *ones = columns->ones + dictionary->tier_begin[1];
    for (uint32_t i = 0; i < sorted->n[0]; i++)
        ones[sorted->eight[i]]++;
    ones = columns->ones + dictionary->tier_begin[2];
    for (uint32_t i = 0; i < sorted->n[1]; i++)
        ones[sorted->twelve[i]]++;
    ones = columns->ones + dictionary->tier_begin[3];
    for (uint32_t i = 0; i < sorted->n[2]; i++)
        ones[sorted->sixteen[i]]++;
    ones = columns->table->ones;
    for (uint32_t i = 0; i < sorted->n[3]; i++) {
        if (i + AHEAD < sorted->n[3])
            __builtin_prefetch(ones + sorted->outside[i + AHEAD], 1);
        ones[sorted->outside[i]]++;
    }
}

bool cf_block_columns_by_id(cf_block_columns *columns, const cf_dictionary *dictionary) {
    for (uint32_t rank = 0; rank < dictionary->n_ids; rank++)
        if (columns->ones[rank] != 0 && dictionary->ids[rank] >= columns->table->n_columns)
            return false;
    for (uint32_t rank = 0; rank < dictionary->n_ids; rank++)
        if (columns->ones[rank] != 0) {
            columns->table->ones[dictionary->ids[rank]] += columns->ones[rank];
            columns->ones[rank] = 0;
        }
    return true;
}
