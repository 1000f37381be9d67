/* The definition of the format: one careful row at a time, every refusal with its byte.
 *
 * Ordinary lines, nearly all there are, go through the kernels' libsvm_rows instead
 * (cf_libsvm_rows.c is the scalar one). That knows no errors: whatever it does not recognise it
 * leaves to this file, which therefore decides alone what is accepted and why something is not.
 */
#include "cf_libsvm.h"

#include <string.h>

#include "cf_libsvm_fold.h"
#include "cf_number.h"

static size_t next_line(const uint8_t *text, size_t n, size_t pos) {
    const uint8_t *newline = pos < n ? memchr(text + pos, '\n', n - pos) : NULL;
    return newline ? (size_t)(newline - text) + 1 : n;
}

static size_t line_start_from(const uint8_t *text, size_t n, size_t pos) {
    return pos == 0 || text[pos - 1] == '\n' ? pos : next_line(text, n, pos);
}

void cf_libsvm_range(const uint8_t *text, size_t n, size_t begin, size_t end, size_t *first,
                     size_t *last) {
    *first = line_start_from(text, n, begin);
    *last = line_start_from(text, n, end);
}

void cf_libsvm_measure(const cf_kernels *kernels, const uint8_t *text, size_t first, size_t last,
                       size_t *n_rows, size_t *n_entries) {
    *n_rows = *n_entries = 0;
    if (first == last)
        return;
    kernels->count_lines_colons(text + first, last - first, n_rows, n_entries);
    *n_rows += text[last - 1] != '\n';
}

void cf_libsvm_locate(const cf_kernels *kernels, const uint8_t *text, size_t offset, size_t *line,
                      size_t *column) {
    size_t newlines = 0, colons = 0, start = offset;
    if (offset > 0)
        kernels->count_lines_colons(text, offset, &newlines, &colons);
    while (start > 0 && text[start - 1] != '\n')
        start--;
    *line = newlines + 1;
    *column = offset - start + 1;
}

static bool is_digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }
static bool is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

static bool token_ends(const uint8_t *p, const uint8_t *end) {
    return p == end || is_blank(*p) || *p == '\n' || *p == '\r' || *p == '#' || *p == 0;
}

/* The Microsoft run-time library before 2015 wrote 1.#INF, -1.#IND and 1.#QNAN: not a number
 * followed by a comment. `p` is where the number stopped. */
static bool is_microsoft_nan(const uint8_t *p, const uint8_t *end) {
    static const char *const WORDS[] = {"#INF", "#IND", "#QNAN", "#SNAN"};
    if (p[-1] != '.')
        return false;
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        const size_t length = strlen(WORDS[i]);
        if ((size_t)(end - p) >= length && memcmp(p, WORDS[i], length) == 0)
            return true;
    }
    return false;
}

/* A whole token, or the part of a label before its colon, as float32. */
static cf_code read_f32(const uint8_t *p, const uint8_t *end, bool is_label, cf_code not_a_number,
                        bool nonfinite, float *value, const uint8_t **stop) {
    const cf_number number = cf_number_read(p, end);
    *stop = number.stop;
    if (number.kind == CF_NUMBER_NONE)
        return not_a_number;
    if (!token_ends(number.stop, end) && !(is_label && *number.stop == ':'))
        return not_a_number;
    if (is_microsoft_nan(number.stop, end))
        return not_a_number;
    if (number.kind == CF_NUMBER_WORD) {
        if (!nonfinite)
            return CF_E_NONFINITE;
    } else if (!cf_number_fits_f32(number.value)) {
        return CF_E_VALUE_RANGE;
    }
    *value = (float)number.value;
    return CF_OK;
}

/* From the end of the last token to the start of the next line, over blanks and a comment. */
static cf_status finish_line(const uint8_t *text, const uint8_t *p, const uint8_t *end,
                             size_t *next) {
    bool comment = false;
    for (; p < end && *p != '\n'; p++) {
        if (*p == 0 || (*p == '\r' && p + 1 < end && p[1] != '\n'))
            return cf_fail(CF_E_BYTE, (size_t)(p - text));
        comment |= *p == '#';
        if (!comment && *p != '\r' && !is_blank(*p))
            break; /* the next token */
    }
    *next = (size_t)(p - text) + (p < end && *p == '\n');
    return cf_ok();
}

