#include "cf_dictionary_index.h"

#include "cf_bits.h"

/* A table by id is the quickest, if it is not absurdly long for what it holds. */
enum { LONGEST_DIRECT = 1 << 22, DIRECT_FOR_AN_ID = 64 };

static const uint32_t NO_PLACES[1] = {CF_PLACE_OUTSIDE};
static const uint64_t NO_SLOTS[2] = {0, 0};

const cf_dictionary_index cf_no_index = {
    .dictionary = &cf_no_dictionary,
    .direct = NO_PLACES,
    .values = {{NO_SLOTS, 1}, {NO_SLOTS, 1}},
};

static size_t words_of(size_t bytes) { return (bytes + 7) / 8; }

static unsigned slot_bits(uint32_t n) {
    return n == 0 ? 1 : cf_bit_length(n) + 1; /* between a quarter and a half full */
}

/* Length of the table by id, 0 for none. */
static uint32_t direct_length(const cf_dictionary *d) {
    uint32_t largest = 0;
    for (uint32_t i = 0; i < d->n_ids; i++)
        largest = d->ids[i] > largest ? d->ids[i] : largest;
    return largest < LONGEST_DIRECT && largest / DIRECT_FOR_AN_ID <= d->n_ids + 1024 ? largest + 1
                                                                                     : 0;
}

/* How many values narrow tables have. */
static uint32_t n_narrow_values(const cf_dictionary *d) {
    return d->n_narrow == 0 ? 0 : d->tables[d->n_narrow - 1].begin + d->tables[d->n_narrow - 1].n;
}

size_t cf_dictionary_index_words(const cf_dictionary *d) {
    const uint32_t n_direct = direct_length(d), n_narrow = n_narrow_values(d);
    return words_of(sizeof(cf_dictionary_index)) + words_of(256 * 16) +
           (n_direct != 0 ? words_of(4 * ((size_t)n_direct + 1))
                          : (size_t)1 << slot_bits(d->n_ids)) +
           ((size_t)1 << slot_bits(n_narrow)) + ((size_t)1 << slot_bits(d->n_values - n_narrow));
}

static uint32_t place_of_rank(const cf_dictionary *d, uint32_t rank) {
    unsigned tier = CF_TIERS - 1;
    while (rank < d->tier_begin[tier])
        tier--;
    uint32_t kind = CF_KIND_8 + tier - 1;
    if (tier == 0)
        kind = rank < d->n_narrow               ? CF_KIND_NARROW
               : rank < d->n_narrow + d->n_wide ? CF_KIND_WIDE
                                                : CF_KIND_BIT;
    return kind << CF_KIND_SHIFT | (rank - d->tier_begin[tier]);
}

/* Steps past taken slots while n keys go into a hash, of which real ones need about n / 2. Keys
 * made to meet would need n^2 / 2, minutes for a few megabytes. */
static uint64_t most_steps(uint32_t n) { return (UINT64_C(1) << 26) + 64 * (uint64_t)n; }

/* By rank, so that popular ids have the slots where the search for them begins. */
static cf_status fill_id_slots(const cf_dictionary *d, uint64_t *slots, unsigned bits) {
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    uint64_t steps_left = most_steps(d->n_ids);
    memset(slots, 0xff, (size_t)(mask + 1) * sizeof *slots);
    for (uint32_t rank = 0; rank < d->n_ids; rank++) {
        uint64_t s = cf_slot_of(d->ids[rank], bits);
        for (; slots[s] != UINT64_MAX; s = (s + 1) & mask)
            if (steps_left-- == 0)
                return cf_fail(CF_E_CORRUPT, 0);
        slots[s] = (uint64_t)place_of_rank(d, rank) << 32 | d->ids[rank];
    }
    return cf_ok();
}

/* Tables [from, to), n values: the most frequent value of each first, then the second of each, and
 * so on. */
static cf_status fill_value_slots(const cf_dictionary *d, uint32_t from, uint32_t to, uint32_t n,
                                  uint64_t *slots, unsigned bits) {
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    uint64_t steps_left = most_steps(n);
    memset(slots, 0, (size_t)(mask + 1) * sizeof *slots);
    for (uint32_t place = 0; n != 0; place++)
        for (uint32_t t = from; t < to; t++) {
            if (place >= d->tables[t].n)
                continue;
            n--;
            const uint64_t key = cf_value_key(t, d->values[d->tables[t].begin + place]);
            uint64_t s = cf_slot_of(key, bits);
            for (; slots[s] != 0; s = (s + 1) & mask)
                if (steps_left-- == 0)
                    return cf_fail(CF_E_CORRUPT, 0);
            slots[s] = key + place + 1;
        }
    return cf_ok();
}

static void fill_pair_order(const cf_dictionary *d, uint8_t (*pairs)[16]) {
    for (unsigned byte = 0; byte < 256; byte++)
        for (unsigned lane = 0; lane < 8; lane++) {
            const uint8_t from = (uint8_t)(d->spread[byte] >> 8 * lane);
            pairs[byte][2 * lane] = (uint8_t)(2 * from);
            pairs[byte][2 * lane + 1] = (uint8_t)(2 * from + 1);
        }
}

cf_status cf_dictionary_index_make(const cf_dictionary *d, uint64_t *memory) {
    cf_dictionary_index *index = (cf_dictionary_index *)(void *)memory;
    memset(index, 0, sizeof *index);
    memory += words_of(sizeof *index);
    index->dictionary = d;
    index->pair_order = (const uint8_t (*)[16])(const void *)memory;
    fill_pair_order(d, (uint8_t (*)[16])(void *)memory);
    memory += words_of(256 * 16);
    index->n_direct = direct_length(d);
    cf_status status = cf_ok();
    if (index->n_direct != 0) {
        uint32_t *direct = (uint32_t *)(void *)memory;
        memory += words_of(4 * ((size_t)index->n_direct + 1));
        for (uint32_t i = 0; i <= index->n_direct; i++)
            direct[i] = CF_PLACE_OUTSIDE;
        for (uint32_t rank = 0; rank < d->n_ids; rank++)
            direct[d->ids[rank]] = place_of_rank(d, rank);
        index->direct = direct;
    } else {
        index->id_slot_bits = slot_bits(d->n_ids);
        index->id_slots = memory;
        memory += (size_t)1 << index->id_slot_bits;
        status =
            fill_id_slots(d, (uint64_t *)(void *)(uintptr_t)index->id_slots, index->id_slot_bits);
    }
    const uint32_t n_narrow = n_narrow_values(d), n_tables = d->n_narrow + d->n_wide;
    const uint32_t n[2] = {n_narrow, d->n_values - n_narrow};
    for (unsigned k = 0; k < 2 && status.code == CF_OK; k++) {
        const unsigned bits = slot_bits(n[k]);
        index->values[k] = (cf_value_hash){memory, bits};
        status = fill_value_slots(d, k == 0 ? 0 : d->n_narrow, k == 0 ? d->n_narrow : n_tables,
                                  n[k], memory, bits);
        memory += (size_t)1 << bits;
    }
    return status;
}
