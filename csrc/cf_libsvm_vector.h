/* cf_libsvm_vector.h -- ordinary lines by bytes in parallel: the algorithm that the AVX2, AVX-512
 * and NEON variants share (internal to csrc; only cf_libsvm_rows_avx2.c and its like include it).
 *
 * A chunk of text that fits the first-level cache is gone over four times, without a branch that
 * depends on how long a token is:
 *
 *   1. cf_mark: 64 bytes at a time become bit masks, which decide by an addition whether every
 *      blank is followed by digits and a colon, and yield where colons and line ends are;
 *   2. cf_convert: eight or more entries at once, from the 8 bytes before and behind their colons,
 *      become ids and values of one digit, as most are;
 *   3. convert_values: the other values, up to 16 bytes of digits and a point;
 *   4. take_rows: labels, order and limits; only here is anything accepted.
 *
 * A line that is not plain ends the chunk before it and goes to the scalar code, which may pass it
 * on to the careful one. Plain is `label( id:value)*` with single blanks, then perhaps one more
 * blank or a '\r', then '\n'.
 */
#ifndef CF_LIBSVM_VECTOR_H
#define CF_LIBSVM_VECTOR_H

#include <assert.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cf_libsvm.h"
#include "cf_number.h"
#include "cf_variants.h"

#ifndef CF_TARGET
#error "define CF_TARGET as the target attribute of the including file"
#endif

#define CF_INLINE __attribute__((always_inline)) CF_TARGET static inline

enum {
    BLOCK = 64,
    FIRST_CHUNK = 1 << 10,          /* after an odd line; doubled from chunk to chunk */
    CHUNK = 1 << 14,                /* text and marks stay in a first-level cache of 32 KB */
    LONGEST_CHUNK = 1 << 15,        /* to find the end of a long line */
    MAX_COLONS = LONGEST_CHUNK / 3, /* pass 1 only lets through a blank, a digit, a colon */
    MAX_LINES = CHUNK / 8,
    PAD = 32, /* what a vector may write or read behind the last item of a list */
    /* What must be readable before a line, for its first id, and from the start of a block on: a
     * colon at its end, a sign, 16 bytes of a value and a line end. */
    BEFORE = 8,
    BEHIND = BLOCK + 2 + 16
};

/* What pass 1 finds, as offsets from the start of the chunk, and the passes after it about that. */
typedef struct {
    uint16_t colons[MAX_COLONS + PAD];
    uint16_t line_ends[MAX_LINES + BLOCK];
    uint16_t entry_ends[MAX_LINES + BLOCK]; /* colons before the line end */
    size_t n_lines;
    bool odd_end; /* the line after the last one is not plain */

    uint16_t values[MAX_COLONS + PAD]; /* entries whose value is not one digit */
    size_t n_values;
    uint8_t falls[(MAX_COLONS + PAD) / 8 + 8]; /* a bit an entry: id not above the one before */
    size_t odd_entry;                          /* the first that is not plain, if there is one */
} cf_marks;

/* Implemented by the including file: appends the positions of the bits, offset by `at`. At most
 * BLOCK / 3 + 1 bits are set; PAD items behind the list are writable. */
CF_INLINE size_t cf_append_bits(uint16_t *list, size_t n, uint64_t bits, size_t at);

/* 64 bytes as bit masks, lowest bit first. */
typedef struct {
    uint64_t blanks, newlines, colons, digits;
} cf_masks;

CF_INLINE cf_masks cf_mask_block(const uint8_t *p);

/* Writes the ids as they are in the text, minus `base`, and the values that are one digit of the
 * first n > 0 entries; lists the entries with other values. Of any others data is left undefined.
 */
CF_TARGET static void cf_convert(const uint8_t *chunk, cf_marks *marks, size_t n, uint32_t base,
                                 uint32_t *indices, float *data);

/* What pass 3 finds in 16 bytes: digits, perhaps around a point, as a whole number. `length` counts
 * its bytes with the point, `fraction` the digits behind the point. */
typedef struct {
    int64_t number;
    unsigned length, fraction, has_point;
} cf_decimal;

CF_INLINE cf_decimal cf_read_decimal(const uint8_t *p);

