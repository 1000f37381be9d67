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

typedef struct {
    const cf_dictionary *dictionary;
    const uint32_t *direct; /* [n_direct + 1] place by id; the last is outside. NULL: use slots */
    uint32_t n_direct;
    const uint64_t *id_slots;    /* hash: place << 32 | id, or UINT64_MAX */
    const uint64_t *value_slots; /* hash: bits << 32 | table << 18 | (place + 1), or 0 */
    unsigned id_slot_bits, value_slot_bits;
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

static inline uint64_t cf_value_key(uint32_t table, uint32_t bits) {
    return (uint64_t)bits << 14 | table;
}

/* A value's place in a table, or CF_NO_VALUE. */
static inline uint32_t cf_dictionary_find_value(const cf_dictionary_index *index, uint32_t table,
                                                uint32_t bits) {
    const uint64_t key = cf_value_key(table, bits);
    const uint64_t mask = ((uint64_t)1 << index->value_slot_bits) - 1;
    for (uint64_t s = cf_slot_of(key, index->value_slot_bits);; s = (s + 1) & mask) {
        const uint64_t slot = index->value_slots[s];
        if (slot >> 18 == key && slot != 0)
            return (uint32_t)(slot & 0x3ffff) - 1;
        if (slot == 0)
            return CF_NO_VALUE;
    }
}

/* Where that will look. */
static inline const void *cf_dictionary_value_line(const cf_dictionary_index *index, uint32_t table,
                                                   uint32_t bits) {
    return index->value_slots + cf_slot_of(cf_value_key(table, bits), index->value_slot_bits);
}

/* The index of a block without dictionary. */
extern const cf_dictionary_index cf_no_index;

#endif
