/* The fast path for ordinary lines, one 64-bit word at a time: needs nothing of the CPU. */
#include "cf_libsvm.h"

#include "cf_libsvm_fold.h"
#include "cf_number.h"
#include "cf_variants.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Bytes that one turn of the entry loop may look at unchecked: 16 digits, a colon, a sign, twice 8
 * digits around a point, a line end, and 8 for the last load. cf_number_read checks for itself. */
enum { LOOK_AHEAD = 64 };

static const double TENS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8};
static const uint64_t WHOLE_TENS[] = {1,      10,      100,      1000,     10000,
                                      100000, 1000000, 10000000, 100000000};

static inline bool is_digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }
static inline bool is_blank(uint8_t c) { return c == ' ' || c == '\t'; }
static inline bool ends_plain_token(uint8_t c) { return is_blank(c) || c == '\n' || c == '\r'; }

/* `hashing` is a constant at both calls, so each compiles to its own loop. */
__attribute__((always_inline)) static inline size_t
read_rows(const cf_libsvm_options *options, const uint8_t *text, size_t n, size_t pos, size_t last,
          cf_libsvm_rows *rows, const bool hashing) {
    if (n < LOOK_AHEAD)
        return pos;
    const uint8_t *const end = text + n, *const safe = end - LOOK_AHEAD;
    const unsigned hash_bits = options->hash_bits;
    const uint32_t base = options->base;
    const int64_t max_id = options->max_id;
    const int64_t before_first = options->flags & CF_LIBSVM_REFUSE_ZERO ? 0 : -1;
    const size_t entry_room = rows->entry_room, row_room = rows->row_room;
    uint32_t *const indices = rows->indices;
    float *const data = rows->data;

    while (pos < last) {
        const uint8_t *p = text + pos;
        while (LIKELY(p <= safe) && UNLIKELY(is_blank(*p)))
            p++;
        if (UNLIKELY(p > safe))
            return pos;
        if (UNLIKELY(*p == '\n')) {
            pos = (size_t)(p - text) + 1;
            continue;
        }

        float label, weight = 1;
        const bool sign = *p == '-' || *p == '+';
        if (LIKELY(is_digit(p[sign]) && is_blank(p[sign + 1]))) {
            label = (float)(p[sign] - '0');
            label = *p == '-' ? -label : label;
            p += sign + 1;
        } else {
            cf_number number = cf_number_read(p, end);
            if (number.kind != CF_NUMBER_FINITE || !cf_number_fits_f32(number.value))
                return pos;
            label = (float)number.value;
            p = number.stop;
            if (p > safe)
                return pos;
            if (*p == ':') {
                if (!rows->weights)
                    return pos;
                number = cf_number_read(p + 1, end);
                weight = (float)number.value;
                if (number.kind != CF_NUMBER_FINITE || !cf_number_fits_f32(number.value) ||
                    weight < 0)
                    return pos;
                p = number.stop;
                if (p > safe)
                    return pos;
            }
            if (!ends_plain_token(*p))
                return pos;
        }

        const size_t row_start = rows->n_entries;
        size_t entry = row_start;
        int64_t previous = before_first;
        bool after_label = true;
        for (;;) {
            if (UNLIKELY(p > safe))
                return pos;
            const uint64_t word = cf_load_u64(p);
            const unsigned n_digits = cf_count_digits(word);
            if (UNLIKELY(n_digits == 0)) {
                if (is_blank(*p)) {
                    p++;
                    continue;
                }
                if (*p == '\n') {
                    p++;
                    break;
                }
                if (*p == '\r' && p[1] == '\n') {
                    p += 2;
                    break;
                }
                if (!after_label || p[0] != 'q' || p[1] != 'i' || p[2] != 'd' || p[3] != ':' ||
                    !is_digit(p[4]))
                    return pos;
                for (p += 5; p < end && is_digit(*p); p++)
                    ;
                if (p > safe || !ends_plain_token(*p))
                    return pos;
                after_label = false;
                continue;
            }
            int64_t id = cf_digits_value(word, n_digits);
            p += n_digits;
            if (UNLIKELY(*p != ':')) { /* up to 16 digits, or something odd */
                const uint64_t more = cf_load_u64(p);
                const unsigned n_more = cf_count_digits(more);
                if (n_digits < 8 || n_more == 0 || p[n_more] != ':')
                    return pos;
                id = id * (int64_t)WHOLE_TENS[n_more] + cf_digits_value(more, n_more);
                p += n_more;
            }
            p++;
            if (UNLIKELY(id <= previous || entry == entry_room))
                return pos;

            double value;
            if (is_digit(p[0]) && (p[1] == ' ' || p[1] == '\n')) {
                value = p[0] - '0';
                p++;
            } else {
                const uint8_t *const start = p;
                const bool negative = *p == '-';
                p += negative;
                const uint64_t whole = cf_load_u64(p);
                const unsigned n_whole = cf_count_digits(whole);
                uint64_t digits = n_whole ? cf_digits_value(whole, n_whole) : 0;
                unsigned n_fraction = 0;
                p += n_whole;
                if (*p == '.') {
                    p++;
                    const uint64_t fraction = cf_load_u64(p);
                    n_fraction = cf_count_digits(fraction);
                    if (n_fraction)
                        digits =
                            digits * WHOLE_TENS[n_fraction] + cf_digits_value(fraction, n_fraction);
                    p += n_fraction;
                }
                /* Up to 2^53 and 10^22 the quotient of two exact doubles is the nearest one. */
                value = (double)digits / TENS[n_fraction];
                value = negative ? -value : value;
                if (UNLIKELY(!ends_plain_token(*p) || n_whole + n_fraction == 0 ||
                             digits > (uint64_t)1 << 53)) {
                    const cf_number number = cf_number_read(start, end);
                    if (number.kind != CF_NUMBER_FINITE || !cf_number_fits_f32(number.value))
                        return pos;
                    value = number.value;
                    p = number.stop;
                    if (p > safe || !ends_plain_token(*p))
                        return pos;
                }
            }
            indices[entry] =
                hashing ? cf_libsvm_hash((uint64_t)id, hash_bits) : (uint32_t)id - base;
            data[entry] = (float)value;
            previous = id;
            entry++;
            after_label = false;
            if (LIKELY(*p == ' ')) {
                p++;
                continue;
            }
            if (LIKELY(*p == '\n')) {
                p++;
                break;
            }
            /* a tab or a carriage return: the next turn deals with it */
        }

        if (UNLIKELY(rows->n_rows == row_room))
            return pos;
        if (LIKELY(entry > row_start)) {
            uint32_t first_id, last_id;
            if (hashing) {
                size_t kept = entry - row_start;
                if (!cf_libsvm_fold(indices + row_start, data + row_start, &kept, rows->scratch))
                    return pos;
                entry = row_start + kept;
                first_id = indices[row_start];
                last_id = indices[entry - 1];
            } else {
                if (UNLIKELY(previous > max_id)) /* the last id is the largest */
                    return pos;
                first_id = indices[row_start] + base;
                last_id = (uint32_t)previous;
            }
            if (row_start == 0 || first_id < rows->min_id)
                rows->min_id = first_id;
            if (row_start == 0 || last_id > rows->max_id)
                rows->max_id = last_id;
        }
        rows->labels[rows->n_rows] = label;
        if (rows->weights)
            rows->weights[rows->n_rows] = weight;
        rows->row_ends[rows->n_rows] = rows->entry_base + (int64_t)entry;
        rows->n_entries = entry;
        rows->n_rows++;
        pos = (size_t)(p - text);
    }
    return pos;
}

size_t cf_libsvm_rows_scalar(const cf_libsvm_options *options, const uint8_t *text, size_t n,
                             size_t pos, size_t last, cf_libsvm_rows *rows) {
    return options->hash_bits ? read_rows(options, text, n, pos, last, rows, true)
                              : read_rows(options, text, n, pos, last, rows, false);
}
