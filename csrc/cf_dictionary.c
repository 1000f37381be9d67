/* Parsing a dictionary, and finding ids and values in it. */
#include "cf_dictionary.h"

#include "cf_bits.h"

static const uint64_t NO_ID_SLOTS[2] = {CF_NO_SLOT, CF_NO_SLOT};
static const uint64_t NO_VALUE_SLOTS[2] = {0, 0};

const cf_dictionary cf_no_dictionary = {
    .id_slots = NO_ID_SLOTS,
    .value_slots = NO_VALUE_SLOTS,
    .id_slot_bits = 1,
    .value_slot_bits = 1,
};

/* Header fields in the order of docs/shard-format.md. */
typedef struct {
    uint32_t tier_size[CF_TIERS];
    uint32_t n_ids, n_tables, n_values, ids_bytes;
    unsigned n_tiers;
    cf_gap_code gaps;
} header;

static unsigned slot_bits(uint32_t n) {
    return n == 0 ? 1 : cf_bit_length(n) + 1; /* between a quarter and a half full */
}

static size_t words_of(size_t bytes) { return (bytes + 7) / 8; }

static size_t id_slots_words(const header *h) { return (size_t)1 << slot_bits(h->n_ids); }

static size_t value_slots_words(const header *h) { return (size_t)1 << slot_bits(h->n_values); }

static size_t memory_words(const header *h) {
    return words_of(sizeof(cf_dictionary)) + words_of(8 * (size_t)h->n_ids) +
           words_of(sizeof(cf_value_table) * (size_t)h->n_tables) +
           words_of(4 * (size_t)h->n_values) + id_slots_words(h) + value_slots_words(h);
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
    uint64_t n_ids = 0;
    for (unsigned t = 0; t < CF_TIERS; t++) {
        h->tier_size[t] = cf_load_u32(data + 16 + 4 * t);
        n_ids += h->tier_size[t];
    }
    h->n_tables = cf_load_u32(data + 40);
    h->n_values = cf_load_u32(data + 44);
    h->ids_bytes = cf_load_u32(data + 48);
    h->n_tiers = data[52];
    h->gaps.class_bits = data[53];
    memcpy(h->gaps.width, data + 54, 4);
    if (h->n_tiers >= CF_TIERS || h->tier_size[0] > CF_MAX_BITMAP)
        return cf_fail(CF_E_CORRUPT, 16);
    for (unsigned t = 1; t < CF_TIERS; t++)
        if ((h->tier_size[t] != 0) != (t <= h->n_tiers))
            return cf_fail(CF_E_CORRUPT, 16 + 4 * t);
    if (!cf_gap_code_is_valid(h->gaps))
        return cf_fail(CF_E_CORRUPT, 53);
    for (unsigned i = 58; i < CF_DICTIONARY_HEADER; i++)
        if (data[i] != 0)
            return cf_fail(CF_E_CORRUPT, i);
    /* Every id takes a bit or more: what the header asks for is bounded by what it brings. */
    if (n_ids > CF_MAX_DICTIONARY_IDS || n_ids > 8 * (uint64_t)h->ids_bytes)
        return cf_fail(CF_E_CORRUPT, 16);
    h->n_ids = (uint32_t)n_ids;
    if (h->n_tables > h->n_ids)
        return cf_fail(CF_E_CORRUPT, 40);
    if (CF_DICTIONARY_HEADER + (uint64_t)h->ids_bytes + 8 * (uint64_t)h->n_tables +
            4 * (uint64_t)h->n_values + CF_BITS_PAD !=
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

/* FNV-1a of everything after magic and checksum; 0 is kept for "no dictionary". */
static uint64_t identity_of(const uint8_t *data, size_t n) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 8; i < n; i++)
        hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
    return hash != 0 ? hash : 1;
}

/* Steps past taken slots while n keys go into a hash, of which real ones need about n / 2. Keys
 * made to meet would need n^2 / 2, minutes for a few megabytes. */
static uint64_t most_steps(uint32_t n) { return (UINT64_C(1) << 26) + 64 * (uint64_t)n; }

/* Ids of all tiers, and the hash that finds them. */
static cf_status read_ids(const uint8_t *data, const header *h, cf_dictionary *d, uint32_t *ids,
                          uint64_t *slots) {
    const uint8_t *stream = data + CF_DICTIONARY_HEADER;
    const uint64_t end = 8 * (uint64_t)h->ids_bytes;
    const uint64_t mask = ((uint64_t)1 << d->id_slot_bits) - 1;
    uint64_t position = 0, steps_left = most_steps(h->n_ids);
    for (uint64_t i = 0; i <= mask; i++)
        slots[i] = CF_NO_SLOT;
    for (unsigned t = 0; t <= h->n_tiers; t++) {
        uint64_t next = 0; /* the smallest id that may follow */
        for (uint32_t i = 0; i < h->tier_size[t]; i++) {
            const size_t offset = CF_DICTIONARY_HEADER + (size_t)(position >> 3);
            if (position > end)
                return cf_fail(CF_E_CORRUPT, offset);
            const uint64_t id = next + cf_gap_at(stream, &position, h->gaps);
            if (id > UINT32_MAX)
                return cf_fail(CF_E_CORRUPT, offset);
            next = id + 1;
            const uint32_t rank = d->tier_begin[t] + i;
            ids[rank] = (uint32_t)id;
            uint64_t s = ((uint32_t)id * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - d->id_slot_bits);
            for (; slots[s] != CF_NO_SLOT; s = (s + 1) & mask)
                if ((uint32_t)slots[s] == id || steps_left-- == 0)
                    return cf_fail(CF_E_CORRUPT, offset); /* the id has two ranks, or see above */
            slots[s] = id | (uint64_t)rank << 32 | (uint64_t)t << 60;
        }
    }
    if (position > end || end - position >= 8)
        return cf_fail(CF_E_CORRUPT, CF_DICTIONARY_HEADER + (size_t)(position >> 3));
    return cf_ok();
}

