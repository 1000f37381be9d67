/* cf_number.h -- decimal text to the nearest double, and float32 to its shortest text.
 *
 * No locale (strtod obeys it), no allocation, no rounding of our own: reading gives the double
 * nearest to the decimal, ties to even, whatever its length; writing gives text that reads back to
 * the same float32. Both assume the default rounding mode.
 */
#ifndef CF_NUMBER_H
#define CF_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_bits.h"

typedef enum {
    CF_NUMBER_NONE,   /* no number starts here */
    CF_NUMBER_FINITE, /* digits; the value is infinite if it is outside the range of double */
    CF_NUMBER_WORD    /* nan, nan(text), inf or infinity in any case, with or without a sign */
} cf_number_kind;

typedef struct {
    double value;
    const uint8_t *stop; /* the byte after the number */
    cf_number_kind kind;
} cf_number;

/* The longest number that starts at `p`: an optional sign, digits with at most one point among or
 * around them, an optional exponent. No blanks, hexadecimal or underscores. Never reads `end` or
 * beyond. Linear; more than 19 significant digits may cost an exact comparison of bounded size. */
cf_number cf_number_read(const uint8_t *p, const uint8_t *end);

/* The double nearest to digits * 10^exponent. */
double cf_number_scale(uint64_t digits, int64_t exponent);

/* The longest text cf_number_format writes: -1.17549435e-38. */
enum { CF_NUMBER_TEXT = 15 };

/* Writes the shortest digits that read back to `value`, at most CF_NUMBER_TEXT bytes and no NUL;
 * returns how many. NaN is written as nan or -nan: its payload has no text. */
size_t cf_number_format(float value, uint8_t *out);

/* False if the nearest float32 is infinite: half a unit past FLT_MAX, where the tie rounds up. */
static inline bool cf_number_fits_f32(double value) {
    return value < 0x1.ffffffp127 && value > -0x1.ffffffp127;
}

/* Eight digits at once, as in simdjson and fast_float
 * (http://0x80.pl/articles/swar-digits-validate.html). */

/* How many of the 8 bytes, first byte lowest, are digits before the first that is not. */
static inline unsigned cf_count_digits(uint64_t word) {
    const uint64_t digits = word ^ 0x3030303030303030u;
    /* Adding 0x76 reaches the top bit from 10 upwards. A carry only spoils bytes after the first
     * that is not a digit, which nobody looks at. */
    const uint64_t others = ((digits + 0x7676767676767676u) | digits) & 0x8080808080808080u;
    return others ? (unsigned)__builtin_ctzll(others) >> 3 : 8;
}

/* The value of the first `n` bytes, all digits; n = 1 to 8. */
static inline uint32_t cf_digits_value(uint64_t word, unsigned n) {
    uint64_t v = (word ^ 0x3030303030303030u) << (64 - 8 * n); /* leading zeros take the room */
    v = v * 10 + (v >> 8);                                     /* pairs, in every other byte */
    return (uint32_t)(((v & 0x000000ff000000ffu) * 0x000f424000000064u +
                       ((v >> 16) & 0x000000ff000000ffu) * 0x0000271000000001u) >>
                      32);
}

#endif
