/* Decoding a block to localised mini-batches.
 *
 * Nothing is localised entry by entry in a row: the members of the bitmap have fixed places in a
 * mini-batch (those that occur in it), and the codes of each other tier lie one behind the other,
 * so each tier is one flat loop over its codes with a table of its own size: a kilobyte, 16, 256.
 * Ids outside go through a small hash, whatever their range. Only then rows are put together.
 */
#include "cf_block_streams.h"

enum {
    PREFETCH_AHEAD = 48, /* codes; tables but the largest are in the nearest cache */
    SLOTS_AN_ID = 8      /* of the hash, at least half of that: probes beyond the first are rare */
};

/* Slots for n ids outside: a power of two. */
static uint64_t slots_for(uint64_t n) {
    uint64_t slots = 64;
    while (slots < n * (SLOTS_AN_ID / 2))
        slots *= 2;
    return slots;
}

static uint64_t longest_batch(const cf_block_header *h, size_t minibatch_size) {
    const uint64_t rows = minibatch_size < h->n_rows ? minibatch_size : h->n_rows;
    const uint64_t entries = rows * h->max_row;
    return entries < h->nnz ? entries : h->nnz;
}

/* What the tiers are expanded to, and places of the bitmap's members. */
size_t cf_block_minibatches_scratch(const cf_block_header *h, size_t minibatch_size) {
    const uint64_t members = 8 * (uint64_t)h->bitmap_bytes + CF_BLOCK_SLACK;
    return (size_t)(longest_batch(h, minibatch_size) + CF_BLOCK_COUNTS * CF_BLOCK_SLACK + members +
                    1) /
           2;
}

size_t cf_block_minibatches_stamps(const cf_block_header *h, const cf_dictionary *dictionary) {
    const size_t n_ids = dictionary != NULL ? dictionary->n_ids : 0;
    return n_ids + (size_t)slots_for(h->n_codes[CF_OUTSIDE]);
}

/* A mini-batch at work: its distinct ids so far, and their stamps. */
typedef struct {
    uint32_t *stamps;
    uint32_t first; /* the stamp of its first id */
    uint32_t *ids;
    uint32_t n;
} batch;

/* Renumbers n codes in place. No branch on new or seen: about one in three is new, in no pattern.
 */
static void localise_codes(batch *b, uint32_t *stamps, const uint32_t *ids, uint32_t n,
                           uint32_t *codes) {
    const uint32_t first = b->first, before = b->n;
    uint32_t *const distinct = b->ids;
    uint32_t next = first + b->n;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t code = codes[i];
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(stamps + codes[i + PREFETCH_AHEAD], 1);
        const uint32_t stamp = stamps[code];
        const uint32_t seen = stamp >= first;
        const uint32_t mine = seen ? stamp : next;
        distinct[next - first] = code;
        next += 1 - seen;
        stamps[code] = mine;
        codes[i] = mine - first;
    }
    b->n = next - first;
    for (uint32_t i = before; i < b->n; i++)
        distinct[i] = ids[distinct[i]];
}

/* The same for ids outside, with a hash of `slots` stamps. Returns 0 if they meet in it too often
 * to be anything but made for it. */
static int localise_ids(batch *b, uint32_t *slots, uint64_t n_slots, uint32_t n, uint32_t *ids) {
    const unsigned shift = 64 - (unsigned)__builtin_ctzll(n_slots);
    uint64_t steps_left = (UINT64_C(1) << 20) + 64 * (uint64_t)n;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t id = ids[i];
        uint64_t s = (id * UINT64_C(0x9e3779b97f4a7c15)) >> shift;
        uint32_t stamp = slots[s];
        while (stamp >= b->first && b->ids[stamp - b->first] != id) {
            if (steps_left-- == 0)
                return 0;
            s = (s + 1) & (n_slots - 1);
            stamp = slots[s];
        }
        const uint32_t seen = stamp >= b->first;
        stamp = seen ? stamp : b->first + b->n;
        b->ids[stamp - b->first] = id;
        b->n += 1 - seen;
        slots[s] = stamp;
        ids[i] = stamp - b->first;
    }
    return 1;
}

/* Places of the bitmap's members: the ones that occur in these rows are the first distinct ids. */
static void place_members(const cf_block_streams *s, uint32_t row, uint32_t n_rows, batch *b,
                          uint32_t *places) {
    const cf_dictionary *d = s->dictionary;
    const uint32_t bytes = d->bitmap_bytes;
    const uint8_t *bitmaps = s->bitmaps + (size_t)row * bytes;
    for (uint32_t at = 0; at < bytes; at += 8) {
        const uint32_t left = bytes - at;
        uint64_t any = 0;
        for (uint32_t i = 0; i < n_rows; i++)
            any |= cf_load_u64(bitmaps + (size_t)i * bytes + at);
        any &= left >= 8 ? UINT64_MAX : ~(UINT64_MAX << 8 * left);
        for (uint32_t bit = 0; bit < 64 && bit < 8 * left; bit++) {
            places[8 * at + bit] = b->n;
            if (any >> bit & 1)
                b->ids[b->n++] = d->ids[8 * at + bit];
        }
    }
}

