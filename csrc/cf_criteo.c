#include "cf_criteo.h"

#include <string.h>

#include "cf_mix.h"
#include "cf_number.h"

#define LIKELY(x) __builtin_expect(!!(x), 1)

/* Bytes that the shortcuts of a cell may look at: eight digits, a point, a zero, a separator, and a
 * sign before them; and loads of eight. */
enum { LOOK_AHEAD = 16 };

static inline uint64_t hash_start(unsigned column, size_t n) {
    return ((uint64_t)column + 32 * (uint64_t)n) * 0x9e3779b97f4a7c15u;
}

static inline uint32_t id_of(uint64_t h, unsigned bits) {
    const uint64_t places = ((uint64_t)1 << bits) - CF_CRITEO_INTEGERS;
    return CF_CRITEO_INTEGERS + (uint32_t)((h >> 32) * places >> 32);
}

uint32_t cf_criteo_id(unsigned column, const uint8_t *cell, size_t n, unsigned bits) {
    uint64_t h = hash_start(column, n);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, cell + i, n - i < 8 ? n - i : 8);
        h = cf_mix(h ^ word);
    }
    return id_of(h, bits);
}

static bool ends_line(const uint8_t *p, const uint8_t *end) {
    return p == end || *p == '\n' || (*p == '\r' && (p + 1 == end || p[1] == '\n'));
}

static bool ends_cell(const uint8_t *p, const uint8_t *end, uint8_t separator) {
    return p == end || *p == separator || *p == '\n' || *p == '\r' || *p == 0;
}

/* From where a line ends to where the next one starts. */
static const uint8_t *after_line(const uint8_t *p, const uint8_t *end) {
    p += p < end && *p == '\r';
    return p + (p < end && *p == '\n');
}

static size_t next_line(const uint8_t *text, size_t n, size_t pos) {
    const uint8_t *newline = pos < n ? memchr(text + pos, '\n', n - pos) : NULL;
    return newline ? (size_t)(newline - text) + 1 : n;
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; }

/* Whether `name`, in any case, is the cell at *p, which then moves behind it and its separator. */
static bool take_name(const char *name, const uint8_t **p, const uint8_t *end, uint8_t separator) {
    const uint8_t *q = *p;
    for (; *name; name++, q++)
        if (q == end || lower(*q) != (uint8_t)*name)
            return false;
    if (!ends_cell(q, end, separator))
        return false;
    *p = q + (q < end && *q == separator);
    return true;
}

cf_status cf_criteo_layout_read(const uint8_t *text, size_t n, cf_criteo_layout *layout,
                                size_t *rows_begin) {
    const uint8_t *const end = text + n;
    const uint8_t *p = text;
    while (p < end && ends_line(p, end))
        p = after_line(p, end);
    const size_t start = (size_t)(p - text), line_end = next_line(text, n, start);
    layout->separator = memchr(text + start, '\t', line_end - start) ? '\t' : ',';
    layout->has_id = layout->has_header = false;
    *rows_begin = start;
    if (p == end || lower(*p) < 'a' || lower(*p) > 'z')
        return cf_ok();

    layout->has_header = true;
    layout->has_id = take_name("id", &p, end, layout->separator);
    layout->has_label = take_name("label", &p, end, layout->separator);
    for (unsigned i = 0; i < CF_CRITEO_CELLS; i++) {
        const bool integer = i < CF_CRITEO_INTEGERS;
        const unsigned number = integer ? i + 1 : i + 1 - CF_CRITEO_INTEGERS;
        const char name[4] = {integer ? 'i' : 'c',
                              (char)('0' + (number < 10 ? number : number / 10)),
                              (char)(number < 10 ? 0 : '0' + number % 10), 0};
        if (!take_name(name, &p, end, layout->separator))
            return cf_fail(CF_E_CRITEO_HEADER, start);
    }
    if (p[-1] == layout->separator || !ends_line(p, end))
        return cf_fail(CF_E_CRITEO_HEADER, start);
    *rows_begin = (size_t)(after_line(p, end) - text);
    return cf_ok();
}

void cf_criteo_measure(const cf_kernels *kernels, const uint8_t *text, size_t first, size_t last,
                       size_t *n_rows, size_t *n_entries) {
    size_t colons;
    *n_rows = *n_entries = 0;
    if (first == last)
        return;
    kernels->count_lines_colons(text + first, last - first, n_rows, &colons);
    *n_rows += text[last - 1] != '\n';
    /* Every entry is a byte at least, so empty lines cannot ask for more than they are. */
    const size_t most = last - first;
    *n_entries = *n_rows < most / CF_CRITEO_CELLS ? *n_rows * CF_CRITEO_CELLS : most;
}

