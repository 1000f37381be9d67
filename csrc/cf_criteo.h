/* cf_criteo.h -- rows of Criteo's click logs to CSR.
 *
 *     [id] [label] I1 ... I13 C1 ... C26
 *
 * Cells are parted by tabs or commas; lines end at '\n', '\r\n' or the end of the text, and a line
 * without a byte is not a row. I1 to I13 are numbers and become entries 0 to 12 with their values,
 * zeros included. A category is any bytes; it becomes an entry of value 1 at cf_criteo_id, and
 * those of a row that meet in one id become one entry, their sum. Empty cells are absent entries.
 * Where cells are parted by tabs, empty categories at the end of a row may be missing with their
 * tabs.
 *
 * A cell ends at its separator, a line end, NUL or '\r'; it is judged first, then the byte that
 * ends it. A row belongs to the byte range that holds its first byte; cf_libsvm_range finds such
 * lines.
 */
#ifndef CF_CRITEO_H
#define CF_CRITEO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_dispatch.h"
#include "cf_status.h"

enum {
    CF_CRITEO_INTEGERS = 13,
    CF_CRITEO_CATEGORIES = 26,
    CF_CRITEO_CELLS = CF_CRITEO_INTEGERS + CF_CRITEO_CATEGORIES,
    CF_CRITEO_MIN_BITS = 5,
    CF_CRITEO_MAX_BITS = 31
};

/* How the rows of a file are written. */
typedef struct {
    uint8_t separator; /* '\t' or ',' */
    bool has_id;       /* a first cell that means nothing here */
    bool has_label;    /* without, labels are 0 */
    bool has_header;
} cf_criteo_layout;

/* Looks at the start of a file. Its first line that has a byte is a header if it begins with a
 * letter: [Id,][Label,]I1,..,I13,C1,..,C26 in any case. Otherwise it is a row, and
 * layout->has_label must say beforehand whether rows have a label. *rows_begin is where the rows
 * start. Fails with CF_E_CRITEO_HEADER. */
cf_status cf_criteo_layout_read(const uint8_t *text, size_t n, cf_criteo_layout *layout,
                                size_t *rows_begin);

enum { CF_CRITEO_SKIP = 1u << 0 /* bad lines are skipped and counted */ };

typedef struct {
    cf_criteo_layout layout;
    unsigned flags;
    unsigned bits; /* CF_CRITEO_MIN_BITS to CF_CRITEO_MAX_BITS: ids lie below 2^bits */
} cf_criteo_options;

/* Caller's memory, and what was done with it. */
typedef struct {
    size_t row_room, entry_room;
    float *labels;     /* [row_room] */
    int64_t *row_ends; /* [row_room]: entries up to the end of the row */
    uint32_t *indices; /* [entry_room], increasing within a row */
    float *data;       /* [entry_room] */

    size_t n_rows, n_entries; /* complete rows; start at 0 */
    size_t n_skipped;
    cf_status first_skipped; /* if n_skipped > 0 */
} cf_criteo_rows;

/* Upper bounds for the lines text[first, last). */
void cf_criteo_measure(const cf_kernels *kernels, const uint8_t *text, size_t first, size_t last,
                       size_t *n_rows, size_t *n_entries);

/* Reads the lines text[first, last), both line starts or ends of the text, appending to `rows`.
 *
 * On failure `offset` is the first byte of the cell at fault; the separator before a cell too many;
 * the first byte of a row with too few; the byte itself for CF_E_BYTE. Rows before it are complete.
 * CF_E_ROOM, never skipped, means that the room is less than measured. */
cf_status cf_criteo_fill(const cf_criteo_options *options, const uint8_t *text, size_t n,
                         size_t first, size_t last, cf_criteo_rows *rows);

/* The id of a category: `column` is 1 for C1 to 26 for C26, `cell` has n > 0 bytes. Fixed: stored
 * data depends on it. docs/data.md says it in words. */
uint32_t cf_criteo_id(unsigned column, const uint8_t *cell, size_t n, unsigned bits);

#endif
