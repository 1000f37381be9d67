/* Fuzzes the reader of BITFIELD replies: whatever a server sends, in whatever pieces it comes, the
 * numbers and the outcome are the same, and no number is made up. What is packed reads back. */
#include "cf_bitfield.h"
#include "fuzz.h"

const char *const fuzz_words[] = {
    "*2\r\n", ":-2147483648\r\n", ":2147483647\r\n", "-ERR x\r\n", "$-1\r\n", "\r\n", ":", "*",
    NULL};

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    static const char *const SEEDS[] = {"\x03*3\r\n:0\r\n:-5\r\n:2147483647\r\n",
                                        "\x01*1\r\n:-2147483648\r\n",
                                        "\x00*0\r\n",
                                        "\x02-OOM command not allowed\r\n",
                                        "\x02*2\r\n:1\r\n$-1\r\n",
                                        "\x02*2\r\n:00000000001\r\n:99999999999\r\n"};
    if (i >= sizeof SEEDS / sizeof *SEEDS)
        return 0;
    const size_t n = 1 + strlen(SEEDS[i] + 1);
    CHECK(n <= room);
    memcpy(out, SEEDS[i], n);
    return n;
}

/* Reads in pieces of `step` bytes, what is left over before each; all at once for 0. */
static cf_code read_all(const uint8_t *bytes, size_t n, int32_t *values, size_t n_values,
                        size_t step, size_t *done, size_t *used) {
    cf_bitfield_reply reply = {false, 0};
    size_t begin = 0;
    *used = 0;
    cf_code code = CF_OK;
    for (size_t end = step ? 0 : n; code == CF_OK; end = end + step < n ? end + step : n) {
        uint8_t *piece = copy_exactly(bytes + begin, end - begin);
        size_t taken = 0;
        code = cf_bitfield_read(piece, end - begin, values, n_values, &reply, &taken).code;
        CHECK(taken <= end - begin && reply.done <= n_values);
        begin += taken;
        free(piece);
        if (end == n)
            break;
    }
    *done = reply.done;
    *used = begin;
    return code;
}

static void check_packing(const uint8_t *data, size_t n) {
    const size_t n_add = n / 8 < CF_BITFIELD_MOST ? n / 8 : CF_BITFIELD_MOST;
    if (n_add == 0)
        return;
    uint32_t *places = exactly(4 * n_add);
    int32_t *amounts = exactly(4 * n_add);
    memcpy(places, data, 4 * n_add);
    memcpy(amounts, data + 4 * n_add, 4 * n_add);
    const size_t n_get = n_add / 2, n_key = n % 40;
    const size_t room = cf_bitfield_room(n_key, n_add - n_get, n_get);
    uint8_t *key = copy_exactly(data, n_key <= n ? n_key : 0), *out = exactly(room);
    const size_t n_bytes = cf_bitfield_pack(key, n_key <= n ? n_key : 0, places, amounts,
                                            n_add - n_get, places + (n_add - n_get), n_get, out);
    CHECK(n_bytes <= room);
    CHECK(out[0] == '*' && out[n_bytes - 2] == '\r' && out[n_bytes - 1] == '\n');
    free(key);
    free(out);
    free(places);
    free(amounts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0)
        return 0;
    const size_t n_values = data[0];
    int32_t *whole = exactly(4 * n_values), *pieces = exactly(4 * n_values);
    size_t done, used;
    const cf_code code = read_all(data + 1, n - 1, whole, n_values, 0, &done, &used);
    for (size_t step = 1; step < 9; step += 3) {
        size_t pieces_done, pieces_used;
        const cf_code other =
            read_all(data + 1, n - 1, pieces, n_values, step, &pieces_done, &pieces_used);
        CHECK(code == other && done == pieces_done && used == pieces_used);
        CHECK(same_bytes(whole, pieces, 4 * done));
    }
    if (done == n_values && code == CF_OK && n_values != 0) { /* written again, it is the same */
        char line[32];
        size_t at = 1 + used;
        for (size_t i = n_values; i-- > 0;) {
            const size_t digits = (size_t)snprintf(line, sizeof line, "%d\r\n", whole[i]);
            CHECK(at >= digits);
            if (memcmp(data + at - digits, line, digits) != 0)
                break; /* zeros in front, or "-0": read as what they mean */
            at -= digits + 1;
        }
    }
    free(whole);
    free(pieces);
    check_packing(data, n);
    return 0;
}