/* A cell's outcome and the byte that ends it. */
typedef struct {
    cf_code code;
    const uint8_t *stop;
} cell_end;

/* The number in a cell that is not empty. */
static cell_end read_number(const uint8_t *p, const uint8_t *end, uint8_t separator,
                            cf_code not_a_number, double *value) {
    if (*p == '"')
        return (cell_end){CF_E_CRITEO_QUOTE, p};
    const cf_number number = cf_number_read(p, end);
    if (number.kind != CF_NUMBER_FINITE || !ends_cell(number.stop, end, separator))
        return (cell_end){not_a_number, p};
    *value = number.value;
    return (cell_end){CF_OK, number.stop};
}

static cell_end read_label(const uint8_t *p, const uint8_t *end, uint8_t separator, float *label) {
    if (end - p >= 2 && (*p == '0' || *p == '1') && p[1] == separator) {
        *label = (float)(*p - '0');
        return (cell_end){CF_OK, p + 1};
    }
    if (ends_cell(p, end, separator))
        return (cell_end){CF_E_CRITEO_LABEL, p};
    double value = 0;
    cell_end cell = read_number(p, end, separator, CF_E_CRITEO_LABEL, &value);
    if (cell.code == CF_OK && value != 0 && value != 1)
        cell.code = CF_E_CRITEO_LABEL;
    *label = value == 1;
    return cell;
}

/* Digits, digits after a minus, and both with ".0" behind (which pandas writes where a column has
 * gaps); NULL for anything else. */
static inline const uint8_t *read_plain_integer(const uint8_t *p, uint8_t separator, float *value) {
    const bool negative = *p == '-';
    const uint8_t *const digits = p + negative;
    const uint64_t word = cf_load_u64(digits);
    const unsigned n = cf_count_digits(word);
    if (n == 0)
        return NULL;
    const uint8_t *stop = digits + n;
    if (*stop == '.' && stop[1] == '0')
        stop += 2;
    if (*stop != separator)
        return NULL;
    const float size = (float)cf_digits_value(word, n);
    *value = negative ? -size : size;
    return stop;
}

static cell_end read_integer(const uint8_t *p, const uint8_t *end, uint8_t separator,
                             float *value) {
    if (LIKELY(end - p >= LOOK_AHEAD)) {
        const uint8_t *const stop = read_plain_integer(p, separator, value);
        if (LIKELY(stop != NULL))
            return (cell_end){CF_OK, stop};
    }
    double number = 0;
    cell_end cell = read_number(p, end, separator, CF_E_CRITEO_NUMBER, &number);
    if (cell.code == CF_OK && !cf_number_fits_f32(number))
        cell.code = CF_E_VALUE_RANGE;
    *value = (float)number;
    return cell;
}

static cell_end read_category(const uint8_t *p, const uint8_t *end, uint8_t separator,
                              unsigned column, unsigned bits, uint32_t *id) {
    if (LIKELY(end - p >= LOOK_AHEAD)) {
        /* Bytes 0x30 to 0x7f, among them all digits and letters, up to the first other one. A
         * borrow only spoils bytes after that one. */
        const uint64_t word = cf_load_u64(p);
        const uint64_t others = (word | (word - 0x3030303030303030u)) & 0x8080808080808080u;
        const unsigned n = others ? (unsigned)__builtin_ctzll(others) >> 3 : 8;
        if (LIKELY(n > 0 && p[n] == separator)) {
            const uint64_t cell = word << (64 - 8 * n) >> (64 - 8 * n);
            *id = id_of(cf_mix(hash_start(column, n) ^ cell), bits);
            return (cell_end){CF_OK, p + n};
        }
    }
    if (*p == '"')
        return (cell_end){CF_E_CRITEO_QUOTE, p};
    const uint8_t *stop = p;
    while (!ends_cell(stop, end, separator))
        stop++;
    *id = cf_criteo_id(column, p, (size_t)(stop - p), bits);
    return (cell_end){CF_OK, stop};
}

/* Sorts the ids of a row's categories and counts those that meet; returns how many are left.
 *
 * An id's place is how many are smaller. Quadratic, but without a branch that hashes could mislead,
 * and the inner loop is a few vectors: half the time of cf_libsvm_fold, which knows no such limit.
 */
