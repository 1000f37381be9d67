/* Parsing a dictionary. */
#include "cf_dictionary.h"

#include "cf_bits.h"

const cf_dictionary cf_no_dictionary = {0};

/* Header fields in the order of docs/shard-format.md. */
typedef struct {
    uint32_t tier_size[CF_TIERS];
    uint32_t n_ids, n_narrow, n_wide, n_values, ids_bytes;
    cf_gap_code gaps;
} header;

static size_t words_of(size_t bytes) { return (bytes + 7) / 8; }

static size_t narrow_words(const header *h) {
    return words_of(4 * 256 * (((size_t)h->n_narrow + 7) & ~(size_t)7));
}

/* Everything in turn; two copies of the ids to sort them in, which the tables need only once. */
static size_t memory_words(const header *h) {
    return words_of(sizeof(cf_dictionary)) +
           words_of(4 * ((size_t)h->n_ids + CF_DICTIONARY_SLACK)) + 2 * (size_t)h->n_ids +
           words_of(sizeof(cf_value_table) * ((size_t)h->n_narrow + h->n_wide)) +
           words_of(4 * (size_t)h->n_values) + narrow_words(h) + 256;
}

static cf_status read_header(const uint8_t *data, size_t n, header *h) {
    if (n < 16)
        return cf_fail(CF_E_TRUNCATED, n);
    if (memcmp(data, "CFD1", 4) != 0)
        return cf_fail(CF_E_MAGIC, 0);
    if (cf_load_u16(data + 12) > CF_DICTIONARY_VERSION)
        return cf_fail(CF_E_VERSION, 12);
    const uint32_t n_bytes = cf_load_u32(data + 8);
    if (n < CF_DICTIONARY_HEADER || n < n_bytes)
        return cf_fail(CF_E_TRUNCATED, n);
    if (n > n_bytes)
        return cf_fail(CF_E_CORRUPT, 8);
    if (cf_load_u16(data + 12) == 0 || cf_load_u16(data + 14) != 0)
        return cf_fail(CF_E_CORRUPT, 12);
    h->n_ids = 0;
    for (unsigned t = 0; t < CF_TIERS; t++) {
        h->tier_size[t] = cf_load_u32(data + 16 + 4 * t);
        if (h->tier_size[t] > cf_tier_room(t))
            return cf_fail(CF_E_CORRUPT, 16 + 4 * t);
        h->n_ids += h->tier_size[t];
    }
    h->n_narrow = cf_load_u32(data + 32);
    h->n_wide = cf_load_u32(data + 36);
    h->n_values = cf_load_u32(data + 40);
    h->ids_bytes = cf_load_u32(data + 44);
    h->gaps.class_bits = data[48];
    memcpy(h->gaps.width, data + 49, 4);
    const uint64_t n_tables = (uint64_t)h->n_narrow + h->n_wide;
    if (n_tables > CF_MAX_TABLES || n_tables > h->tier_size[0])
        return cf_fail(CF_E_CORRUPT, 32);
    if (!cf_gap_code_is_valid(h->gaps))
        return cf_fail(CF_E_CORRUPT, 48);
    for (unsigned i = 53; i < CF_DICTIONARY_HEADER; i++)
        if (data[i] != 0)
            return cf_fail(CF_E_CORRUPT, i);
    /* Every id takes a bit or more: what the header asks for is bounded by what it brings. */
    if (h->n_ids > 8 * (uint64_t)h->ids_bytes)
        return cf_fail(CF_E_CORRUPT, 16);
    if (CF_DICTIONARY_HEADER + (uint64_t)h->ids_bytes + 4 * n_tables + 4 * (uint64_t)h->n_values +
            CF_BITS_PAD !=
        n)
        return cf_fail(CF_E_CORRUPT, 8);
    return cf_ok();
}

cf_status cf_dictionary_measure(const uint8_t *data, size_t n, size_t *n_words) {
    header h;
    const cf_status status = read_header(data, n, &h);
    if (status.code == CF_OK)
        *n_words = memory_words(&h);
    return status;
}

/* FNV-1a over words of eight bytes (the last filled up with 0) of everything after magic and
 * checksum; 0 is kept for "no dictionary". */
static uint64_t identity_of(const uint8_t *data, size_t n) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 8; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, data + i, n - i < 8 ? n - i : 8);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
    }
    return hash != 0 ? hash : 1;
}