static cf_status read_tables(const uint8_t *data, const header *h, cf_dictionary *d,
                             uint32_t *table_of, cf_value_table *tables, uint32_t *values,
                             uint64_t *slots) {
    const size_t tables_at = CF_DICTIONARY_HEADER + (size_t)h->ids_bytes;
    uint32_t next_rank = 0, begin = 0;
    uint64_t steps_left = most_steps(h->n_values);
    for (uint32_t i = 0; i < h->n_tables; i++) {
        const size_t offset = tables_at + 8 * (size_t)i;
        const uint8_t *entry = data + offset;
        const uint32_t rank = cf_load_u32(entry);
        cf_value_table *table = &tables[i];
        table->begin = begin;
        table->n = (uint16_t)cf_load_u16(entry + 4);
        table->first_bits = entry[6];
        table->second_bits = entry[7];
        if (rank < next_rank || rank >= h->n_ids)
            return cf_fail(CF_E_CORRUPT, offset);
        if (table->first_bits > CF_MAX_CODE_BITS || table->second_bits > CF_MAX_CODE_BITS ||
            table->n > cf_code_limit(table->first_bits) + cf_code_limit(table->second_bits) ||
            table->n > h->n_values - begin)
            return cf_fail(CF_E_CORRUPT, offset + 4);
        next_rank = rank + 1;
        begin += table->n;
        table_of[rank] = i + 1;
        for (unsigned t = 0; t < CF_TIERS; t++)
            if (rank >= d->tier_begin[t] && rank - d->tier_begin[t] < d->tier_size[t])
                d->tier_has_tables[t] = 1;
    }
    if (begin != h->n_values)
        return cf_fail(CF_E_CORRUPT, 44);
    if (h->n_values != 0)
        memcpy(values, data + tables_at + 8 * (size_t)h->n_tables, 4 * (size_t)h->n_values);

    const uint64_t mask = ((uint64_t)1 << d->value_slot_bits) - 1;
    memset(slots, 0, (size_t)(mask + 1) * sizeof *slots);
    for (uint32_t i = 0; i < h->n_tables; i++)
        for (uint32_t v = tables[i].begin; v < tables[i].begin + tables[i].n; v++) {
            uint64_t s = cf_dictionary_value_slot(d, i, values[v]);
            for (; slots[s] != 0; s = (s + 1) & mask)
                if (steps_left-- == 0)
                    return cf_fail(CF_E_CORRUPT, tables_at + 8 * (size_t)i);
            slots[s] = (uint64_t)values[v] << 32 | (v + 1);
        }
    return cf_ok();
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
    uint64_t *id_slots = at;
    at += id_slots_words(&h);
    cf_value_table *tables = (cf_value_table *)(void *)at;
    at += words_of(sizeof *tables * (size_t)h.n_tables);
    uint64_t *value_slots = at;
    at += value_slots_words(&h);
    uint32_t *values = (uint32_t *)(void *)at;
    at += words_of(4 * (size_t)h.n_values);
    uint32_t *ids = (uint32_t *)(void *)at, *table_of = ids + h.n_ids;

    d->identity = identity_of(data, n);
    d->n_ids = h.n_ids;
    d->n_tables = h.n_tables;
    d->n_values = h.n_values;
    d->n_tiers = h.n_tiers;
    uint32_t begin = 0;
    for (unsigned t = 0; t < CF_TIERS; t++) {
        d->tier_begin[t] = begin;
        d->tier_size[t] = h.tier_size[t];
        begin += h.tier_size[t];
        if (t != 0 && t <= h.n_tiers) /* a bit at least: entries are never free */
            d->tier_bits[t] = (uint8_t)cf_bit_length((h.tier_size[t] - 1) | 1);
    }
    d->ids = ids;
    d->table_of = table_of;
    d->tables = tables;
    d->values = values;
    d->id_slots = id_slots;
    d->value_slots = value_slots;
    d->id_slot_bits = slot_bits(h.n_ids);
    d->value_slot_bits = slot_bits(h.n_values);
    status = read_ids(data, &h, d, ids, id_slots);
    if (status.code != CF_OK)
        return status;
    return read_tables(data, &h, d, table_of, tables, values, value_slots);
}