static size_t fold_categories(uint32_t *ids, float *data, size_t n) {
    enum { LANES = (CF_CRITEO_CATEGORIES + 3) / 4 * 4 };
    int32_t keys[LANES], smaller[LANES] = {0}; /* ids are below 2^31, and vectors lack unsigned < */
    uint32_t sorted[LANES];
    uint8_t counts[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        keys[i] = (int32_t)ids[i];
    for (size_t i = n; i < LANES; i++)
        keys[i] = INT32_MAX;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < LANES; j++)
            smaller[j] += keys[i] < keys[j];
    for (size_t i = 0; i < n; i++) {
        sorted[smaller[i]] = (uint32_t)keys[i];
        counts[smaller[i]]++;
    }
    size_t kept = 0;
    for (size_t place = 0; place < n; place += counts[place], kept++) {
        ids[kept] = sorted[place];
        data[kept] = (float)counts[place];
    }
    return kept;
}

/* One line from *pos, which moves to the next line on success only. */
static cf_status read_row(const cf_criteo_options *options, const uint8_t *text, size_t n,
                          size_t *pos, cf_criteo_rows *rows) {
    const uint8_t *const end = text + n, *const start = text + *pos;
    const uint8_t *p = start;
    if (ends_line(p, end)) {
        *pos = (size_t)(after_line(p, end) - text);
        return cf_ok();
    }
    if (rows->n_rows == rows->row_room)
        return cf_fail(CF_E_ROOM, *pos);

    const uint8_t separator = options->layout.separator;
    const unsigned bits = options->bits;
    const size_t row_start = rows->n_entries;
    size_t entry = row_start, categories = 0;
    float label = 0;
    /* Cells are numbered so that I1 is 0, whatever stands before it. */
    const int first_cell = -(int)options->layout.has_id - (int)options->layout.has_label;
    int i = first_cell;
    for (;; i++, p++) {
        cell_end cell = {CF_OK, p};
        if (i < 0) {
            if (options->layout.has_label && i == -1)
                cell = read_label(p, end, separator, &label);
            else if (p < end && *p == '"')
                cell.code = CF_E_CRITEO_QUOTE;
            else
                while (!ends_cell(cell.stop, end, separator))
                    cell.stop++;
        } else if (!ends_cell(p, end, separator)) {
            if (entry == rows->entry_room)
                return cf_fail(CF_E_ROOM, (size_t)(p - text));
            if (i < CF_CRITEO_INTEGERS) {
                cell = read_integer(p, end, separator, &rows->data[entry]);
                rows->indices[entry] = (uint32_t)i;
            } else {
                cell = read_category(p, end, separator, (unsigned)i - CF_CRITEO_INTEGERS + 1, bits,
                                     &rows->indices[entry]);
                categories++;
            }
            entry++;
        }
        if (cell.code != CF_OK)
            return cf_fail(cell.code, (size_t)(p - text));
        p = cell.stop;
        if (p == end || *p != separator)
            break;
        if (i == CF_CRITEO_CELLS - 1)
            return cf_fail(CF_E_CRITEO_COLUMNS, (size_t)(p - text));
    }
    if (!ends_line(p, end))
        return cf_fail(CF_E_BYTE, (size_t)(p - text));
    const int needed = separator == '\t' ? CF_CRITEO_INTEGERS : CF_CRITEO_CELLS;
    if (i + 1 < needed)
        return cf_fail(CF_E_CRITEO_COLUMNS, *pos);

    const size_t first_category = entry - categories;
    entry = first_category + fold_categories(rows->indices + first_category,
                                             rows->data + first_category, categories);
    rows->labels[rows->n_rows] = label;
    rows->row_ends[rows->n_rows] = (int64_t)entry;
    rows->n_entries = entry;
    rows->n_rows++;
    *pos = (size_t)(after_line(p, end) - text);
    return cf_ok();
}

cf_status cf_criteo_fill(const cf_criteo_options *options, const uint8_t *text, size_t n,
                         size_t first, size_t last, cf_criteo_rows *rows) {
    for (size_t pos = first; pos < last;) {
        const cf_status status = read_row(options, text, n, &pos, rows);
        if (status.code == CF_OK)
            continue;
        if (!(options->flags & CF_CRITEO_SKIP) || status.code == CF_E_ROOM)
            return status;
        if (rows->n_skipped++ == 0)
            rows->first_skipped = status;
        pos = next_line(text, n, pos);
    }
    return cf_ok();
}