#if defined(__x86_64__)
/* *sum = a + b + carry; the carry out of it. */
CF_INLINE unsigned char add_carry(unsigned char carry, uint64_t a, uint64_t b, uint64_t *sum) {
    unsigned long long to;
    carry = _addcarry_u64(carry, a, b, &to);
    *sum = to;
    return carry;
}

CF_INLINE cf_decimal cf_read_decimal(const uint8_t *p) {
    const __m128i lanes =
        _mm_setr_epi8(-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1);
    const __m128i zero = _mm_set1_epi8('0'), nine = _mm_set1_epi8(9), dot = _mm_set1_epi8('.');
    const __m128i tens = _mm_set1_epi16(0x010a), hundreds = _mm_set1_epi32(0x00010064);
    const __m128i ten_thousands = _mm_set1_epi32(0x00012710);
    const __m128i text = _mm_loadu_si128((const __m128i *)p);
    const __m128i digits = _mm_sub_epi8(text, zero);
    const unsigned dots = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(text, dot));
    const unsigned others =
        ~(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(digits, nine), digits));
    const unsigned first = others & (0 - others), point = first & dots;
    const unsigned has_point = point != 0;
    /* Bits 16 and up of `others` are set, so both ends exist. */
    const unsigned whole = (unsigned)__builtin_ctz(first);
    const unsigned length = (unsigned)__builtin_ctz(others ^ point);
    /* Digits go to the right end of the vector, those before the point one further. */
    __m128i from = _mm_add_epi8(lanes, _mm_set1_epi8((char)length));
    const __m128i behind_point = _mm_set1_epi8((char)((whole + 1) & (0 - has_point)));
    from = _mm_add_epi8(from, _mm_cmpgt_epi8(behind_point, from));
    const __m128i pairs = _mm_maddubs_epi16(_mm_shuffle_epi8(digits, from), tens);
    const __m128i fours = _mm_madd_epi16(pairs, hundreds);
    const __m128i eights = _mm_madd_epi16(_mm_packus_epi32(fours, fours), ten_thousands);
    const uint64_t halves = (uint64_t)_mm_cvtsi128_si64(eights);
    const cf_decimal decimal = {(int64_t)((halves & 0xffffffff) * 100000000 + (halves >> 32)),
                                length, length - whole - has_point, has_point};
    return decimal;
}
#else
CF_INLINE unsigned char add_carry(unsigned char carry, uint64_t a, uint64_t b, uint64_t *sum) {
    const unsigned char carried = __builtin_add_overflow(a, b, sum);
    return carried | (unsigned char)__builtin_add_overflow(*sum, carry, sum);
}
#endif

/* Pass 1, from `chunk` to the first line that is not plain, or some `want` bytes further. Reads
 * nothing from `end` on. */
CF_INLINE void mark(const uint8_t *chunk, const uint8_t *end, size_t want, cf_marks *marks) {
    size_t n_colons = 0, n_lines = 0, at = 0;
    uint64_t after_blank = 0; /* the block before ended with a blank before an id, */
    unsigned char in_id = 0;  /* or within an id */
    bool odd = false;
    const size_t most =
        (size_t)(end - chunk) < LONGEST_CHUNK ? (size_t)(end - chunk) : LONGEST_CHUNK;
    while (!odd && at + BEHIND <= most && (at < want || n_lines == 0) && n_lines <= MAX_LINES) {
        const uint8_t *const p = chunk + at;
        cf_masks m = cf_mask_block(p);
        const uint64_t before_newline = m.newlines >> 1 | (uint64_t)(p[BLOCK] == '\n') << 63;
        const uint64_t blanks = m.blanks & ~before_newline;
        const uint64_t id_starts = blanks << 1 | after_blank;
        /* Adding a run's first digit to the run carries to the byte behind it. */
        uint64_t ran;
        in_id = add_carry(in_id, m.digits, id_starts & m.digits, &ran);
        const uint64_t id_ends = ran & ~m.digits;
        const uint64_t oddities = (id_ends ^ m.colons) | (id_starts & ~m.digits);
        after_blank = blanks >> 63;
        if (__builtin_expect(oddities != 0, 0)) {
            const uint64_t plain = (oddities & (0 - oddities)) - 1;
            m.colons &= plain;
            m.newlines &= plain;
            odd = true;
        }
        for (uint64_t left = m.newlines; left; left &= left - 1) {
            marks->line_ends[n_lines] = (uint16_t)(at + (size_t)__builtin_ctzll(left));
            marks->entry_ends[n_lines++] =
                (uint16_t)(n_colons + (size_t)__builtin_popcountll(m.colons & (left ^ (left - 1))));
        }
        n_colons = cf_append_bits(marks->colons, n_colons, m.colons, at);
        at += BLOCK;
    }
    assert(n_colons <= MAX_COLONS);
    marks->n_lines = n_lines;
    marks->odd_end = odd;
}

