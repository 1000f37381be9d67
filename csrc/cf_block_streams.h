/* cf_block_streams.h -- where the parts of a block lie, and the kernels that read them (internal);
 * the one that writes is described in cf_block_sort.h.
 *
 * The rows of a block are read in pieces. For each piece: survey (how long is everything, and does
 * the block have so much?), expand (the codes of each tier to ids or numbers, all rows at once),
 * place_ids and place_values (row by row). After a survey that found nothing wrong nothing that the
 * others read or write can be outside its array, but for value codes, which they check themselves.
 */
#ifndef CF_BLOCK_STREAMS_H
#define CF_BLOCK_STREAMS_H

#include "cf_block.h"
#include "cf_block_sort.h"

typedef struct {
    const cf_block_header *header;
    const cf_dictionary *dictionary;
    const uint8_t *labels, *label_codes, *weights, *own_values, *exceptions;
    const uint8_t *bitmaps, *counts, *more;
    const uint8_t *codes[CF_BLOCK_COUNTS]; /* tiers 1 to 3, ids outside */
    const uint8_t *gap_lengths;            /* two bits for each id outside, with CF_BLOCK_GAPS */
    const uint8_t *narrow, *wide, *second, *raw;
    const uint8_t *plain, *plain_second, *plain_raw;
    const uint8_t *end; /* of all but the padding */
} cf_block_streams;

/* The length that the header's numbers add up to. */
uint64_t cf_block_length(const cf_block_header *header);

/* Where the parts of a block of that length lie; the dictionary is left alone. */
void cf_block_lay_out(const cf_block_header *header, const uint8_t *block,
                      cf_block_streams *streams);

/* How much of each stream was read, in items of the stream (bytes of gaps). */
typedef struct {
    uint32_t row, entry, more, codes[CF_BLOCK_COUNTS];
    uint32_t gap_bytes, narrow, wide, second, raw, plain, plain_second, plain_raw;
} cf_block_position;

/* What a number of rows have. */
typedef struct {
    uint64_t n_entries, max_row, n_codes[CF_BLOCK_COUNTS], n_narrow, n_wide;
    uint32_t n_more;
    uint32_t stray_bits; /* not 0: bits that stand for no member */
} cf_block_survey;

/* Codes, ids or local numbers of each tier, one row behind the other; CF_BLOCK_SLACK more of each
 * may be read. */
enum { CF_BLOCK_SLACK = 16 };
typedef struct {
    const uint32_t *bitmap; /* of each member, rounded up to CF_BLOCK_SLACK */
    const uint32_t *codes[CF_BLOCK_COUNTS];
} cf_block_sources;

typedef struct cf_block_kernels {
    /* Rows [p->row, p->row + n_rows): writes where each ends to ends[], counted from `first`. */
    cf_block_survey (*survey)(const cf_block_streams *s, const cf_block_position *p,
                              uint32_t n_rows, int64_t first, int64_t *ends);
    /* n codes of tier 1 to 3 from the i-th on to out[0, n): ids[code], or the code itself where ids
     * is NULL. Returns 0 if one is not below `size`. */
    int (*expand)(const uint8_t *codes, unsigned tier, uint32_t i, uint32_t n, uint32_t size,
                  const uint32_t *ids, uint32_t *out);
    /* n ids outside, of `width` bytes each. */
    void (*expand_outside)(const uint8_t *bytes, unsigned width, uint32_t n, uint32_t *out);
    /* The ids of n_rows rows to out[0, room), of which they fill the first. */
    void (*place_ids)(const cf_block_streams *s, const cf_block_position *p, uint32_t n_rows,
                      const cf_block_sources *from, uint32_t *out, size_t room);
    /* Their values, where those without a table are 1.0: ends[] as from the survey, data at
     * `first`. Moves the value part of p on; returns 0 if a code makes no sense. */
    int (*place_values)(const cf_block_streams *s, cf_block_position *p, uint32_t n_rows,
                        int64_t first, const int64_t *ends, float *data, size_t room);
    /* Subtracts base from all, and returns the largest. */
    uint32_t (*rebase)(uint32_t *ids, size_t n, uint32_t base);
    /* For encoding: cf_block_sort.h. */
    cf_block_sort *sort;
} cf_block_kernels;

