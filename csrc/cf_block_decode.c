/* Decoding a block to rows: nothing read from it is believed before it is checked. */
#include "cf_block_order.h"
#include "cf_block_streams.h"

/* Rows read at a time: what is expanded for them stays in the nearest cache. */
enum { PIECE = 64 };

/* Room for what the tiers of n entries are expanded to. */
static size_t expanded_words(uint64_t n) {
    return (size_t)(n + CF_BLOCK_COUNTS * 2 * CF_BLOCK_SLACK + 1) / 2;
}

size_t cf_block_decode_scratch(const cf_block_header *h, int ordered) {
    const uint64_t piece = (uint64_t)PIECE * h->max_row;
    const size_t expanded = expanded_words(piece < h->nnz ? piece : h->nnz);
    const size_t order = ordered ? 2 * (size_t)h->max_row : 0;
    return expanded > order ? expanded : order;
}

/* The next n_rows rows. */
static int read_piece(const cf_kernels *kernels, const cf_block_streams *s, cf_block_position *p,
                      uint32_t n_rows, uint64_t *scratch, cf_block_rows *rows) {
    const cf_block_header *h = s->header;
    const cf_dictionary *d = s->dictionary;
    int64_t *const ends = rows->indptr + 1 + p->row;
    cf_block_survey found;
    if (!cf_block_survey_rows(kernels, s, p, n_rows, rows->first_entry, ends, &found))
        return 0;
    uint32_t *at = (uint32_t *)(void *)scratch;
    cf_block_sources from = {.bitmap = d->ids};
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
        const uint32_t n = (uint32_t)found.n_codes[t];
        from.codes[t] = at;
        const int fine =
            t == CF_OUTSIDE
                ? cf_block_expand_outside(kernels, s, p, n_rows, n, at)
                : kernels->block->expand(s->codes[t], t + 1, p->codes[t], n, d->tier_size[t + 1],
                                         d->ids + d->tier_begin[t + 1], at);
        if (!fine)
            return 0;
        at += n + CF_BLOCK_SLACK;
    }
    kernels->block->place_ids(s, p, n_rows, &from, rows->indices + p->entry, h->nnz - p->entry);
    if (!cf_block_read_values(kernels, s, p, n_rows, rows->first_entry, ends, rows->data, h->nnz))
        return 0;
    cf_block_advance(p, n_rows, &found);
    return 1;
}

cf_status cf_block_decode(const cf_kernels *kernels, const uint8_t *block, size_t n,
                          const cf_block_header *h, const cf_dictionary *dictionary,
                          cf_block_options options, uint64_t *scratch, cf_block_rows *rows) {
    cf_block_streams s;
    cf_status status = cf_block_open(kernels, block, n, h, dictionary, options.skip_checksum, &s,
                                     rows->labels, rows->weights);
    if (status.code != CF_OK)
        return status;
    cf_block_position p = {0};
    rows->indptr[0] = rows->first_entry;
    while (p.row < h->n_rows) {
        const uint32_t left = h->n_rows - p.row;
        if (!read_piece(kernels, &s, &p, left < PIECE ? left : PIECE, scratch, rows))
            return cf_fail(CF_E_CORRUPT, (size_t)(s.bitmaps - block));
    }
    status = cf_block_finish(&s, &p, block, rows->data);
    if (status.code != CF_OK)
        return status;
    if (options.ordered && !cf_block_order(h, rows, scratch))
        return cf_fail(CF_E_CORRUPT, (size_t)(s.codes[0] - block));
    const uint32_t largest = kernels->block->rebase(rows->indices, h->nnz, options.base);
    if (options.base != 0 && h->nnz != 0 && largest > UINT32_MAX - options.base)
        return cf_fail(CF_E_CORRUPT, (size_t)(s.codes[CF_OUTSIDE] - block));
    rows->n_features = h->nnz != 0 ? (uint64_t)largest + 1 : 0;
    return cf_ok();
}
