/* Decoding a block: nothing read from it is believed before it is checked. */
#include "cf_block.h"

enum { SHORT_ROW = 64 }; /* longest row that is ordered by counting */

typedef struct {
    size_t labels, label_codes, weights, table, exceptions, ids, values, end;
} sections;

/* In 64 bits nothing here can overflow: every factor is below 2^32. */
static uint64_t lay_out(const cf_block_header *h, sections *s) {
    const uint64_t label_codes = CF_BLOCK_HEADER + 4 * (uint64_t)h->n_labels;
    const uint64_t weights = label_codes + ((uint64_t)h->n_rows * h->label_bits + 7) / 8;
    const uint64_t table = weights + (h->flags & CF_BLOCK_WEIGHTS ? 4 * (uint64_t)h->n_rows : 0);
    const uint64_t exceptions = table + 4 * (uint64_t)h->n_table;
    const uint64_t ids = exceptions + 8 * (uint64_t)h->n_exceptions;
    const uint64_t values = ids + h->ids_bytes;
    const uint64_t end = values + h->values_bytes + CF_BITS_PAD;
    *s = (sections){CF_BLOCK_HEADER,    (size_t)label_codes, (size_t)weights, (size_t)table,
                    (size_t)exceptions, (size_t)ids,         (size_t)values,  (size_t)end};
    return end;
}

cf_status cf_block_read_header(const uint8_t *block, size_t n, cf_block_header *h) {
    /* Magic, checksum, length and version keep their places in every version to come. */
    if (n < 16)
        return cf_fail(CF_E_TRUNCATED, n);
    if (memcmp(block, "CFB1", 4) != 0)
        return cf_fail(CF_E_MAGIC, 0);
    h->n_bytes = cf_load_u32(block + 8);
    h->version = cf_load_u16(block + 12);
    if (h->version > CF_BLOCK_VERSION)
        return cf_fail(CF_E_VERSION, 12);
    if (n < CF_BLOCK_HEADER)
        return cf_fail(CF_E_TRUNCATED, n);
    h->flags = cf_load_u16(block + 14);
    h->n_rows = cf_load_u32(block + 16);
    h->nnz = cf_load_u32(block + 20);
    h->dictionary = cf_load_u64(block + 24);
    h->max_row = cf_load_u32(block + 32);
    h->ids_bytes = cf_load_u32(block + 36);
    h->values_bytes = cf_load_u32(block + 40);
    h->n_exceptions = cf_load_u32(block + 44);
    h->n_table = cf_load_u32(block + 48);
    h->label_bits = block[52];
    h->n_labels = block[53];
    h->first_bits = block[54];
    h->second_bits = block[55];
    h->gaps.class_bits = block[56];
    memcpy(h->gaps.width, block + 57, 4);
    memcpy(h->count_bits, block + 61, CF_TIERS);

    if (h->version == 0)
        return cf_fail(CF_E_CORRUPT, 12);
    if (h->flags & ~(unsigned)CF_BLOCK_KNOWN_FLAGS)
        return cf_fail(CF_E_CORRUPT, 14);
    if (!(h->flags & CF_BLOCK_DICTIONARY) != (h->dictionary == 0))
        return cf_fail(CF_E_CORRUPT, 24);
    if (h->max_row > h->nnz)
        return cf_fail(CF_E_CORRUPT, 32);
    if (h->label_bits == 0 || (h->label_bits > 8 && h->label_bits != 32))
        return cf_fail(CF_E_CORRUPT, 52);
    if (h->label_bits == 32 ? h->n_labels != 0 : h->n_labels > 1u << h->label_bits)
        return cf_fail(CF_E_CORRUPT, 53);
    if (h->first_bits > CF_MAX_CODE_BITS || h->second_bits > CF_MAX_CODE_BITS)
        return cf_fail(CF_E_CORRUPT, 54);
    if (h->n_table > cf_code_limit(h->first_bits) + cf_code_limit(h->second_bits))
        return cf_fail(CF_E_CORRUPT, 48);
    if ((h->flags & CF_BLOCK_ONES) && (h->n_table | h->first_bits | h->second_bits) != 0)
        return cf_fail(CF_E_CORRUPT, 48);
    if (!cf_gap_code_is_valid(h->gaps))
        return cf_fail(CF_E_CORRUPT, 56);
    for (unsigned t = 0; t < CF_TIERS; t++)
        if (h->count_bits[t] > 32)
            return cf_fail(CF_E_CORRUPT, 61 + t);
    for (unsigned i = 61 + CF_TIERS; i < CF_BLOCK_HEADER; i++)
        if (block[i] != 0)
            return cf_fail(CF_E_CORRUPT, i);
    sections s;
    if (lay_out(h, &s) != h->n_bytes)
        return cf_fail(CF_E_CORRUPT, 8);
    if (h->nnz > 8 * (uint64_t)h->ids_bytes)
        return cf_fail(CF_E_CORRUPT, 20);
    if (h->n_exceptions > h->nnz)
        return cf_fail(CF_E_CORRUPT, 44);
    return cf_ok();
}

