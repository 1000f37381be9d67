/* cf_libsvm.h -- LibSVM text to CSR and back.
 *
 *     label [qid:N] index:value index:value ...   # comment
 *
 * Lines end at '\n', '\r\n' or the end of the text; tokens are parted by spaces and tabs. A token
 * ends at a blank, a line end, '#', NUL or '\r'; it is judged first, then the byte that ends it.
 * Lines without a token are not rows. A line belongs to the byte range that holds its first byte.
 *
 * Read in three calls: cf_libsvm_range finds the lines of a byte range, cf_libsvm_measure bounds
 * their rows and entries, cf_libsvm_fill writes them into the caller's memory. Nothing outside
 * text[0, n) is read and nothing is ever written to it.
 */
#ifndef CF_LIBSVM_H
#define CF_LIBSVM_H

#include <stddef.h>
#include <stdint.h>

#include "cf_dispatch.h"
#include "cf_mix.h"
#include "cf_status.h"

enum {
    CF_LIBSVM_REFUSE_ZERO = 1u << 0, /* feature index 0 is an error: the data is one-based */
    CF_LIBSVM_WEIGHTS = 1u << 1,     /* label:weight is allowed */
    CF_LIBSVM_NONFINITE = 1u << 2,   /* nan and infinity are allowed as labels and values */
    CF_LIBSVM_SKIP = 1u << 3,        /* bad lines are skipped and counted */
    CF_LIBSVM_CAREFUL = 1u << 4      /* for tests: never use the kernels' fast path */
};

/* The largest index as written that is accepted without hashing. */
#define CF_LIBSVM_MAX_ID 0xfffffffeu

typedef struct cf_libsvm_options {
    unsigned flags;
    unsigned hash_bits; /* 1 to 32: ids become cf_libsvm_hash(id, hash_bits); 0: as written */
    uint32_t base;      /* subtracted from stored ids, modulo 2^32; 0 with hashing */
    int64_t max_id;     /* larger indices, as written, are refused: -1 to CF_LIBSVM_MAX_ID; unused
                           with hashing */
} cf_libsvm_options;

/* Caller's memory, and what was done with it. */
typedef struct cf_libsvm_rows {
    size_t row_room, entry_room;
    float *labels;     /* [row_room] */
    int64_t *row_ends; /* [row_room]: entry_base + entries up to the end of the row */
    uint32_t *indices; /* [entry_room], increasing within a row */
    float *data;       /* [entry_room] */
    float *weights;    /* [row_room], 1 where none is written; NULL without CF_LIBSVM_WEIGHTS */
    uint64_t *scratch; /* [entry_room] with hashing, otherwise NULL */
    int64_t entry_base;

    size_t n_rows, n_entries; /* complete rows; start at 0 */
    uint32_t min_id, max_id;  /* as written or, with hashing, as stored; if n_entries > 0 */
    size_t n_skipped;
    cf_status first_skipped; /* if n_skipped > 0 */
} cf_libsvm_rows;

/* The first and one past the last byte of the lines whose first byte lies in text[begin, end). */
void cf_libsvm_range(const uint8_t *text, size_t n, size_t begin, size_t end, size_t *first,
                     size_t *last);

/* Upper bounds for the lines text[first, last): exact if every line is a row, every colon stands
 * between an index and a value, and no line is skipped. */
void cf_libsvm_measure(const cf_kernels *kernels, const uint8_t *text, size_t first, size_t last,
                       size_t *n_rows, size_t *n_entries);

/* The rows among the lines text[first, last), as cf_libsvm_range found them: exact for text that
 * cf_libsvm_fill accepts. As fast as memchr. */
size_t cf_libsvm_count(const uint8_t *text, size_t n, size_t first, size_t last);

/* A part of a text: its lines [begin, end), the rows among them as cf_libsvm_count has them, and
 * the bound of their entries. */
typedef struct cf_libsvm_piece {
    size_t begin, end, n_rows, n_entries;
} cf_libsvm_piece;

/* Cuts a text of whole lines into pieces of the lines that begin in `step` > 0 bytes each, counted
 * from `before` bytes before the text on; leaves out those without rows, and returns how many there
 * are. `pieces` has room for n / step + 2. */
size_t cf_libsvm_cut(const cf_kernels *kernels, const uint8_t *text, size_t n, size_t before,
                     size_t step, cf_libsvm_piece *pieces);

/* The byte behind the *n_lines-th line end of text[0, n); or n if there are fewer, and *n_lines
 * says how many. */
size_t cf_libsvm_skip(const uint8_t *text, size_t n, size_t *n_lines);

/* Parses the lines text[first, last), as cf_libsvm_range found them, appending to `rows`.
 *
 * On failure `offset` is the first byte of the label, weight, index or value at fault; the colon of
 * a missing value or weight; the byte itself for CF_E_BYTE; the label of a row whose hashed
 * entries add up to more than float32 holds. Rows before it are complete. CF_E_ROOM, never skipped,
 * means that the room is less than measured.
 *
 * Values equal float32(nearest double). Index order is checked on the ids as written; hashing then
 * sorts a row by hash and sums equal ones in float32, in written order.
 */
cf_status cf_libsvm_fill(const cf_kernels *kernels, const cf_libsvm_options *options,
                         const uint8_t *text, size_t n, size_t first, size_t last,
                         cf_libsvm_rows *rows);

/* 1-based line and column of a byte; linear in `offset`. */
void cf_libsvm_locate(const cf_kernels *kernels, const uint8_t *text, size_t offset, size_t *line,
                      size_t *column);

/* The top `bits` bits (1 to 32) of splitmix64's finaliser. Fixed: stored data depends on it. */
static inline uint32_t cf_libsvm_hash(uint64_t id, unsigned bits) {
    return (uint32_t)(cf_mix(id) >> (64 - bits));
}

/* Bytes that hold any label with its weight and line end, and any entry. */
enum { CF_LIBSVM_ROW_TEXT = 32, CF_LIBSVM_ENTRY_TEXT = 27 };

/* Writes rows [begin, end) as text that parses back to the same bits, NaN payloads excepted.
 *
 * indptr[begin] to indptr[end] must lie inside the arrays, what is between is checked; `base` is
 * added to the indices; `weights` may be NULL. `out` has room for CF_LIBSVM_ROW_TEXT a row and
 * CF_LIBSVM_ENTRY_TEXT an entry. Fails where no text would read back, `offset` being the entry:
 * CF_E_ORDER, CF_E_INDEX_RANGE; or the row: CF_E_WEIGHT, CF_E_INDPTR. */
cf_status cf_libsvm_write(const float *labels, const int64_t *indptr, const uint32_t *indices,
                          const float *data, const float *weights, size_t begin, size_t end,
                          uint32_t base, uint8_t *out, size_t *n_written);

#endif
