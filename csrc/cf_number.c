#include "cf_number.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cf_number_table.h"

__extension__ typedef unsigned __int128 u128;

/* The powers of ten a double holds exactly. */
static const double EXACT_TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static const uint64_t WHOLE_TENS[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};

static double double_of_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint64_t bits_of_double(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Eisel and Lemire: digits times the tabulated power of five, to 64 bits or, where those cannot
 * decide, 128. With at most 64 bits of digits this never fails: Mushtak and Lemire, "Fast number
 * parsing without fallback" (https://arxiv.org/abs/2212.06644). */
static double scale_by_table(uint64_t digits, int64_t exponent) {
    const int leading = __builtin_clzll(digits);
    digits <<= leading;
    const uint64_t *power = CF_POWERS_OF_FIVE[exponent - CF_POWER_SMALLEST];
    const u128 first = (u128)digits * power[0];
    uint64_t high = (uint64_t)(first >> 64), low = (uint64_t)first;
    if ((high & 0x1ff) == 0x1ff) { /* the 55 bits above are all that is used; a carry may come */
        const uint64_t carry = (uint64_t)(((u128)digits * power[1]) >> 64);
        low += carry;
        high += low < carry;
    }
    const int top = (int)(high >> 63);
    const int shift = top + 9;            /* leaves 53 bits and one for rounding */
    uint64_t significand = high >> shift; /* 54 bits */
    /* 217706 / 65536 is log2(10); 63 and 1023 are the widths of the product and of the bias. */
    int binary = (int)((217706 * exponent) >> 16) + 63 + top - leading + 1023;
    if (binary <= 0) { /* subnormal */
        if (binary <= -63)
            return 0.0;
        significand >>= 1 - binary;
        significand += significand & 1;
        return double_of_bits(significand >> 1); /* 2^52 is the smallest normal number, as bits */
    }
    /* Exactly half way is only possible where 5^exponent or its inverse fits in the product. */
    if (low <= 1 && exponent >= -4 && exponent <= 23 && (significand & 3) == 1 &&
        significand << shift == high)
        significand &= ~(uint64_t)1;
    significand += significand & 1;
    significand >>= 1;
    if (significand == (uint64_t)1 << 53) {
        significand >>= 1;
        binary++;
    }
    if (binary >= 0x7ff)
        return HUGE_VAL;
    return double_of_bits((uint64_t)binary << 52 | (significand & (((uint64_t)1 << 52) - 1)));
}

double cf_number_scale(uint64_t digits, int64_t exponent) {
    if (digits <= (uint64_t)1 << 53 && exponent >= -22 && exponent <= 22)
        return exponent < 0 ? (double)digits / EXACT_TENS[-exponent]
                            : (double)digits * EXACT_TENS[exponent];
    if (digits == 0 || exponent < CF_POWER_SMALLEST)
        return 0.0; /* 2^64 * 10^-343 is below half the smallest subnormal */
    if (exponent > CF_POWER_LARGEST)
        return HUGE_VAL;
    return scale_by_table(digits, exponent);
}

/* Whole numbers for the comparison below. A point half way between two doubles has at most 768
 * significant digits; 800 of them times the powers involved stay below 2900 bits. */
enum { MAX_DIGITS = 800, MAX_LIMBS = 48 };

typedef struct {
    size_t n; /* limbs in use, the last is not 0 */
    uint64_t limbs[MAX_LIMBS];
} whole;

static void multiply_add(whole *x, uint64_t factor, uint64_t carry) {
    for (size_t i = 0; i < x->n; i++) {
        const u128 product = (u128)x->limbs[i] * factor + carry;
        x->limbs[i] = (uint64_t)product;
        carry = (uint64_t)(product >> 64);
    }
    if (carry) {
        assert(x->n < MAX_LIMBS);
        x->limbs[x->n++] = carry;
    }
}

static void multiply_by_five_to(whole *x, int64_t exponent) {
    for (; exponent >= 27; exponent -= 27)
        multiply_add(x, 7450580596923828125u, 0); /* 5^27 */
    for (; exponent > 0; exponent--)
        multiply_add(x, 5, 0);
}

static void shift_left(whole *x, size_t bits) {
    const size_t limbs = bits / 64;
    if (bits % 64)
        multiply_add(x, (uint64_t)1 << bits % 64, 0);
    assert(x->n + limbs <= MAX_LIMBS);
    memmove(x->limbs + limbs, x->limbs, x->n * sizeof *x->limbs);
    memset(x->limbs, 0, limbs * sizeof *x->limbs);
    x->n += limbs;
}

static int compare(const whole *x, const whole *y) {
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    for (size_t i = x->n; i-- > 0;)
        if (x->limbs[i] != y->limbs[i])
            return x->limbs[i] < y->limbs[i] ? -1 : 1;
    return 0;
}

/* Rounds the decimal whose significant digits start at `p` (a point may lie among them; `n` of
 * them, the last one worth 10^exponent) to `below` or the next double, whichever is nearer. */
static double round_exactly(const uint8_t *p, size_t n, int64_t exponent, double below) {
    const size_t kept = n < MAX_DIGITS ? n : MAX_DIGITS;
    whole decimal = {0, {0}};
    for (size_t i = 0; i < kept; p++) {
        if (*p == '.')
            continue;
        multiply_add(&decimal, 10, (uint64_t)(*p - '0'));
        i++;
    }
    bool more = false; /* a digit that is not 0 was left out */
    for (size_t i = kept; i < n && !more; p++) {
        if (*p == '.')
            continue;
        more = *p != '0';
        i++;
    }
    exponent += (int64_t)(n - kept);

    const uint64_t bits = bits_of_double(below);
    const uint64_t fraction = bits & (((uint64_t)1 << 52) - 1);
    const int64_t biased = (int64_t)(bits >> 52);
    const uint64_t significand = biased ? fraction | (uint64_t)1 << 52 : fraction;
    whole half = {1, {2 * significand + 1}}; /* times 2^binary */
    const int64_t binary = (biased ? biased : 1) - 1076;

    if (exponent >= 0)
        multiply_by_five_to(&decimal, exponent);
    else
        multiply_by_five_to(&half, -exponent);
    if (exponent > binary)
        shift_left(&decimal, (size_t)(exponent - binary));
    else
        shift_left(&half, (size_t)(binary - exponent));

    int order = compare(&decimal, &half);
    if (order == 0)
        order = more ? 1 : (significand & 1) ? 1 : -1; /* a tie goes to the even neighbour */
    return order > 0 ? double_of_bits(bits + 1) : below;
}

/* More than 19 digits after leading zeros: the first 19 decide, unless the neighbours that they
 * allow round differently. `p` is the first digit or the point, `n` counts the digits from there.
 */
static double scale_many(const uint8_t *p, size_t n, int64_t exponent) {
    for (; n > 0 && (*p == '0' || *p == '.'); p++)
        n -= *p == '0';
    uint64_t digits = 0;
    const uint8_t *q = p;
    size_t taken = 0;
    for (; taken < 19 && taken < n; q++) {
        if (*q == '.')
            continue;
        digits = digits * 10 + (uint64_t)(*q - '0');
        taken++;
    }
    const double below = cf_number_scale(digits, exponent + (int64_t)(n - taken));
    if (taken == n)
        return below;
    const double above = cf_number_scale(digits + 1, exponent + (int64_t)(n - taken));
    return below == above ? below : round_exactly(p, n, exponent, below);
}

/* Digits appended to `*value`, which wraps past 19 of them; the byte after the last. */
static const uint8_t *read_digits(const uint8_t *p, const uint8_t *end, uint64_t *value) {
    uint64_t v = *value;
    while (end - p >= 8) {
        const uint64_t word = cf_load_u64(p);
        const unsigned n = cf_count_digits(word);
        if (n < 8) {
            if (n > 0)
                v = v * WHOLE_TENS[n] + cf_digits_value(word, n);
            *value = v;
            return p + n;
        }
        v = v * 100000000 + cf_digits_value(word, 8);
        p += 8;
    }
    for (; p < end && (uint8_t)(*p - '0') < 10; p++)
        v = v * 10 + (uint64_t)(*p - '0');
    *value = v;
    return p;
}

/* Whether [p, end) starts with `word`, which is lower case, in any case. */
static bool starts_with(const uint8_t *p, const uint8_t *end, const char *word) {
    for (; *word; word++, p++)
        if (p == end || (*p | 0x20) != *word)
            return false;
    return true;
}

static cf_number read_word(const uint8_t *p, const uint8_t *end, bool negative) {
    cf_number number = {0.0, p, CF_NUMBER_NONE};
    if (starts_with(p, end, "inf")) {
        number.value = negative ? -HUGE_VAL : HUGE_VAL;
        number.stop = p + (starts_with(p, end, "infinity") ? 8 : 3);
        number.kind = CF_NUMBER_WORD;
    } else if (starts_with(p, end, "nan")) {
        number.value = double_of_bits((uint64_t)(negative ? 0xfff8 : 0x7ff8) << 48);
        number.stop = p + 3;
        number.kind = CF_NUMBER_WORD;
        if (p + 3 < end && p[3] == '(') { /* C and MSVC: nan(ind), nan(0x7ff) */
            const uint8_t *q = p + 4;
            while (q < end &&
                   ((uint8_t)(*q - '0') < 10 || (uint8_t)((*q | 0x20) - 'a') < 26 || *q == '_'))
                q++;
            if (q < end && *q == ')')
                number.stop = q + 1;
        }
    }
    return number;
}

cf_number cf_number_read(const uint8_t *p, const uint8_t *end) {
    const uint8_t *const start = p;
    const bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+'))
        p++;
    const uint8_t *const first = p;
    uint64_t digits = 0;
    p = read_digits(p, end, &digits);
    size_t n = (size_t)(p - first);
    int64_t exponent = 0;
    if (p < end && *p == '.') {
        const uint8_t *const point = p++;
        p = read_digits(p, end, &digits);
        const size_t fraction = (size_t)(p - point) - 1;
        n += fraction;
        exponent = -(int64_t)fraction;
    }
    if (n == 0) {
        cf_number number = read_word(first, end, negative);
        if (number.kind == CF_NUMBER_NONE)
            number.stop = start;
        return number;
    }
    if (p < end && (*p | 0x20) == 'e') {
        const uint8_t *q = p + 1;
        const bool below_one = q < end && *q == '-';
        if (q < end && (*q == '-' || *q == '+'))
            q++;
        if (q < end && (uint8_t)(*q - '0') < 10) {
            int64_t written = 0;
            for (; q < end && (uint8_t)(*q - '0') < 10; q++)
                if (written < 100000000000000000) /* past any length of text in memory */
                    written = written * 10 + (*q - '0');
            exponent += below_one ? -written : written;
            p = q;
        }
    }
    const double value =
        n <= 19 ? cf_number_scale(digits, exponent) : scale_many(first, n, exponent);
    cf_number number = {negative ? -value : value, p, CF_NUMBER_FINITE};
    return number;
}

/* 10^e for e = 0 to 55, to a unit in the last place: float32 spans 1e-45 to 3.4e38, and 9 digits
 * of the smallest are a whole number times 1e-53. */
static double ten_to(int e) {
    static const double HIGH[] = {1e0, 1e8, 1e16, 1e24, 1e32, 1e40, 1e48};
    static const double LOW[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
    return HIGH[e >> 3] * LOW[e & 7];
}

static double times_ten_to(double value, int e) {
    return e >= 0 ? value * ten_to(e) : value / ten_to(-e);
}

static size_t put_whole(uint64_t value, uint8_t *out) {
    uint8_t reversed[20];
    size_t n = 0;
    do {
        reversed[n++] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value);
    for (size_t i = 0; i < n; i++)
        out[i] = reversed[n - 1 - i];
    return n;
}

size_t cf_number_format(float value, uint8_t *out) {
    uint8_t *const start = out;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (bits >> 31)
        *out++ = '-';
    const float size = fabsf(value);
    if (!(size <= 3.40282346638528859812e38f)) {
        memcpy(out, size == HUGE_VALF ? "inf" : "nan", 3);
        return (size_t)(out - start) + 3;
    }
    if (size < 16777216.0f && size == (float)(uint32_t)size)
        return (size_t)(out - start) + put_whole((uint32_t)size, out);

    int tens = -45; /* of the first digit; found by halving, 10^-45 to 10^38 */
    for (int step = 64; step; step >>= 1)
        if (tens + step <= 38 && (double)size >= times_ten_to(1.0, tens + step))
            tens += step;
    /* More and more digits until they read back. The scaling is not exact, but every candidate is
     * checked; with 9 digits the decimals lie six times closer than the floats, so one passes.
     * Above a power of two the gap is twice the one below, and the next decimal may fit too. */
    const bool power_of_two = (bits & 0x7fffff) == 0;
    uint64_t digits = 0;
    int n = 0;
    for (bool found = false; !found;) {
        n++;
        assert(n <= 9);
        digits = (uint64_t)(times_ten_to((double)size, n - 1 - tens) + 0.5);
        found = (float)cf_number_scale(digits, tens + 1 - n) == size;
        if (!found && power_of_two)
            found = (float)cf_number_scale(++digits, tens + 1 - n) == size;
    }
    int last = tens + 1 - n; /* digits * 10^last */
    for (; digits % 10 == 0; digits /= 10)
        last++;

    uint8_t text[20];
    const int length = (int)put_whole(digits, text);
    const int leading = last + length - 1; /* the power of ten of the first digit */
    if (leading < -4 || leading > 8) {
        *out++ = text[0];
        if (length > 1) {
            *out++ = '.';
            memcpy(out, text + 1, (size_t)length - 1);
            out += length - 1;
        }
        *out++ = 'e';
        if (leading < 0)
            *out++ = '-';
        return (size_t)(out - start) + put_whole((uint64_t)(leading < 0 ? -leading : leading), out);
    }
    if (leading < 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = -1; i > leading; i--)
            *out++ = '0';
    }
    for (int i = 0; i < length; i++) {
        if (i > 0 && i == leading + 1)
            *out++ = '.';
        *out++ = text[i];
    }
    for (int i = length; i <= leading; i++)
        *out++ = '0';
    return (size_t)(out - start);
}
