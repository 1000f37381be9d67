/* cf_block.h -- one block: some thousand rows as bytes that stand alone (with the dictionary
 * named).
 *
 * A row is its count of ids in each tier, a bitmap for the most popular ids, the members of the
 * other tiers by number, and the ids outside the dictionary by gap; values follow in a stream of
 * their own, most of them implied. docs/shard-format.md describes every bit. float32 values,
 * labels and weights survive bit for bit, ids and the order of rows too.
 *
 * Bytes are not trusted: whatever they hold, decoding reads inside [block, block + n), writes
 * inside the arrays it was given, and ends.
 */
#ifndef CF_BLOCK_H
#define CF_BLOCK_H

#include "cf_bits.h"
#include "cf_dictionary.h"
#include "cf_dispatch.h"
#include "cf_status.h"

enum { CF_BLOCK_VERSION = 1, CF_BLOCK_HEADER = 72 };

enum {
    CF_BLOCK_WEIGHTS = 1 << 0,    /* a weight for each row */
    CF_BLOCK_DICTIONARY = 1 << 1, /* ids and values refer to a dictionary */
    CF_BLOCK_ONES = 1 << 2,       /* values without a table are 1.0, but for the exceptions */
    CF_BLOCK_KNOWN_FLAGS = (1 << 3) - 1
};

typedef struct {
    uint32_t n_bytes;
    unsigned version, flags;
    uint32_t n_rows, nnz; /* each at most 8 n_bytes: an entry and a label take a bit or more */
    uint32_t max_row;     /* most entries in a row */
    uint64_t dictionary;  /* identity, 0 for none */
    uint32_t ids_bytes, values_bytes, n_exceptions, n_table;
    unsigned label_bits; /* 1 to 8 (codes into n_labels labels), or 32 */
    uint32_t n_labels;
    unsigned first_bits, second_bits; /* the block's own value table */
    cf_gap_code gaps;
    uint8_t count_bits[CF_TIERS]; /* [0]: ids outside the dictionary; [t]: coded tier t */
} cf_block_header;

/* Reads and checks a header from the first n bytes of a block; n may be less than n_bytes. What it
 * says then agrees with n_bytes, so arrays of n_rows and nnz may be allocated: at most 192 bytes
 * for each byte of the block, scratch included. */
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
 * scratch: cf_block_decode_scratch() words, none if rows need not be ordered. On failure the
 * arrays hold some rows, none of them to be used. */
size_t cf_block_decode_scratch(const cf_block_header *header, int ordered);
cf_status cf_block_decode(const cf_kernels *kernels, const uint8_t *block, size_t n,
                          const cf_block_header *header, const cf_dictionary *dictionary,
                          cf_block_options options, uint64_t *scratch, cf_block_rows *rows);

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
 *
 * scratch: cf_block_encode_scratch() words, which carry over from one call to the other.
 * CF_E_INDPTR or CF_E_ORDER: the rows are no CSR (offset: the row, or the entry counted from the
 * block's first). CF_E_ROOM: more than CF_BLOCK_MAX_ENTRIES rows or entries, or than 4 GiB. */
enum { CF_BLOCK_MAX_ENTRIES = 1 << 27 };
size_t cf_block_encode_scratch(size_t n_rows, size_t nnz);
cf_status cf_block_measure(const cf_block_input *rows, const cf_dictionary *dictionary,
                           uint64_t *scratch, cf_block_header *header);
void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                   const cf_dictionary *dictionary, uint64_t *scratch,
                   const cf_block_header *header, uint8_t *out);

#endif
