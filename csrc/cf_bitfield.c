#include "cf_bitfield.h"

#include <string.h>

/* The longest pieces: "$3\r\nGET\r\n$3\r\ni32\r\n$11\r\n#4294967295\r\n" and its like. */
enum { HEAD_ROOM = 96, GET_ROOM = 40, ADD_ROOM = 64 };

/* The longest line of a reply: a sign, ten digits, the kind before and the line's end behind. */
enum { LONGEST_LINE = 24 };

size_t cf_bitfield_room(size_t key_bytes, size_t n_add, size_t n_get) {
    return HEAD_ROOM + key_bytes + n_add * ADD_ROOM + n_get * GET_ROOM;
}

static uint8_t *put(uint8_t *out, const char *text, size_t n) {
    if (n > 0) /* an empty key may be NULL */
        memcpy(out, text, n);
    return out + n;
}

#define PUT(out, text) put(out, text, sizeof(text) - 1)

static size_t count_digits(uint32_t value) {
    size_t n = 1;
    for (uint64_t power = 10; value >= power; power *= 10)
        n++;
    return n;
}

static uint8_t *put_digits(uint8_t *out, uint32_t value, size_t n) {
    for (size_t i = n; i-- > 0; value /= 10)
        out[i] = (uint8_t)('0' + value % 10);
    return out + n;
}

static uint8_t *put_number(uint8_t *out, uint32_t value) {
    return put_digits(out, value, count_digits(value));
}

/* An argument of `lead` (0 for none) and a number: "$6\r\n#12345\r\n" */
static uint8_t *put_argument(uint8_t *out, char lead, uint32_t value) {
    const size_t digits = count_digits(value);
    *out++ = '$';
    out = put_number(out, (uint32_t)(digits + (lead != 0)));
    out = PUT(out, "\r\n");
    if (lead != 0)
        *out++ = (uint8_t)lead;
    out = put_digits(out, value, digits);
    return PUT(out, "\r\n");
}

size_t cf_bitfield_pack(const uint8_t *key, size_t key_bytes, const uint32_t *add_places,
                        const int32_t *amounts, size_t n_add, const uint32_t *get_places,
                        size_t n_get, uint8_t *out) {
    uint8_t *at = out;
    const size_t n_arguments = 2 + (n_add ? 2 + 4 * n_add : 0) + 3 * n_get;
    *at++ = '*';
    at = put_number(at, (uint32_t)n_arguments);
    at = PUT(at, "\r\n$8\r\nBITFIELD\r\n$");
    at = put_number(at, (uint32_t)key_bytes);
    at = PUT(at, "\r\n");
    at = put(at, (const char *)key, key_bytes);
    at = PUT(at, "\r\n");
    if (n_add)
        at = PUT(at, "$8\r\nOVERFLOW\r\n$3\r\nSAT\r\n");
    for (size_t i = 0; i < n_add; i++) {
        const int32_t amount = amounts[i];
        at = PUT(at, "$6\r\nINCRBY\r\n$3\r\ni32\r\n");
        at = put_argument(at, '#', add_places[i]);
        if (amount < 0)
            at = put_argument(at, '-', 0u - (uint32_t)amount);
        else
            at = put_argument(at, 0, (uint32_t)amount);
    }
    for (size_t i = 0; i < n_get; i++) {
        at = PUT(at, "$3\r\nGET\r\n$3\r\ni32\r\n");
        at = put_argument(at, '#', get_places[i]);
    }
    return (size_t)(at - out);
}

/* A line "<kind><number>\r\n" at bytes[0, n). Its length; 0: not whole yet; -1: no such line. */
static int read_line(const uint8_t *bytes, size_t n, uint8_t kind, int64_t *value) {
    if (n == 0)
        return 0;
    if (bytes[0] != kind)
        return -1;
    const size_t most = n < LONGEST_LINE ? n : LONGEST_LINE;
    size_t at = 1;
    const bool negative = at < most && bytes[at] == '-';
    at += negative;
    const size_t first = at;
    int64_t size = 0; /* LONGEST_LINE digits could overflow it: eleven are more than enough */
    while (at < most && bytes[at] >= '0' && bytes[at] <= '9' && at - first < 11)
        size = size * 10 + (bytes[at++] - '0');
    if (at == n)
        return 0;
    if (at == first || bytes[at] != '\r')
        return -1;
    if (at + 1 == n)
        return 0;
    if (bytes[at + 1] != '\n')
        return -1;
    *value = negative ? -size : size;
    return (int)(at + 2);
}

cf_status cf_bitfield_read(const uint8_t *bytes, size_t n, int32_t *values, size_t n_values,
                           cf_bitfield_reply *reply, size_t *used) {
    size_t at = 0;
    int64_t value = 0;
    *used = 0;
    if (!reply->began) {
        if (n != 0 && bytes[0] == '-')
            return cf_fail(CF_E_REPLY_ERROR, 0);
        const int length = read_line(bytes, n, '*', &value);
        if (length < 0 || (length > 0 && (value < 0 || (uint64_t)value != n_values)))
            return cf_fail(CF_E_REPLY, 0);
        if (length == 0)
            return cf_ok();
        reply->began = true;
        at = *used = (size_t)length;
    }
    while (reply->done < n_values) {
        const int length = read_line(bytes + at, n - at, ':', &value);
        if (length < 0 || (length > 0 && (value < INT32_MIN || value > INT32_MAX)))
            return cf_fail(CF_E_REPLY, at);
        if (length == 0)
            break;
        values[reply->done++] = (int32_t)value;
        at += (size_t)length;
        *used = at;
    }
    return cf_ok();
}

void cf_bitfield_decode(const uint8_t *bytes, size_t n, int32_t *values) {
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, bytes + 4 * i, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        word = __builtin_bswap32(word);
#endif
        memcpy(values + i, &word, 4);
    }
}

void cf_bitfield_encode(const int32_t *values, size_t n, uint8_t *bytes) {
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, values + i, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        word = __builtin_bswap32(word);
#endif
        memcpy(bytes + 4 * i, &word, 4);
    }
}