CF_INLINE bool ends_plain_value(const uint8_t *p) {
    return *p == ' ' || *p == '\n' || (*p == '\r' && p[1] == '\n');
}

CF_INLINE void note_odd(cf_marks *marks, size_t entry) {
    marks->odd_entry = entry < marks->odd_entry ? entry : marks->odd_entry;
}

/* An id of perhaps 9 to 15 digits, of which the last 8 are known. */
CF_INLINE bool widen_id(const uint8_t *colon, uint32_t *id) {
    if (cf_count_digits(cf_load_u64(colon - 8)) < 8)
        return true;
    const uint64_t word = cf_load_u64(colon - 16);
    unsigned n = 0;
    while (n < 8 && (uint8_t)(colon[-9 - (int)n] - '0') < 10)
        n++;
    if (n == 0)
        return true;
    if (n == 8)
        return false;
    const uint64_t wide = (uint64_t)cf_digits_value(word >> (64 - 8 * n), n) * 100000000 + *id;
    *id = (uint32_t)wide;
    return wide <= UINT32_MAX;
}

/* Pass 3, for every entry in the list. Reads nothing from `end` on. */
__attribute__((noinline)) CF_TARGET static void
convert_values(const uint8_t *chunk, const uint8_t *end, cf_marks *marks, float *data) {
    static const double TENS[16] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    static const double SIGNS[2] = {1, -1}; /* no branch: signs are as good as random */
    size_t n_left = 0;
    for (size_t i = 0; i < marks->n_values; i++) {
        const uint16_t entry = marks->values[i];
        const uint8_t *p = chunk + marks->colons[entry] + 1;
        const bool negative = *p == '-';
        p += negative;
        const cf_decimal decimal = cf_read_decimal(p);
        const double value = (double)decimal.number / TENS[decimal.fraction & 15];
        data[entry] = (float)(value * SIGNS[negative]);
        p += decimal.length;
        const bool done = (decimal.length > decimal.has_point) &
                          ((*p == ' ') | (*p == '\n') | ((*p == '\r') & (p[1] == '\n')));
        marks->values[n_left] = entry;
        n_left += !done;
    }
    for (size_t i = 0; i < n_left; i++) { /* exponents, signs, many digits */
        const size_t entry = marks->values[i];
        const cf_number number = cf_number_read(chunk + marks->colons[entry] + 1, end);
        if (number.kind != CF_NUMBER_FINITE || !cf_number_fits_f32(number.value) ||
            end - number.stop < 2 || !ends_plain_value(number.stop)) {
            note_odd(marks, entry);
            return;
        }
        data[entry] = (float)number.value;
    }
}

CF_INLINE bool read_label(const uint8_t *p, const uint8_t *end, float *label) {
    const bool sign = *p == '-' || *p == '+';
    const uint8_t digit = (uint8_t)(p[sign] - '0');
    if (__builtin_expect(digit < 10 && (p[sign + 1] == ' ' || p[sign + 1] == '\n'), 1)) {
        *label = (float)digit * (*p == '-' ? -1.0f : 1.0f);
        return true;
    }
    const cf_number number = cf_number_read(p, end);
    *label = (float)number.value;
    return number.kind == CF_NUMBER_FINITE && cf_number_fits_f32(number.value) &&
           end - number.stop >= 2 && ends_plain_value(number.stop);
}

/* Whether ids fall or repeat between entries first + 1 and last - 1. */
CF_INLINE bool any_falls(const uint8_t *falls, size_t first, size_t last) {
    for (size_t i = first + 1; i < last;) {
        uint64_t bits = cf_load_u64(falls + i / 8) >> i % 8;
        const size_t here = 64 - i % 8;
        if (last - i < here)
            bits &= ((uint64_t)1 << (last - i)) - 1;
        if (bits)
            return true;
        i += here;
    }
    return false;
}

