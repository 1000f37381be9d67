/* cf_block.h -- one block: some thousand rows as bytes that stand alone (with the dictionary
 * named).
 *
 * A row is a bitmap of the most popular ids and a count for each other tier; the numbers of a
 * tier's members, the ids outside the dictionary and the codes of the values lie in streams of
 * their own, in whole bytes but for the 12-bit tier, so that they are read many at a time.
 * docs/shard-format.md describes every bit. float32 values, labels and weights survive bit for
 * bit, ids and the order of rows too.
 *
 * Bytes are not trusted: whatever they hold, decoding reads inside [block, block + n), writes
 * inside the arrays it was given, and ends.
 */
#ifndef CF_BLOCK_H
#define CF_BLOCK_H

#include "cf_bits.h"
#include "cf_block_columns.h"
#include "cf_dictionary.h"
#include "cf_dictionary_index.h"
#include "cf_dispatch.h"
#include "cf_status.h"

enum { CF_BLOCK_VERSION = 1, CF_BLOCK_HEADER = 104, CF_BLOCK_PAD = 32 };

enum {
    CF_BLOCK_WEIGHTS = 1 << 0,     /* a weight for each row */
    CF_BLOCK_DICTIONARY = 1 << 1,  /* ids and values refer to a dictionary */
    CF_BLOCK_ONES = 1 << 2,        /* values without a table are 1.0, but for the exceptions */
    CF_BLOCK_LONG_COUNTS = 1 << 3, /* counts of a row take a byte each, not four bits */
    CF_BLOCK_GAPS = 1 << 4,        /* ids outside the dictionary are written as gaps */
    CF_BLOCK_KNOWN_FLAGS = (1 << 5) - 1
};

/* What a row counts: members of the tiers 1 to 3, and ids outside. */
enum { CF_BLOCK_COUNTS = 4, CF_OUTSIDE = 3 };

typedef struct {
    uint32_t n_bytes;
    unsigned version, flags;
    uint32_t n_rows, nnz; /* each at most 8 n_bytes */
    uint32_t max_row;     /* most entries in a row */
    uint64_t dictionary;  /* identity, 0 for none */
    uint32_t n_more;      /* rests of counts that do not fit their four bits or byte */
    uint32_t n_codes[CF_BLOCK_COUNTS];
    uint32_t outside_bytes;
    uint32_t n_narrow, n_wide, n_second, n_raw; /* codes of values with tables, and what follows */
    uint32_t n_table, n_plain_second, n_plain_raw; /* the same of the block's own table */
    uint32_t n_exceptions;
    unsigned label_bits; /* 1, 2, 4, 8 (codes into n_labels labels), or 32 */
    uint32_t n_labels;
    unsigned plain_bits;    /* codes into the own table: 0, 1, 2, 4, 8; 32: the value itself */
    unsigned outside_width; /* bytes of an id outside the dictionary, 1 to 4 */
    uint32_t bitmap_bytes;
} cf_block_header;

/* Reads and checks a header from the first n bytes of a block; n may be less than n_bytes. What it
 * says then agrees with n_bytes, so arrays of n_rows and nnz may be allocated: at most 192 bytes
 * for each byte of the block, scratch included, and some thousand bytes. */
cf_status cf_block_read_header(const uint8_t *block, size_t n, cf_block_header *header);

/* Where the rows go. Row i of the block has entries indptr[i] to indptr[i + 1], which count from
 * first_entry: indices and data begin there, so that blocks can be laid behind one another. */
typedef struct {
    float *labels;     /* [n_rows] */
    int64_t *indptr;   /* [n_rows + 1] */
    uint32_t *indices; /* [nnz] */
    float *data;       /* [nnz] */
    float *weights;    /* [n_rows], or NULL: weights are left out */
    int64_t first_entry;
    uint64_t n_features; /* set: 1 + the largest index, 0 without entries */
} cf_block_rows;

typedef struct {
    uint32_t base;     /* subtracted from every id; smaller ids are CF_E_CORRUPT */
    int ordered;       /* indices increase within a row; else in the order of the tiers */
    int skip_checksum; /* for fuzzing only */
} cf_block_options;

