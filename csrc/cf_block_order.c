#include "cf_block_order.h"

enum { SHORT_ROW = 64 }; /* longest row that is ordered by counting */

/* Merges two increasing runs; which one gives the next key is not predictable, so no branch asks.
 */
static void merge(const uint64_t *a, size_t n_a, const uint64_t *b, size_t n_b, uint64_t *out) {
    const uint64_t *const a_end = a + n_a, *const b_end = b + n_b;
    while (a != a_end && b != b_end) {
        const uint64_t key_a = *a, key_b = *b;
        const int take_b = key_b < key_a;
        *out++ = take_b ? key_b : key_a;
        b += take_b;
        a += !take_b;
    }
    for (; a != a_end; a++)
        *out++ = *a;
    for (; b != b_end; b++)
        *out++ = *b;
}

/* Merges the runs that id << 32 | value keys come in, two by two, until one is left. */
static const uint64_t *merge_runs(uint64_t *from, uint64_t *to, size_t n) {
    for (;;) {
        size_t begin = 0, n_runs = 0;
        while (begin < n) {
            size_t middle = begin + 1;
            while (middle < n && from[middle] >= from[middle - 1])
                middle++;
            size_t end = middle < n ? middle + 1 : n;
            while (end < n && from[end] >= from[end - 1])
                end++;
            merge(from + begin, middle - begin, from + middle, end - middle, to + begin);
            begin = end;
            n_runs++;
        }
        if (n_runs <= 1)
            return to;
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
}

/* Sends every entry to the place its id has among the others: as many compares as a square has, but
 * they are independent and 16 places are counted at once, so a row of 40 entries takes half the
 * time of merging. An id that is there twice leaves a place as it was, which the caller sees. */
static void order_by_counting(uint32_t n, uint32_t *indices, float *data) {
    int32_t keys[SHORT_ROW];
    uint32_t ids[SHORT_ROW];
    float values[SHORT_ROW];
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = (int32_t)(indices[i] ^ 0x80000000u); /* old vector units only compare signed */
        ids[i] = indices[i];
        values[i] = data[i];
    }
    for (uint32_t i = n; i < SHORT_ROW; i++)
        keys[i] = 0;
    for (uint32_t begin = 0; begin < n; begin += 16) {
        int32_t places[16] = {0};
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t i = 0; i < 16; i++)
                places[i] += keys[k] < keys[begin + i];
        for (uint32_t i = 0; i < 16 && begin + i < n; i++) {
            indices[places[i]] = ids[begin + i];
            data[places[i]] = values[begin + i];
        }
    }
}

/* Puts a row's entries into the order of their ids. Returns 0 if an id is there twice. */
static int order_row(uint32_t n, uint64_t *scratch, uint32_t *indices, float *data) {
    if (n <= SHORT_ROW) {
        order_by_counting(n, indices, data);
    } else {
        for (uint32_t i = 0; i < n; i++)
            scratch[i] = (uint64_t)indices[i] << 32 | cf_float_bits(data[i]);
        const uint64_t *merged = merge_runs(scratch, scratch + n, n);
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t bits = (uint32_t)merged[i];
            indices[i] = (uint32_t)(merged[i] >> 32);
            memcpy(&data[i], &bits, sizeof bits);
        }
    }
    int increasing = 1;
    for (uint32_t i = 1; i < n; i++)
        increasing &= indices[i] > indices[i - 1];
    return increasing;
}

int cf_block_order(const cf_block_header *h, cf_block_rows *rows, uint64_t *scratch) {
    for (uint32_t row = 0; row < h->n_rows; row++) {
        const int64_t begin = rows->indptr[row] - rows->first_entry;
        const uint32_t n = (uint32_t)(rows->indptr[row + 1] - rows->indptr[row]);
        if (!order_row(n, scratch, rows->indices + begin, rows->data + begin))
            return 0;
    }
    return 1;
}