static cf_status read_labels(const uint8_t *block, const cf_block_header *h, const sections *s,
                             float *labels) {
    if (h->label_bits == 32) {
        if (h->n_rows != 0)
            memcpy(labels, block + s->label_codes, 4 * (size_t)h->n_rows);
        return cf_ok();
    }
    float table[256];
    memcpy(table, block + s->labels, 4 * (size_t)h->n_labels);
    /* The codes are no bit stream's end: ids, values and padding follow, so loads stay inside. */
    for (uint32_t i = 0; i < h->n_rows; i++) {
        const uint64_t position = (uint64_t)i * h->label_bits;
        const uint32_t code = cf_bits_at(block + s->label_codes, position, h->label_bits);
        if (code >= h->n_labels)
            return cf_fail(CF_E_CORRUPT, s->label_codes + (size_t)(position >> 3));
        labels[i] = table[code];
    }
    return cf_ok();
}

typedef struct {
    const cf_block_header *header;
    const cf_dictionary *dictionary;
    const uint8_t *ids, *values;  /* the two streams */
    uint64_t ids_end, values_end; /* in bits */
    uint64_t ids_at, values_at;
    const uint8_t *own_values; /* the block's own table */
    cf_value_table own_table;
    uint64_t prefix_bits;           /* counts and bitmap of a row */
    uint32_t run_end[CF_TIERS + 1]; /* of the row at hand: bitmap, coded tiers, outside */
} decoder;

/* The next value, from a table whose values are at `values`. Returns 0 if there is none: the stream
 * has ended, or the code is past the table. */
static inline int read_value(decoder *d, const uint8_t *values, cf_value_table table,
                             float *value) {
    uint64_t at = d->values_at;
    if (at > d->values_end)
        return 0;
    uint32_t code = cf_bits_at(d->values, at, table.first_bits);
    at += table.first_bits;
    if (code == cf_code_limit(table.first_bits)) {
        const uint32_t second = cf_bits_at(d->values, at, table.second_bits);
        at += table.second_bits;
        if (second == cf_code_limit(table.second_bits)) {
            const uint32_t bits = cf_bits_at(d->values, at, 32);
            memcpy(value, &bits, sizeof bits);
            d->values_at = at + 32;
            return 1;
        }
        code += second;
    }
    d->values_at = at;
    if (code >= table.n)
        return 0;
    memcpy(value, values + 4 * (size_t)code, sizeof *value);
    return 1;
}

/* n values of ids without a table of their own. */
static int read_plain_values(decoder *d, uint32_t n, float *data) {
    if (d->header->flags & CF_BLOCK_ONES) {
        for (uint32_t i = 0; i < n; i++)
            data[i] = 1.0f;
        return 1;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!read_value(d, d->own_values, d->own_table, &data[i]))
            return 0;
    return 1;
}

/* n values of the ids of these ranks, some of which have tables. */
static int read_ranked_values(decoder *d, uint32_t n, const uint32_t *ranks, float *data) {
    const cf_dictionary *dictionary = d->dictionary;
    const uint8_t *values = (const uint8_t *)dictionary->values;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t table_number = dictionary->table_of[ranks[i]];
        if (table_number == 0) {
            if (!read_plain_values(d, 1, &data[i]))
                return 0;
            continue;
        }
        const cf_value_table table = dictionary->tables[table_number - 1];
        if (!read_value(d, values + 4 * (size_t)table.begin, table, &data[i]))
            return 0;
    }
    return 1;
}

/* The dictionary's ids of a row, as ranks; n_outside: how many others follow. Returns how many, or
 * UINT32_MAX if the row has more than `room` entries or its bits make no sense. */
