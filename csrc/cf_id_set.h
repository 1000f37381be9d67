/* cf_id_set.h -- a set of ids as few bytes that are read back fast.
 *
 * Ids are places by popularity, so the low ones lie close together: those come as a bitmap, the
 * others as 16-bit steps. Little-endian:
 *     u32 n_words, u32 n_steps
 *     u64[n_words]   bit b of word w: id 64 w + b is in the set
 *     u16[n_steps]   v < 65535: the next id is v + 1 beyond the one before (the first counts from
 *                    64 n_words - 1); v = 65535: go on by 65535 without an id
 * How many ids there are is said elsewhere. The writer chooses n_words for the fewest bytes.
 */
#ifndef CF_ID_SET_H
#define CF_ID_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_bits.h"
#include "cf_status.h"

enum { CF_ID_SET_HEAD = 8, CF_ID_SET_SKIP = 0xffff };

/* Whether ids[n] increase and are below n_ids. */
bool cf_ids_increase(const uint32_t *ids, size_t n, size_t n_ids);

/* No set of n ids below n_ids takes more bytes. */
size_t cf_id_set_bound(size_t n, size_t n_ids);

/* Writes the strictly increasing ids[n] to out, which has room for cf_id_set_bound; returns the
 * bytes written. */
size_t cf_id_set_write(const uint32_t *ids, size_t n, uint8_t *out);

/* The same piece by piece, for whoever has the bitmap already: n_words words, stored from
 * cf_id_set_begin on, then each id behind them, then the end, which returns the length. */
typedef struct {
    uint8_t *at;
    uint64_t next; /* the id that a step of 0 leads to */
} cf_id_set_tail;

static inline uint8_t *cf_id_set_begin(uint8_t *out) { return out + CF_ID_SET_HEAD; }

static inline cf_id_set_tail cf_id_set_tail_begin(uint8_t *at, size_t n_words) {
    return (cf_id_set_tail){at, 64 * (uint64_t)n_words};
}

static inline void cf_id_set_put(cf_id_set_tail *tail, uint64_t id) {
    uint64_t step = id - tail->next;
    for (; step >= CF_ID_SET_SKIP; step -= CF_ID_SET_SKIP, tail->at += 2)
        cf_store_u16(tail->at, CF_ID_SET_SKIP);
    cf_store_u16(tail->at, (uint32_t)step);
    tail->at += 2;
    tail->next = id + 1;
}

size_t cf_id_set_end(uint8_t *out, size_t n_words, const cf_id_set_tail *tail);

/* Reads exactly n ids, all below n_ids, strictly increasing, and moves *at behind them. A set that
 * is anything else is CF_E_MESSAGE; ids[n] may then hold anything. */
cf_status cf_id_set_read(const uint8_t **at, const uint8_t *end, size_t n, size_t n_ids,
                         uint32_t *ids);

#endif