/* The ids of all tiers. sort: 2 n_ids words. */
static cf_status read_ids(const uint8_t *data, const header *h, uint32_t *ids, uint64_t *sort) {
    const uint8_t *stream = data + CF_DICTIONARY_HEADER;
    const uint64_t end = 8 * (uint64_t)h->ids_bytes;
    const uint32_t n_tables = h->n_narrow + h->n_wide;
    const uint32_t runs[] = {h->n_narrow,     h->n_wide,       h->tier_size[0] - n_tables,
                             h->tier_size[1], h->tier_size[2], h->tier_size[3]};
    uint64_t position = 0;
    uint32_t rank = 0;
    for (unsigned r = 0; r < sizeof runs / sizeof *runs; r++) {
        uint64_t next = 0; /* the smallest id that may follow */
        for (uint32_t i = 0; i < runs[r]; i++) {
            const size_t offset = CF_DICTIONARY_HEADER + (size_t)(position >> 3);
            if (position > end)
                return cf_fail(CF_E_CORRUPT, offset);
            const uint64_t id = next + cf_gap_at(stream, &position, h->gaps);
            if (id > UINT32_MAX)
                return cf_fail(CF_E_CORRUPT, offset);
            next = id + 1;
            ids[rank++] = (uint32_t)id;
        }
    }
    if (position > end || end - position >= 8)
        return cf_fail(CF_E_CORRUPT, CF_DICTIONARY_HEADER + (size_t)(position >> 3));
    for (uint32_t i = 0; i < h->n_ids; i++)
        sort[i] = ids[i];
    cf_sort_u64(sort, sort + h->n_ids, h->n_ids);
    for (uint32_t i = 1; i < h->n_ids; i++)
        if (sort[i] == sort[i - 1]) /* the id has two ranks */
            return cf_fail(CF_E_CORRUPT, CF_DICTIONARY_HEADER);
    return cf_ok();
}

static cf_status read_tables(const uint8_t *data, const header *h, cf_value_table *tables,
                             uint32_t *values, float *narrow) {
    const size_t at = CF_DICTIONARY_HEADER + (size_t)h->ids_bytes;
    const uint32_t n_tables = h->n_narrow + h->n_wide;
    uint32_t begin = 0;
    for (uint32_t i = 0; i < n_tables; i++) {
        const uint32_t n = cf_load_u32(data + at + 4 * (size_t)i);
        if (n > cf_value_table_room(i >= h->n_narrow) || n > h->n_values - begin)
            return cf_fail(CF_E_CORRUPT, at + 4 * (size_t)i);
        tables[i] = (cf_value_table){begin, n};
        begin += n;
    }
    if (begin != h->n_values)
        return cf_fail(CF_E_CORRUPT, 40);
    if (h->n_values != 0)
        memcpy(values, data + at + 4 * (size_t)n_tables, 4 * (size_t)h->n_values);
    for (uint32_t i = 0; i < h->n_narrow; i++) {
        const uint32_t n = tables[i].n < CF_NARROW_ESCAPE ? tables[i].n : CF_NARROW_ESCAPE;
        if (n != 0)
            memcpy(narrow + 256 * (size_t)i, values + tables[i].begin, 4 * (size_t)n);
    }
    return cf_ok();
}

static void fill_spread(uint64_t *spread) {
    for (unsigned byte = 0; byte < 256; byte++) {
        unsigned n = 0;
        for (unsigned bit = 0; bit < 8; bit++)
            if (byte >> bit & 1)
                spread[byte] |= (uint64_t)bit << 8 * n++;
    }
}

cf_status cf_dictionary_parse(const cf_kernels *kernels, const uint8_t *data, size_t n,
                              int skip_checksum, uint64_t *memory, size_t n_words) {
    header h;
    cf_status status = read_header(data, n, &h);
    if (status.code != CF_OK)
        return status;
    if (n_words < memory_words(&h))
        return cf_fail(CF_E_ROOM, 0);
    if (!skip_checksum && kernels->crc32c(0, data + 8, n - 8) != cf_load_u32(data + 4))
        return cf_fail(CF_E_CHECKSUM, 4);
    memset(memory, 0, memory_words(&h) * sizeof *memory);

    cf_dictionary *d = (cf_dictionary *)(void *)memory;
    uint64_t *at = memory + words_of(sizeof *d);
    uint64_t *spread = at;
    at += 256;
    float *narrow = (float *)(void *)at;
    at += narrow_words(&h);
    cf_value_table *tables = (cf_value_table *)(void *)at;
    at += words_of(sizeof *tables * ((size_t)h.n_narrow + h.n_wide));
    uint32_t *values = (uint32_t *)(void *)at;
    at += words_of(4 * (size_t)h.n_values);
    uint32_t *ids = (uint32_t *)(void *)at;
    at += words_of(4 * ((size_t)h.n_ids + CF_DICTIONARY_SLACK));

    d->identity = identity_of(data, n);
    d->n_ids = h.n_ids;
    d->n_values = h.n_values;
    d->n_narrow = h.n_narrow;
    d->n_wide = h.n_wide;
    d->bitmap_bytes = (h.tier_size[0] + 7) / 8;
    uint32_t begin = 0;
    for (unsigned t = 0; t < CF_TIERS; t++) {
        d->tier_begin[t] = begin;
        d->tier_size[t] = h.tier_size[t];
        begin += h.tier_size[t];
    }
    d->ids = ids;
    d->tables = tables;
    d->values = values;
    d->narrow = narrow;
    d->spread = spread;
    fill_spread(spread);
    status = read_ids(data, &h, ids, at);
    if (status.code != CF_OK)
        return status;
    return read_tables(data, &h, tables, values, narrow);
}