/* Decodes block[0, n); bytes after header->n_bytes are not looked at. `header` is what
 * cf_block_read_header made of the same bytes. `dictionary` may be NULL for a block without.
 *
 * scratch: cf_block_decode_scratch() words. On failure the arrays hold some rows, none of them to
 * be used. */
size_t cf_block_decode_scratch(const cf_block_header *header, int ordered);
cf_status cf_block_decode(const cf_kernels *kernels, const uint8_t *block, size_t n,
                          const cf_block_header *header, const cf_dictionary *dictionary,
                          cf_block_options options, uint64_t *scratch, cf_block_rows *rows);

/* A block as mini-batches of consecutive rows (the last may be shorter): entries name a distinct
 * id of their mini-batch by its place among them. */
typedef struct {
    float *labels;    /* [n_rows] */
    int64_t *indptr;  /* [n_rows + 1], from 0 */
    uint32_t *local;  /* [nnz] places among the distinct ids of the mini-batch */
    float *data;      /* [nnz] */
    float *weights;   /* [n_rows], or NULL */
    uint32_t *ids;    /* [nnz] distinct ids, one mini-batch behind the other */
    int64_t *offsets; /* [mini-batches + 1] where those of each begin */
    uint64_t n_features;
} cf_block_minibatches;

/* Which ids were seen in this mini-batch, and their places: stamps below `first` are of earlier
 * ones, so nothing is cleared between. The caller owns `stamps`, at least
 * cf_block_minibatches_stamps() of them; all are 0 and `first` is 1 at the start, and the table
 * serves one dictionary only (any, if cleared). It is cleared here when stamps run out. */
typedef struct {
    uint32_t *stamps;
    size_t n_stamps;
    uint32_t first;
} cf_local_table;

/* Decodes and localises: rows as cf_block_decode gives them unordered, in the same order, and with
 * the same checks. Besides, ids that were chosen to meet in a hash are CF_E_CORRUPT.
 *
 * scratch: cf_block_minibatches_scratch() words. minibatch_size >= 1. */
size_t cf_block_minibatches_scratch(const cf_block_header *header, size_t minibatch_size);
size_t cf_block_minibatches_stamps(const cf_block_header *header, const cf_dictionary *dictionary);
cf_status cf_block_decode_minibatches(const cf_kernels *kernels, const uint8_t *block, size_t n,
                                      const cf_block_header *header,
                                      const cf_dictionary *dictionary, cf_block_options options,
                                      size_t minibatch_size, cf_local_table *table,
                                      uint64_t *scratch, cf_block_minibatches *out);

/* Rows to encode: n_rows of a CSR that may go on on both sides (indptr[0] need not be 0). */
typedef struct {
    size_t n_rows;
    const float *labels;     /* [n_rows] */
    const int64_t *indptr;   /* [n_rows + 1] */
    const uint32_t *indices; /* increasing within a row */
    const float *data;
    const float *weights; /* [n_rows] or NULL */
} cf_block_input;

/* Encoding is measure, then fill. The measure reads all rows, chooses the cheapest way to write
 * them and gives header->n_bytes; the fill needs the same arguments and writes exactly so many.
 * `index` is that of the dictionary, or NULL for none. The measure adds the entries to `columns`,
 * if that is not NULL: its table is as wide as all ids ask for, or CF_E_ID. If the measure fails,
 * some of them may have been added.
 *
 * scratch: cf_block_encode_scratch() words, which carry over from one call to the other.
 * CF_E_INDPTR or CF_E_ORDER: the rows are no CSR (offset: the row, or the entry counted from the
 * block's first). CF_E_ROOM: more than CF_BLOCK_MAX_ENTRIES rows or entries, or than 4 GiB; or the
 * table lists columns met that cannot be its own. */
enum { CF_BLOCK_MAX_ENTRIES = 1 << 27 };
size_t cf_block_encode_scratch(const cf_dictionary_index *index, size_t n_rows, size_t nnz);
cf_status cf_block_measure(const cf_kernels *kernels, const cf_block_input *rows,
                           const cf_dictionary_index *index, uint64_t *scratch,
                           cf_block_header *header, cf_block_columns *columns);
void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                   const cf_dictionary_index *index, uint64_t *scratch,
                   const cf_block_header *header, uint8_t *out);

#endif