/* The next n_rows rows as one mini-batch. */
static int read_batch(const cf_kernels *kernels, const cf_block_streams *s, cf_block_position *p,
                      uint32_t n_rows, cf_local_table *table, uint64_t *scratch, uint32_t *ids,
                      uint32_t *n_ids, cf_block_minibatches *out) {
    const cf_block_header *h = s->header;
    const cf_dictionary *d = s->dictionary;
    int64_t *const ends = out->indptr + 1 + p->row;
    cf_block_survey found;
    if (!cf_block_survey_rows(kernels, s, p, n_rows, 0, ends, &found))
        return 0;
    if (table->first > UINT32_MAX - (uint32_t)found.n_entries) {
        memset(table->stamps, 0, table->n_stamps * sizeof *table->stamps);
        table->first = 1;
    }
    batch b = {table->stamps, table->first, ids, 0};
    uint32_t *const members = (uint32_t *)(void *)scratch;
    uint32_t *at = members + 8 * (size_t)d->bitmap_bytes + CF_BLOCK_SLACK;
    place_members(s, p->row, n_rows, &b, members);
    cf_block_sources from = {.bitmap = members};
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
        const uint32_t n = (uint32_t)found.n_codes[t];
        from.codes[t] = at;
        if (t == CF_OUTSIDE) {
            if (!cf_block_expand_outside(kernels, s, p, n_rows, n, at) ||
                !localise_ids(&b, table->stamps + d->n_ids, slots_for(n), n, at))
                return 0;
        } else {
            const uint32_t begin = d->tier_begin[t + 1];
            if (!kernels->block->expand(s->codes[t], t + 1, p->codes[t], n, d->tier_size[t + 1],
                                        NULL, at))
                return 0;
            if (n != 0)
                localise_codes(&b, table->stamps + begin, d->ids + begin, n, at);
        }
        at += n + CF_BLOCK_SLACK;
    }
    kernels->block->place_ids(s, p, n_rows, &from, out->local + p->entry, h->nnz - p->entry);
    if (!cf_block_read_values(kernels, s, p, n_rows, 0, ends, out->data, h->nnz))
        return 0;
    cf_block_advance(p, n_rows, &found);
    table->first += b.n;
    *n_ids = b.n;
    return 1;
}

cf_status cf_block_decode_minibatches(const cf_kernels *kernels, const uint8_t *block, size_t n,
                                      const cf_block_header *h, const cf_dictionary *dictionary,
                                      cf_block_options options, size_t minibatch_size,
                                      cf_local_table *table, uint64_t *scratch,
                                      cf_block_minibatches *out) {
    cf_block_streams s;
    cf_status status = cf_block_open(kernels, block, n, h, dictionary, options.skip_checksum, &s,
                                     out->labels, out->weights);
    if (status.code != CF_OK)
        return status;
    cf_block_position p = {0};
    out->indptr[0] = out->offsets[0] = 0;
    int64_t n_ids = 0;
    for (size_t i = 0; p.row < h->n_rows; i++) {
        const uint32_t left = h->n_rows - p.row;
        const uint32_t n_rows = minibatch_size < left ? (uint32_t)minibatch_size : left;
        uint32_t n_distinct = 0;
        if (!read_batch(kernels, &s, &p, n_rows, table, scratch, out->ids + n_ids, &n_distinct,
                        out)) {
            /* Stamps of the mini-batch that failed are not below `first`. */
            memset(table->stamps, 0, table->n_stamps * sizeof *table->stamps);
            table->first = 1;
            return cf_fail(CF_E_CORRUPT, (size_t)(s.bitmaps - block));
        }
        n_ids += n_distinct;
        out->offsets[i + 1] = n_ids;
    }
    status = cf_block_finish(&s, &p, block, out->data);
    if (status.code != CF_OK)
        return status;
    const uint32_t largest = kernels->block->rebase(out->ids, (size_t)n_ids, options.base);
    if (options.base != 0 && n_ids != 0 && largest > UINT32_MAX - options.base)
        return cf_fail(CF_E_CORRUPT, (size_t)(s.codes[CF_OUTSIDE] - block));
    out->n_features = n_ids != 0 ? (uint64_t)largest + 1 : 0;
    return cf_ok();
}
