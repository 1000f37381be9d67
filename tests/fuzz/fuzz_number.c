/* Fuzzes cf_number: text reads as strtod of the C locale reads it, to the bit and to the byte where
 * it stops, wherever the grammars agree (strtod also skips blanks and takes hexadecimal); what is
 * written reads back to the same float32 and has no shorter form. */
#include <ctype.h>
#include <math.h>

#include "cf_number.h"
#include "fuzz.h"

const char *const fuzz_words[] = {"0",
                                  "1",
                                  "9",
                                  ".",
                                  "e",
                                  "E",
                                  "-",
                                  "+",
                                  "e-",
                                  "e+",
                                  "nan",
                                  "inf",
                                  "infinity",
                                  "nan(",
                                  "nan(0x7ff)",
                                  ")",
                                  "00000000",
                                  "99999999",
                                  "e308",
                                  "e-324",
                                  "e-343",
                                  "e99999999999999999999",
                                  "9007199254740993",
                                  "18446744073709551615",
                                  "18446744073709551616",
                                  "3.4028235677973366e38",
                                  "1.17549435e-38",
                                  "7.0064923216240854e-46",
                                  "4.9406564584124654e-324",
                                  "2.4703282292062327208e-324",
                                  "2.2250738585072011e-308",
                                  "1.7976931348623158e308",
                                  "1.7976931348623159e308",
                                  "",
                                  NULL};

/* 768 digits: the point half way between 0 and the smallest double, exactly; and others. */
size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    static const double HALVES[] = {0x1p-1074,  0x1p-1073, 0x1.8p-1022,   0x1.fffffffffffffp-1023,
                                    0x1p-1022,  0x1p-126,  0x1p-149,      0x1p0,
                                    0x1p53,     0x1p63,    0x1p64,        0x1.8p900,
                                    0x1.8p-300, 0x1p1023,  0x1.fffffep127};
    if (i == 0) { /* a point behind all the digits that can matter */
        const int n = snprintf((char *)out, room, "%0900d.5e-884", 0);
        memcpy(out, "9007199254740993", 16);
        return (size_t)n;
    }
    if (--i >= 4 * (sizeof HALVES / sizeof *HALVES))
        return 0;
    const double below = HALVES[i / 4], above = nextafter(below, INFINITY);
    const long double half = ((long double)below + (long double)above) / 2;
    const int digits = i % 4 == 0 ? 800 : i % 4 == 1 ? 40 : i % 4 == 2 ? 17 : 1100;
    const int n = snprintf((char *)out, room, "%.*Le", digits, half);
    return n > 0 && (size_t)n < room ? (size_t)n : 0;
}

static int same_double(double a, double b) {
    return (isnan(a) && isnan(b) && !signbit(a) == !signbit(b)) || memcmp(&a, &b, sizeof a) == 0;
}

static int is_hexadecimal(const uint8_t *text, size_t n) {
    const size_t sign = n > 0 && (text[0] == '-' || text[0] == '+');
    return n >= sign + 2 && text[sign] == '0' && (text[sign + 1] | 0x20) == 'x';
}

static void check_reading(const uint8_t *text, size_t n) {
    const cf_number number = cf_number_read(text, text + n);
    CHECK(number.stop >= text && number.stop <= text + n);
    CHECK((number.kind == CF_NUMBER_NONE) == (number.stop == text));
    if (n > 0 && isspace(text[0])) {
        CHECK(number.kind == CF_NUMBER_NONE);
        return;
    }
    char *const string = exactly(n + 1), *stop;
    if (n != 0)
        memcpy(string, text, n);
    string[n] = 0;
    const double expected = strtod(string, &stop);
    if (is_hexadecimal(text, n)) {
        CHECK(number.kind == CF_NUMBER_FINITE && number.value == 0);
    } else {
        CHECK((size_t)(number.stop - text) == (size_t)(stop - string));
        CHECK(number.kind == CF_NUMBER_NONE || same_double(number.value, expected));
        CHECK(number.kind != CF_NUMBER_WORD || !isfinite(expected));
    }
    CHECK(cf_number_fits_f32(number.value) == !isinf((float)number.value) || isnan(number.value));
    free(string);
}

static int significant_digits(const uint8_t *text, size_t n) {
    int digits = 0, zeros = 0;
    for (size_t i = 0; i < n && text[i] != 'e'; i++) {
        if (text[i] == '-' || text[i] == '.' || (digits == 0 && text[i] == '0'))
            continue;
        digits++;
        zeros = text[i] == '0' ? zeros + 1 : 0;
    }
    return digits - zeros;
}

static void check_writing(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    uint8_t *const room = exactly(CF_NUMBER_TEXT);
    const size_t n = cf_number_format(value, room);
    CHECK(n > 0 && n <= CF_NUMBER_TEXT);
    uint8_t *const text = copy_exactly(room, n);
    const cf_number number = cf_number_read(text, text + n);
    const float again = (float)number.value;
    CHECK(number.stop == text + n);
    CHECK(number.kind == (isfinite(value) ? CF_NUMBER_FINITE : CF_NUMBER_WORD));
    CHECK(isnan(value) ? isnan(again) && !signbit(again) == !signbit(value)
                       : memcmp(&value, &again, sizeof value) == 0);
    const int digits = significant_digits(text, n);
    if (isfinite(value) && digits > 1) {
        char shorter[32];
        snprintf(shorter, sizeof shorter, "%.*e", digits - 2, (double)value);
        CHECK(strtof(shorter, NULL) != value);
    }
    free(text);
    free(room);
}

static void check_digits(uint64_t word) {
    unsigned n = 0, value = 0;
    for (; n < 8 && (uint8_t)((word >> 8 * n) - '0') < 10; n++)
        value = value * 10 + (unsigned)((word >> 8 * n & 0xff) - '0');
    CHECK(cf_count_digits(word) == n);
    CHECK(n == 0 || cf_digits_value(word, n) == value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    check_reading(data, n);
    uint32_t mixed = (uint32_t)n;
    for (size_t i = 0; i + 8 <= n && i < 64; i += 4) {
        check_digits(cf_load_u64(data + i));
        mixed = (mixed ^ cf_load_u32(data + i)) * 0x9e3779b1u;
        if (i < 16)
            check_writing(cf_load_u32(data + i));
    }
    check_writing(mixed);
    return 0;
}