static uint32_t read_ranks(decoder *d, uint32_t room, uint32_t *ranks, uint32_t *n_outside) {
    const cf_dictionary *dictionary = d->dictionary;
    const uint8_t *count_bits = d->header->count_bits;
    if (d->ids_end - d->ids_at < d->prefix_bits)
        return UINT32_MAX;
    uint64_t at = d->ids_at, n_members = 0, member_bits = 0;
    uint32_t count[CF_TIERS];
    for (unsigned t = 0; t <= dictionary->n_tiers; t++) {
        count[t] = cf_bits_at(d->ids, at, count_bits[t]);
        at += count_bits[t];
        n_members += count[t];
        member_bits += (uint64_t)count[t] * dictionary->tier_bits[t];
    }
    uint32_t e = 0;
    for (uint32_t first = 0; first < dictionary->tier_size[0]; first += 32) {
        const uint32_t left = dictionary->tier_size[0] - first;
        const unsigned width = left < 32 ? left : 32;
        uint32_t bits = cf_bits_at(d->ids, at, width);
        at += width;
        for (; bits != 0; bits &= bits - 1) {
            if (e == room)
                return UINT32_MAX;
            ranks[e++] = first + (uint32_t)__builtin_ctz(bits);
        }
    }
    d->run_end[0] = e;
    if (n_members > room - e || member_bits > d->ids_end - at)
        return UINT32_MAX;
    for (unsigned t = 1; t <= dictionary->n_tiers; t++) {
        const unsigned width = dictionary->tier_bits[t];
        const uint32_t begin = dictionary->tier_begin[t], size = dictionary->tier_size[t];
        int64_t previous = -1;
        int bad = 0;
        for (uint32_t i = 0; i < count[t]; i++, at += width) {
            const uint32_t number = cf_bits_at(d->ids, at, width);
            bad |= number >= size || number <= previous;
            previous = number;
            ranks[e++] = begin + number;
        }
        if (bad)
            return UINT32_MAX;
        d->run_end[t] = e;
    }
    d->ids_at = at;
    *n_outside = count[0];
    return e;
}

/* The next row, in the order of the tiers, ids as written. Returns its length, or UINT32_MAX. */
static uint32_t read_row(decoder *d, uint32_t room, uint32_t *indices, float *data) {
    const cf_dictionary *dictionary = d->dictionary;
    uint32_t n_outside = 0;
    uint32_t e = read_ranks(d, room, indices, &n_outside);
    if (e == UINT32_MAX)
        return UINT32_MAX;
    uint32_t begin = 0;
    for (unsigned t = 0; t <= dictionary->n_tiers; t++) {
        const uint32_t n = d->run_end[t] - begin;
        if (!(dictionary->tier_has_tables[t]
                  ? read_ranked_values(d, n, indices + begin, data + begin)
                  : read_plain_values(d, n, data + begin)))
            return UINT32_MAX;
        begin += n;
    }
    for (uint32_t i = 0; i < e; i++)
        indices[i] = dictionary->ids[indices[i]];
    if (!read_plain_values(d, n_outside, data + e))
        return UINT32_MAX;
    uint64_t next = 0; /* the smallest id that may follow */
    for (uint32_t i = 0; i < n_outside; i++) {
        if (d->ids_at > d->ids_end)
            return UINT32_MAX;
        const uint64_t id = next + cf_gap_at(d->ids, &d->ids_at, d->header->gaps);
        if (id > UINT32_MAX)
            return UINT32_MAX;
        next = id + 1;
        indices[e++] = (uint32_t)id;
    }
    d->run_end[dictionary->n_tiers + 1] = e;
    return d->ids_at <= d->ids_end ? e : UINT32_MAX;
}

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

