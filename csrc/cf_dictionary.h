/* cf_dictionary.h -- what the blocks of one data set share: popular ids and their usual values.
 *
 * An id of the dictionary has a rank, and ranks are cut into tiers: tier 0 holds the most popular
 * ids (a row has one bit for each), tiers 1 to 5 larger and larger sets (a row names a member by
 * its number in the tier). Inside a tier ranks increase with the id. Ids outside are written as
 * they are, so a dictionary made from a sample serves any rows. An id whose values repeat has a
 * value table: its values, most frequent first.
 *
 * The serialised form is described byte by byte in docs/shard-format.md. All functions read and
 * write only memory the caller hands in; a parsed dictionary is never written to again, so any
 * number of threads may use it.
 */
#ifndef CF_DICTIONARY_H
#define CF_DICTIONARY_H

#include <stddef.h>
#include <stdint.h>

#include "cf_dispatch.h"
#include "cf_status.h"

enum {
    CF_DICTIONARY_VERSION = 1,
    CF_DICTIONARY_HEADER = 72,
    CF_TIERS = 6, /* the bitmap and five coded tiers */
    CF_MAX_DICTIONARY_IDS = 1 << 20,
    CF_MAX_BITMAP = 4096,
    CF_MAX_CODE_BITS = 15
};

/* Values coded most frequent first: a code of `first_bits` counts up to its largest value, which
 * means "see the next `second_bits`"; the largest there means "see the next 32 bits, the value".
 * No bits at all is the largest code, so 0 and 0 with no values is plain float32. */
typedef struct {
    uint32_t begin; /* values[begin, begin + n) of the dictionary */
    uint16_t n;     /* at most 2^first_bits - 1 + 2^second_bits - 1 */
    uint8_t first_bits, second_bits;
} cf_value_table;

typedef struct {
    uint64_t identity; /* hash of the contents, never 0 */
    uint32_t n_ids, n_tables, n_values;
    unsigned n_tiers;              /* coded tiers in use, 0 to 5 */
    uint32_t tier_begin[CF_TIERS]; /* first rank of each tier */
    uint32_t tier_size[CF_TIERS];  /* 0 past n_tiers */
    uint8_t tier_bits[CF_TIERS];   /* width of a member's number; 0 for the bitmap */
    uint8_t tier_has_tables[CF_TIERS];
    const uint32_t *ids;          /* [n_ids], by rank */
    const uint32_t *table_of;     /* [n_ids], 1 + index into tables, or 0 for no table */
    const cf_value_table *tables; /* [n_tables] */
    const uint32_t *values;       /* [n_values], bits of float32 */
    const uint64_t *id_slots;     /* hash: id | rank << 32 | tier << 60, or CF_NO_SLOT */
    const uint64_t *value_slots;  /* hash: (1 + index into values) | bits << 32, or 0 */
    unsigned id_slot_bits, value_slot_bits;
} cf_dictionary;

#define CF_NO_SLOT UINT64_MAX

/* How many 8-byte words cf_dictionary_parse needs, read from the header: at most 40 bytes an id, of
 * which there are at most 2^20, 16 for each other serialised byte, and 512. On failure *n_words is
 * untouched. */
cf_status cf_dictionary_measure(const uint8_t *data, size_t n, size_t *n_words);

/* Checks everything and fills `memory`, which begins with the cf_dictionary itself and must stay
 * where it is. Ids or values made to meet in a hash, so that reading would take minutes, are
 * CF_E_CORRUPT. CF_E_CHECKSUM is not reported when skip_checksum is set (for fuzzing only). */
cf_status cf_dictionary_parse(const cf_kernels *kernels, const uint8_t *data, size_t n,
                              int skip_checksum, uint64_t *memory, size_t n_words);

/* Makes a serialised dictionary of the rows of a sample. `indices` of a row must increase.
 *
 * scratch: cf_dictionary_build_scratch(nnz) words. out: cf_dictionary_bound(nnz, max_ids) bytes.
 * Time is that of sorting the entries (radix sort, linear). Ids seen once stay outside. */
size_t cf_dictionary_build_scratch(size_t nnz);
size_t cf_dictionary_bound(size_t nnz, uint32_t max_ids);
cf_status cf_dictionary_build(const cf_kernels *kernels, size_t n_rows, const int64_t *indptr,
                              const uint32_t *indices, const float *data, uint32_t max_ids,
                              uint64_t *scratch, uint8_t *out, size_t *n_out);

/* Where the search for an id begins. */
static inline const uint64_t *cf_dictionary_slot(const cf_dictionary *d, uint32_t id) {
    return d->id_slots + ((id * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - d->id_slot_bits));
}

/* The slot of an id: id | rank << 32 | tier << 60, or CF_NO_SLOT. */
static inline uint64_t cf_dictionary_find(const cf_dictionary *d, uint32_t id) {
    const uint64_t mask = ((uint64_t)1 << d->id_slot_bits) - 1;
    uint64_t i = (uint64_t)(cf_dictionary_slot(d, id) - d->id_slots);
    for (;; i = (i + 1) & mask) {
        const uint64_t slot = d->id_slots[i];
        if ((uint32_t)slot == id || slot == CF_NO_SLOT)
            return slot;
    }
}

/* Where the search for a value begins. */
static inline uint64_t cf_dictionary_value_slot(const cf_dictionary *d, uint32_t table,
                                                uint32_t bits) {
    const uint32_t key = bits ^ table * 0x85ebca6bu;
    return (key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - d->value_slot_bits);
}

/* A value's place in its table, most frequent first; the table's n if it is not there. */
static inline uint32_t cf_dictionary_find_value(const cf_dictionary *d, uint32_t table,
                                                uint32_t bits) {
    const cf_value_table t = d->tables[table];
    const uint64_t mask = ((uint64_t)1 << d->value_slot_bits) - 1;
    for (uint64_t s = cf_dictionary_value_slot(d, table, bits);; s = (s + 1) & mask) {
        const uint64_t slot = d->value_slots[s];
        const uint32_t place = (uint32_t)slot - 1 - t.begin; /* huge if another table's */
        if (slot == 0)
            return t.n;
        if (slot >> 32 == bits && place < t.n)
            return place;
    }
}

/* The dictionary of a block that has none. */
extern const cf_dictionary cf_no_dictionary;

/* ---- shared by the builder and the block encoder ---- */

/* Sorts keys[0, n) upwards; scratch: n keys. */
void cf_sort_u64(uint64_t *keys, uint64_t *scratch, size_t n);

/* The cheapest table for values of which the i-th most frequent occurs counts[i] times, out of
 * `total` (the rest is written as float32). Returns the bits all of them take, each value of the
 * table charged `value_cost` bits; table->begin is left alone. prefix: n + 1 words of scratch. */
uint64_t cf_value_table_choose(const uint32_t *counts, size_t n, uint64_t total,
                               unsigned value_cost, uint64_t *prefix, cf_value_table *table);

static inline uint32_t cf_code_limit(unsigned bits) { return (UINT32_C(1) << bits) - 1; }

#endif
