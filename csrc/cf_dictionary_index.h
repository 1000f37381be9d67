/* cf_dictionary_index.h -- finding ids and values in a dictionary, which only writing needs.
 *
 * Made once for a dictionary, which must outlive it; never written to again.
 */
#ifndef CF_DICTIONARY_INDEX_H
#define CF_DICTIONARY_INDEX_H

#include "cf_dictionary.h"

/* What an id is written as: the kind above, the number of the member in its tier below. The three
 * runs of the bitmap are kinds of their own. */
enum {
    CF_KIND_NARROW,
    CF_KIND_WIDE,
    CF_KIND_BIT,
    CF_KIND_8,
    CF_KIND_12,
    CF_KIND_16,
    CF_KIND_OUTSIDE,
    CF_KINDS,
    CF_KIND_SHIFT = 28
};

#define CF_PLACE_OUTSIDE ((uint32_t)CF_KIND_OUTSIDE << CF_KIND_SHIFT)
#define CF_NO_VALUE      UINT32_MAX

/* Values of tables: a hash of slots key + (place + 1), or 0. */
typedef struct {
    const uint64_t *slots;
    unsigned slot_bits;
} cf_value_hash;

typedef struct {
    const cf_dictionary *dictionary;
    const uint32_t *direct; /* [n_direct + 1] place by id; the last is outside. NULL: use slots */
    uint32_t n_direct;
    const uint64_t *id_slots; /* hash: place << 32 | id, or UINT64_MAX */
    unsigned id_slot_bits;
    cf_value_hash values[2];         /* of narrow tables, which are few, and of wide ones */
    const uint8_t (*pair_order)[16]; /* [256] as the dictionary's `spread`, of lanes of two bytes */
} cf_dictionary_index;

/* How many words cf_dictionary_index_make needs: it starts with the cf_dictionary_index. */
size_t cf_dictionary_index_words(const cf_dictionary *d);

/* Ids or values that were chosen to meet in a hash, so that this would take minutes, are
 * CF_E_CORRUPT. */
cf_status cf_dictionary_index_make(const cf_dictionary *d, uint64_t *memory);

static inline uint64_t cf_slot_of(uint64_t key, unsigned bits) {
    return (key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - bits);
}

/* kind << CF_KIND_SHIFT | number of an id. */
static inline uint32_t cf_dictionary_place(const cf_dictionary_index *index, uint32_t id) {
    if (index->direct != NULL)
        return index->direct[id < index->n_direct ? id : index->n_direct];
    const uint64_t mask = ((uint64_t)1 << index->id_slot_bits) - 1;
    for (uint64_t s = cf_slot_of(id, index->id_slot_bits);; s = (s + 1) & mask) {
        const uint64_t slot = index->id_slots[s];
        if (slot == UINT64_MAX)
            return CF_PLACE_OUTSIDE;
        if ((uint32_t)slot == id)
            return (uint32_t)(slot >> 32);
    }
}

/* Where that will look. */
static inline const void *cf_dictionary_line(const cf_dictionary_index *index, uint32_t id) {
    if (index->direct != NULL)
        return index->direct + (id < index->n_direct ? id : index->n_direct);
    return index->id_slots + cf_slot_of(id, index->id_slot_bits);
}

enum { CF_PLACE_BITS = 18 }; /* of a value's place in its table, from 1 */

static inline uint64_t cf_value_key(uint32_t table, uint32_t bits) {
    return (uint64_t)bits << 32 | (uint64_t)table << CF_PLACE_BITS;
}

/* A value's place in a table, or CF_NO_VALUE. */
static inline uint32_t cf_value_find(cf_value_hash hash, uint32_t table, uint32_t bits) {
    const uint64_t key = cf_value_key(table, bits), mask = ((uint64_t)1 << hash.slot_bits) - 1;
    for (uint64_t s = cf_slot_of(key, hash.slot_bits);; s = (s + 1) & mask) {
        const uint64_t slot = hash.slots[s], place = (slot ^ key) - 1;
        if (__builtin_expect(place < ((uint64_t)1 << CF_PLACE_BITS) - 1, 1))
            return (uint32_t)place;
        if (slot == 0)
            return CF_NO_VALUE;
    }
}

/* Where that will look. */
static inline const void *cf_value_line(cf_value_hash hash, uint32_t table, uint32_t bits) {
    return hash.slots + cf_slot_of(cf_value_key(table, bits), hash.slot_bits);
}

/* The index of a block without dictionary. */
extern const cf_dictionary_index cf_no_index;

#endif