/* As id << 32 | value, merges the runs that end at ends[0, n_runs) two by two. */
static const uint64_t *merge_runs(uint64_t *from, uint64_t *to, uint32_t *ends, unsigned n_runs) {
    while (n_runs > 1) {
        uint32_t begin = 0;
        unsigned merged = 0;
        for (unsigned r = 0; r < n_runs; r += 2) {
            const uint32_t middle = ends[r], end = r + 1 < n_runs ? ends[r + 1] : middle;
            merge(from + begin, middle - begin, from + middle, end - middle, to + begin);
            begin = ends[merged++] = end;
        }
        n_runs = merged;
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    return from;
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
static int order_row(const decoder *d, uint64_t *scratch, uint32_t *indices, float *data) {
    uint32_t ends[CF_TIERS + 1];
    unsigned n_runs = 0;
    uint32_t n = 0;
    for (unsigned t = 0; t <= d->dictionary->n_tiers + 1; t++)
        if (d->run_end[t] != n)
            n = ends[n_runs++] = d->run_end[t];
    if (n_runs <= 1)
        return 1;
    if (n <= SHORT_ROW) {
        order_by_counting(n, indices, data);
    } else {
        for (uint32_t i = 0; i < n; i++)
            scratch[i] = (uint64_t)indices[i] << 32 | cf_float_bits(data[i]);
        const uint64_t *merged = merge_runs(scratch, scratch + n, ends, n_runs);
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

size_t cf_block_decode_scratch(const cf_block_header *header, int ordered) {
    return ordered ? 2 * (size_t)header->max_row : 0;
}

static cf_status read_rows(decoder *d, const uint8_t *block, const sections *s,
                           cf_block_options options, uint64_t *scratch, cf_block_rows *rows) {
    const cf_block_header *h = d->header;
    uint32_t done = 0, n_exceptions = 0, largest = 0;
    rows->indptr[0] = rows->first_entry;
    for (uint32_t row = 0; row < h->n_rows; row++) {
        uint32_t *indices = rows->indices + done;
        float *data = rows->data + done;
        const uint32_t room = h->nnz - done < h->max_row ? h->nnz - done : h->max_row;
        const uint32_t n = read_row(d, room, indices, data);
        if (n == UINT32_MAX)
            return cf_fail(CF_E_CORRUPT, s->ids + (size_t)(d->ids_at >> 3));
        for (; n_exceptions < h->n_exceptions; n_exceptions++) {
            const uint8_t *exception = block + s->exceptions + 8 * (size_t)n_exceptions;
            const uint32_t entry = cf_load_u32(exception);
            if (entry >= done && entry - done >= n)
                break;
            if (entry < done)
                return cf_fail(CF_E_CORRUPT, (size_t)(exception - block));
            memcpy(&data[entry - done], exception + 4, sizeof *data);
        }
        if (options.ordered && !order_row(d, scratch, indices, data))
            return cf_fail(CF_E_CORRUPT, s->ids + (size_t)(d->ids_at >> 3));
        int below = 0;
        for (uint32_t i = 0; i < n; i++) {
            below |= indices[i] < options.base;
            indices[i] -= options.base;
            largest = indices[i] > largest ? indices[i] : largest;
        }
        if (below)
            return cf_fail(CF_E_CORRUPT, s->ids + (size_t)(d->ids_at >> 3));
        done += n;
        rows->indptr[row + 1] = rows->first_entry + done;
    }
    if (done != h->nnz)
        return cf_fail(CF_E_CORRUPT, 20);
    if (n_exceptions != h->n_exceptions)
        return cf_fail(CF_E_CORRUPT, s->exceptions + 8 * (size_t)n_exceptions);
    if (d->ids_end - d->ids_at >= 8)
        return cf_fail(CF_E_CORRUPT, s->ids + (size_t)(d->ids_at >> 3));
    if (d->values_at > d->values_end || d->values_end - d->values_at >= 8)
        return cf_fail(CF_E_CORRUPT, s->values + (size_t)(d->values_at >> 3));
    rows->n_features = done != 0 ? (uint64_t)largest + 1 : 0;
    return cf_ok();
}

cf_status cf_block_decode(const cf_kernels *kernels, const uint8_t *block, size_t n,
                          const cf_block_header *h, const cf_dictionary *dictionary,
                          cf_block_options options, uint64_t *scratch, cf_block_rows *rows) {
    if (n < h->n_bytes)
        return cf_fail(CF_E_TRUNCATED, n);
    if (!options.skip_checksum &&
        kernels->crc32c(0, block + 8, h->n_bytes - 8) != cf_load_u32(block + 4))
        return cf_fail(CF_E_CHECKSUM, 4);
    if (!(h->flags & CF_BLOCK_DICTIONARY))
        dictionary = &cf_no_dictionary;
    else if (dictionary == NULL || dictionary->identity != h->dictionary)
        return cf_fail(CF_E_DICTIONARY, 24);
    uint64_t prefix_bits = dictionary->tier_size[0];
    for (unsigned t = 0; t < CF_TIERS; t++) {
        prefix_bits += h->count_bits[t];
        if (t > dictionary->n_tiers && h->count_bits[t] != 0)
            return cf_fail(CF_E_CORRUPT, 61 + t);
    }
    sections s;
    lay_out(h, &s);
    const cf_status status = read_labels(block, h, &s, rows->labels);
    if (status.code != CF_OK)
        return status;
    if ((h->flags & CF_BLOCK_WEIGHTS) && rows->weights != NULL && h->n_rows != 0)
        memcpy(rows->weights, block + s.weights, 4 * (size_t)h->n_rows);
    decoder d = {
        .header = h,
        .dictionary = dictionary,
        .ids = block + s.ids,
        .values = block + s.values,
        .ids_end = 8 * (uint64_t)h->ids_bytes,
        .values_end = 8 * (uint64_t)h->values_bytes,
        .own_values = block + s.table,
        .own_table = {0, (uint16_t)h->n_table, (uint8_t)h->first_bits, (uint8_t)h->second_bits},
        .prefix_bits = prefix_bits,
    };
    return read_rows(&d, block, &s, options, scratch, rows);
}