/* Pass 4. Returns the offset of the first line that was not taken. */
CF_INLINE size_t take_rows(const cf_libsvm_options *options, const uint8_t *chunk,
                           const uint8_t *end, const cf_marks *marks, cf_libsvm_rows *rows,
                           bool *all) {
    const size_t start = rows->n_entries;
    const bool refuse_zero = options->flags & CF_LIBSVM_REFUSE_ZERO;
    size_t line = 0, begin = 0, entry = 0;
    for (; line < marks->n_lines; line++) {
        const size_t entry_end = marks->entry_ends[line];
        if (chunk[begin] != '\n') {
            float label;
            if (rows->n_rows == rows->row_room || entry_end > marks->odd_entry ||
                !read_label(chunk + begin, end, &label) ||
                any_falls(marks->falls, entry, entry_end))
                break;
            if (entry_end > entry) {
                const uint32_t first_id = rows->indices[start + entry] + options->base;
                const uint32_t last_id = rows->indices[start + entry_end - 1] + options->base;
                if ((first_id == 0 && refuse_zero) || (int64_t)last_id > options->max_id)
                    break;
                if (start + entry == 0 || first_id < rows->min_id)
                    rows->min_id = first_id;
                if (start + entry == 0 || last_id > rows->max_id)
                    rows->max_id = last_id;
            }
            rows->labels[rows->n_rows] = label;
            if (rows->weights)
                rows->weights[rows->n_rows] = 1;
            rows->row_ends[rows->n_rows] = rows->entry_base + (int64_t)(start + entry_end);
            rows->n_rows++;
        }
        entry = entry_end;
        begin = (size_t)marks->line_ends[line] + 1;
    }
    rows->n_entries = start + entry;
    *all = line == marks->n_lines;
    return begin;
}

/* The plain lines from *pos on, which moves behind them; false if there is an odd one, or none. */
CF_TARGET static bool take_lines(const cf_libsvm_options *options, const uint8_t *text, size_t n,
                                 size_t *pos, size_t last, size_t want, cf_libsvm_rows *rows) {
    cf_marks marks;
    const uint8_t *const chunk = text + *pos, *const end = text + n;
    if (*pos < BEFORE)
        return false;
    mark(chunk, end, want < last - *pos ? want : last - *pos, &marks);
    while (marks.n_lines > 0 && marks.line_ends[marks.n_lines - 1] >= last - *pos)
        marks.n_lines--;
    if (marks.n_lines == 0)
        return false;
    const size_t n_entries = marks.entry_ends[marks.n_lines - 1];
    if (n_entries > rows->entry_room - rows->n_entries)
        return false;
    marks.odd_entry = n_entries;
    if (n_entries > 0) {
        float *const data = rows->data + rows->n_entries;
        cf_convert(chunk, &marks, n_entries, options->base, rows->indices + rows->n_entries, data);
        convert_values(chunk, end, &marks, data);
    }
    bool all;
    *pos += take_rows(options, chunk, end, &marks, rows, &all);
    return all && !marks.odd_end;
}

CF_INLINE size_t read_rows(const cf_libsvm_options *options, const uint8_t *text, size_t n,
                           size_t pos, size_t last, cf_libsvm_rows *rows) {
    if (options->hash_bits)
        return cf_libsvm_rows_scalar(options, text, n, pos, last, rows);
    size_t patience = 0; /* bytes the scalar code takes besides the odd line: more, the odder */
    for (size_t want = FIRST_CHUNK; pos < last;) {
        const size_t before = pos;
        if (take_lines(options, text, n, &pos, last, want, rows)) {
            want = want < CHUNK ? 2 * want : CHUNK;
            continue;
        }
        if (pos == last)
            return pos;
        patience = pos > before ? 0 : patience < CHUNK ? 2 * patience + BLOCK : CHUNK;
        const size_t from = last - pos < patience ? last : pos + patience;
        const uint8_t *const newline = memchr(text + from, '\n', last - from);
        const size_t next = newline ? (size_t)(newline - text) + 1 : last;
        pos = cf_libsvm_rows_scalar(options, text, n, pos, next, rows);
        if (pos != next)
            return pos;
        want = FIRST_CHUNK;
    }
    return pos;
}

#endif