extern const cf_block_kernels cf_block_scalar;
#if defined(__x86_64__)
extern const cf_block_kernels cf_block_avx2;
#elif defined(__aarch64__)
extern const cf_block_kernels cf_block_neon;
#endif

/* ---- pieces that all kernels share ---- */

/* The four counts of a row. *more: how many rests were read. Returns 0 if there are not enough. */
static inline int cf_block_row_counts(const cf_block_streams *s, uint32_t row, uint32_t *more,
                                      uint32_t n[CF_BLOCK_COUNTS]) {
    uint32_t packed, limit;
    if (s->header->flags & CF_BLOCK_LONG_COUNTS) {
        packed = cf_load_u32(s->counts + 4 * (size_t)row);
        limit = 255;
    } else {
        packed = cf_load_u16(s->counts + 2 * (size_t)row);
        packed = (packed | packed << 8) & 0x00ff00ff;
        packed = (packed | packed << 4) & 0x0f0f0f0f;
        limit = 15;
    }
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        n[t] = packed >> 8 * t & 255;
    if (n[0] != limit && n[1] != limit && n[2] != limit && n[3] != limit)
        return 1;
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        if (n[t] == limit) {
            if (*more == s->header->n_more)
                return 0;
            const uint32_t rest = cf_load_u32(s->more + 4 * (size_t)(*more)++);
            if (rest > UINT32_MAX - limit)
                return 0;
            n[t] += rest;
        }
    return 1;
}

/* The value of an entry with a table whose code is not a whole answer. Returns 0 if there is none.
 */
int cf_block_second_value(const cf_block_streams *s, cf_block_position *p, uint32_t table,
                          float *value);

/* The value of an entry with a wide table. */
int cf_block_wide_value(const cf_block_streams *s, cf_block_position *p, uint32_t table,
                        float *value);

/* n values without a table of the dictionary, of a block without CF_BLOCK_ONES. */
int cf_block_plain_values(const cf_block_streams *s, cf_block_position *p, uint32_t n, float *data);

/* The scalar kernels, with which the others finish where vectors do not fit. */
void cf_block_place_ids_scalar(const cf_block_streams *s, const cf_block_position *p,
                               uint32_t n_rows, const cf_block_sources *from, uint32_t *out,
                               size_t room);
int cf_block_place_values_scalar(const cf_block_streams *s, cf_block_position *p, uint32_t n_rows,
                                 int64_t first, const int64_t *ends, float *data, size_t room);

/* ---- decoding in pieces, shared by whole rows and mini-batches ---- */

/* Header against dictionary, checksum; then `streams` is filled, labels and weights are read. */
cf_status cf_block_open(const cf_kernels *kernels, const uint8_t *block, size_t n,
                        const cf_block_header *header, const cf_dictionary *dictionary,
                        int skip_checksum, cf_block_streams *streams, float *labels,
                        float *weights);

/* Surveys the next n_rows rows and checks that the block has all they count. */
int cf_block_survey_rows(const cf_kernels *kernels, const cf_block_streams *s,
                         const cf_block_position *p, uint32_t n_rows, int64_t first, int64_t *ends,
                         cf_block_survey *found);

/* Ids outside of n_rows rows, n in all, to out[0, n). Moves p->gap_bytes on. */
int cf_block_expand_outside(const cf_kernels *kernels, const cf_block_streams *s,
                            cf_block_position *p, uint32_t n_rows, uint32_t n, uint32_t *out);

/* Values of n_rows rows, whatever the mode. Moves the value part of p on. */
int cf_block_read_values(const cf_kernels *kernels, const cf_block_streams *s, cf_block_position *p,
                         uint32_t n_rows, int64_t first, const int64_t *ends, float *data,
                         size_t room);

/* Moves the rest of p behind surveyed rows. */
void cf_block_advance(cf_block_position *p, uint32_t n_rows, const cf_block_survey *found);

/* Whether everything was read, and exceptions applied. */
cf_status cf_block_finish(const cf_block_streams *s, const cf_block_position *p,
                          const uint8_t *block, float *data);

#endif