/* Digits only, any number of leading zeros; false past 2^64 - 1. */
static bool read_index(const uint8_t *p, const uint8_t *stop, uint64_t *index) {
    uint64_t value = 0;
    for (; p < stop; p++) {
        const uint64_t digit = (uint64_t)(*p - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *index = value;
    return true;
}

/* One line from *pos, which moves to the next line on success only. */
static cf_status read_line(const cf_libsvm_options *options, const uint8_t *text, size_t n,
                           size_t *pos, cf_libsvm_rows *rows) {
    const uint8_t *const end = text + n;
    const uint8_t *p = text + *pos, *stop;
    const bool nonfinite = options->flags & CF_LIBSVM_NONFINITE;
    size_t next;

    while (p < end && is_blank(*p))
        p++;
    if (token_ends(p, end)) {
        const cf_status status = finish_line(text, p, end, &next);
        if (status.code == CF_OK)
            *pos = next;
        return status;
    }

    const size_t label_offset = (size_t)(p - text);
    if (rows->n_rows == rows->row_room)
        return cf_fail(CF_E_ROOM, label_offset);
    float label = 0, weight = 1;
    cf_code code = read_f32(p, end, true, CF_E_LABEL, nonfinite, &label, &stop);
    if (code != CF_OK)
        return cf_fail(code, label_offset);
    if (stop < end && *stop == ':') {
        if (!(options->flags & CF_LIBSVM_WEIGHTS))
            return cf_fail(CF_E_LABEL_COLON, label_offset);
        const uint8_t *const colon = stop;
        if (token_ends(colon + 1, end))
            return cf_fail(CF_E_WEIGHT, (size_t)(colon - text));
        code = read_f32(colon + 1, end, false, CF_E_WEIGHT, false, &weight, &stop);
        if (code == CF_E_NONFINITE || (code == CF_OK && weight < 0))
            code = CF_E_WEIGHT;
        if (code != CF_OK)
            return cf_fail(code, (size_t)(colon + 1 - text));
    }
    p = stop;

    const size_t row_start = rows->n_entries;
    size_t entry = row_start;
    uint64_t previous = 0, first_id = 0;
    for (bool after_label = true;; after_label = false) {
        const cf_status status = finish_line(text, p, end, &next);
        if (status.code != CF_OK)
            return status;
        p = text + next;
        if (p == end || p[-1] == '\n')
            break;
        const size_t offset = (size_t)(p - text);

        if (end - p >= 4 && memcmp(p, "qid:", 4) == 0) {
            stop = p + 4;
            while (stop < end && is_digit(*stop))
                stop++;
            if (!after_label || stop == p + 4 || !token_ends(stop, end))
                return cf_fail(CF_E_QID, offset);
            p = stop;
            continue;
        }

        const uint8_t *colon = p;
        bool whole = true;
        for (; !token_ends(colon, end) && *colon != ':'; colon++)
            whole &= is_digit(*colon);
        if (token_ends(colon, end))
            return cf_fail(CF_E_COLON, offset);
        if (!whole || colon == p)
            return cf_fail(CF_E_INDEX, offset);
        uint64_t id;
        if (!read_index(p, colon, &id))
            return cf_fail(CF_E_INDEX_RANGE, offset);
        if (!options->hash_bits && (options->max_id < 0 || id > (uint64_t)options->max_id))
            return cf_fail(CF_E_INDEX_RANGE, offset);
        if (id == 0 && options->flags & CF_LIBSVM_REFUSE_ZERO)
            return cf_fail(CF_E_INDEX_ZERO, offset);
        if (entry > row_start && id <= previous)
            return cf_fail(CF_E_ORDER, offset);
        if (token_ends(colon + 1, end))
            return cf_fail(CF_E_VALUE_MISSING, (size_t)(colon - text));
        float value;
        code = read_f32(colon + 1, end, false, CF_E_VALUE, nonfinite, &value, &p);
        if (code != CF_OK)
            return cf_fail(code, (size_t)(colon + 1 - text));
        if (entry == rows->entry_room)
            return cf_fail(CF_E_ROOM, offset);
        rows->indices[entry] = options->hash_bits ? cf_libsvm_hash(id, options->hash_bits)
                                                  : (uint32_t)id - options->base;
        rows->data[entry] = value;
        if (entry == row_start)
            first_id = id;
        previous = id;
        entry++;
    }

    if (options->hash_bits && entry > row_start) {
        size_t kept = entry - row_start;
        if (!cf_libsvm_fold(rows->indices + row_start, rows->data + row_start, &kept,
                            rows->scratch))
            return cf_fail(CF_E_VALUE_RANGE, label_offset);
        entry = row_start + kept;
        first_id = rows->indices[row_start];
        previous = rows->indices[entry - 1];
    }
    if (entry > row_start) {
        if (row_start == 0 || first_id < rows->min_id)
            rows->min_id = (uint32_t)first_id;
        if (row_start == 0 || previous > rows->max_id)
            rows->max_id = (uint32_t)previous;
    }
    rows->labels[rows->n_rows] = label;
    if (rows->weights)
        rows->weights[rows->n_rows] = weight;
    rows->row_ends[rows->n_rows] = rows->entry_base + (int64_t)entry;
    rows->n_entries = entry;
    rows->n_rows++;
    *pos = next;
    return cf_ok();
}

cf_status cf_libsvm_fill(const cf_kernels *kernels, const cf_libsvm_options *options,
                         const uint8_t *text, size_t n, size_t first, size_t last,
                         cf_libsvm_rows *rows) {
    for (size_t pos = first; pos < last;) {
        if (!(options->flags & CF_LIBSVM_CAREFUL)) {
            pos = kernels->libsvm_rows(options, text, n, pos, last, rows);
            if (pos == last)
                break;
        }
        const cf_status status = read_line(options, text, n, &pos, rows);
        if (status.code == CF_OK)
            continue;
        if (!(options->flags & CF_LIBSVM_SKIP) || status.code == CF_E_ROOM)
            return status;
        if (rows->n_skipped++ == 0)
            rows->first_skipped = status;
        pos = next_line(text, n, status.offset);
    }
    return cf_ok();
}
