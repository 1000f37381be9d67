/* Every table of kernels against the careful reader, bit for bit, where vectors could go wrong:
 * texts that end, begin or are cut at every place, with no readable byte on either side; an odd
 * byte at every place; rows that start and end anywhere in a block; long ids, values, rows.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cf_libsvm.h"

static int n_failed = 0;

static void fail(const char *what, const char *table, size_t a, size_t b) {
    if (n_failed++ < 20)
        printf("%s: %s (%zu, %zu)\n", table, what, a, b);
}

/* ---- memory between pages that must not be touched ---- */

typedef struct {
    uint8_t *pages; /* `room` bytes with a forbidden page on both sides */
    size_t room;
} fenced;

static fenced fence(size_t n) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
    uint8_t *at = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + page, room, PROT_READ | PROT_WRITE) != 0)
        exit(2);
    return (fenced){at + page, room};
}

/* The last n bytes before the fence; n = 0 gives its first byte. */
static void *last_bytes(fenced f, size_t n) { return f.pages + f.room - n; }

/* ---- parsing ---- */

enum { MOST_TEXT = 1 << 17 }; /* every byte may be a line end, or a colon */

typedef struct {
    fenced labels, row_ends, indices, data;
    cf_libsvm_rows rows;
    cf_status status;
} result;

static result results[2];
static fenced text_memory;

static void parse(result *r, const cf_kernels *kernels, cf_libsvm_options options,
                  const uint8_t *text, size_t n, size_t last, size_t row_room, size_t entry_room) {
    memset(&r->rows, 0, sizeof r->rows);
    r->rows.row_room = row_room;
    r->rows.entry_room = entry_room;
    r->rows.labels = last_bytes(r->labels, 4 * row_room);
    r->rows.row_ends = last_bytes(r->row_ends, 8 * row_room);
    r->rows.indices = last_bytes(r->indices, 4 * entry_room);
    r->rows.data = last_bytes(r->data, 4 * entry_room);
    r->status = cf_libsvm_fill(kernels, &options, text, n, 0, last, &r->rows);
}

static int same_status(cf_status a, cf_status b) {
    return a.code == b.code && a.offset == b.offset;
}

static int same(const result *a, const result *b) {
    const cf_libsvm_rows *x = &a->rows, *y = &b->rows;
    if (!same_status(a->status, b->status) || x->n_rows != y->n_rows ||
        x->n_entries != y->n_entries || x->n_skipped != y->n_skipped)
        return 0;
    if (x->n_skipped && !same_status(x->first_skipped, y->first_skipped))
        return 0;
    if (x->n_entries && (x->min_id != y->min_id || x->max_id != y->max_id))
        return 0;
    return memcmp(x->labels, y->labels, 4 * x->n_rows) == 0 &&
           memcmp(x->row_ends, y->row_ends, 8 * x->n_rows) == 0 &&
           memcmp(x->indices, y->indices, 4 * x->n_entries) == 0 &&
           memcmp(x->data, y->data, 4 * x->n_entries) == 0;
}

static const cf_libsvm_options OPTIONS[] = {
    {CF_LIBSVM_REFUSE_ZERO, 0, 1, CF_LIBSVM_MAX_ID},
    {CF_LIBSVM_SKIP, 0, 0, 100000},
};

/* All tables, the lines of text[0, last), rooms as measured or smaller. */
static void compare_lines(const char *what, const uint8_t *text, size_t n, size_t last,
                          size_t fewer_rows, size_t fewer_entries, size_t a, size_t b) {
    const unsigned cpu = cf_cpu_features();
    size_t n_rows, n_entries;
    for (size_t o = 0; o < sizeof OPTIONS / sizeof *OPTIONS; o++) {
        for (size_t k = 0; cf_kernels_at(k); k++) {
            const cf_kernels *kernels = cf_kernels_at(k);
            if (kernels->needs & ~cpu)
                continue;
            cf_libsvm_measure(kernels, text, 0, last, &n_rows, &n_entries);
            n_rows -= n_rows < fewer_rows ? n_rows : fewer_rows;
            n_entries -= n_entries < fewer_entries ? n_entries : fewer_entries;
            if (k == 0) {
                cf_libsvm_options careful = OPTIONS[o];
                careful.flags |= CF_LIBSVM_CAREFUL;
                parse(&results[0], kernels, careful, text, n, last, n_rows, n_entries);
            }
            parse(&results[1], kernels, OPTIONS[o], text, n, last, n_rows, n_entries);
            if (!same(&results[0], &results[1]))
                fail(what, kernels->name, a, b);
        }
    }
}

static void compare(const char *what, const char *text, size_t n, size_t a, size_t b) {
    uint8_t *at = last_bytes(text_memory, n);
    memcpy(at, text, n);
    compare_lines(what, at, n, n, 0, 0, a, b);
}

/* ---- texts ---- */

typedef struct {
    char bytes[MOST_TEXT];
    size_t n;
} writer;

static writer text;

static uint32_t state;
static uint32_t below(uint32_t n) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

static void put(const char *string) {
    const size_t n = strlen(string);
    memcpy(text.bytes + text.n, string, n);
    text.n += n;
}

static void put_entry(uint32_t id, const char *value) {
    text.n += (size_t)sprintf(text.bytes + text.n, " %u:%s", id, value);
}

/* Rows as in click data: short ids with numbers, long ones with 1. */
static void put_row(size_t n_entries) {
    static const char *const VALUES[] = {"4", "0.0757212", "-0.5", "12", "0.186651", "1e-05"};
    uint32_t id = 0;
    put(below(2) ? "1" : "0");
    for (size_t i = 0; i < n_entries; i++) {
        id += 1 + below(i < n_entries / 3 ? 2 : 30000);
        put_entry(id, i < n_entries / 3 ? VALUES[below(6)] : "1");
    }
    put("\n");
}

static void begin(uint32_t seed) {
    state = seed;
    text.n = 0;
    put("1 1:1 2:0.5 3:4\n"); /* leaves room to look back at */
}

static void test_every_end(void) {
    for (uint32_t seed = 0; seed < 24; seed++) {
        begin(seed);
        put("1234567890123456789012345678901234567890123456789012345678901234" + (seed * 11) % 64);
        put("\n");
        for (int i = 0; i < 4; i++)
            put_row(below(24));
        put("                                                    ");
        put("                                                    ");
        for (size_t n = 0; n <= text.n; n++) {
            compare("cut", text.bytes, n, seed, n);
            memcpy(text_memory.pages, text.bytes, n);
            compare_lines("cut, at the start", text_memory.pages, n, n, 0, 0, seed, n);
            if (n > 0 && text.bytes[n - 1] == '\n') {
                memcpy(text_memory.pages, text.bytes, text.n);
                compare_lines("a range", text_memory.pages, text.n, n, 0, 0, seed, n);
            }
        }
    }
}

/* Nothing before the first line is read, for the second one has an id. */
static void test_short_first_lines(void) {
    static const char *const FIRST[] = {"",      "\n",     "1\n",     "10\n",
                                        "1.5\n", "10.5\n", "1 1:1\n", "1 12:1\n"};
    for (size_t i = 0; i < sizeof FIRST / sizeof *FIRST; i++)
        for (size_t wide = 0; wide < 2; wide++) {
            text.n = 0;
            put(FIRST[i]);
            put(wide ? "1 123456789:1\n" : "1 1:1\n");
            text.n += (size_t)sprintf(text.bytes + text.n, "%128s", "");
            memcpy(text_memory.pages, text.bytes, text.n);
            compare_lines("first", text_memory.pages, text.n, text.n, 0, 0, i, wide);
        }
}

/* A line of every length before the chunk's others, so that all of them move through the blocks. */
static void test_every_place_in_a_block(void) {
    static const char *const ENDS[] = {"\n", " \n", "\r\n", "  \n", "\t\n", "#\n", " \r\n"};
    for (size_t shift = 1; shift <= 64; shift++)
        for (size_t end = 0; end < sizeof ENDS / sizeof *ENDS; end++) {
            begin((uint32_t)shift);
            text.n += (size_t)sprintf(text.bytes + text.n, "0.%0*d 1:1\n", (int)shift, 1);
            for (int i = 0; i < 5; i++) {
                put_row(below(30));
                text.n--;
                put(ENDS[i == 2 ? end : 0]);
            }
            put("1");
            for (uint32_t id = 5; id < 60; id++) /* up to 16 colons in a block */
                put_entry(id, "1");
            put("\n1 7:12345678901234 8:123456789012345 9:1234567890123456 10:.5 11:5. "
                "12:0.123456789"
                " 13:-0 14:-.25 15:00000000000001 16:0.00000000000001 17:99999999999999.9 18:+1\n");
            put("1 7:1 12345678:1 123456789:2 1234567890:3 4294967294:4\n");
            put("1 00000000007:1 0000000000000008:1\n1 1:1\n2\n\n-3 \n+4 5:1\n");
            text.n += (size_t)sprintf(text.bytes + text.n, "%128s", "");
            compare("shifted", text.bytes, text.n, shift, end);
        }
}

static void test_an_odd_byte_at_every_place(void) {
    static const char ODD[] = " \t:.-+e\r\n#x/;09\0\x1a*\xb0\xff";
    begin(5);
    for (int i = 0; i < 5; i++)
        put_row(12 + below(12));
    put("1 1:1\n1 99999998:1 100000001:-2.5 1000000001:1\n");
    put_row(20);
    text.n += (size_t)sprintf(text.bytes + text.n, "%128s", "");
    for (size_t place = 0; place < text.n - 100; place++) {
        const char was = text.bytes[place];
        for (size_t i = 0; i + 1 < sizeof ODD; i++) {
            text.bytes[place] = ODD[i];
            compare("odd byte", text.bytes, text.n, place, i);
        }
        text.bytes[place] = was;
    }
}

static void test_order_at_every_entry(void) {
    enum { ENTRIES = 200 };
    for (uint32_t place = 0; place <= ENTRIES; place++)
        for (uint32_t fall = 0; fall < 2; fall++) {
            begin(1);
            put("1");
            for (uint32_t i = 1; i <= ENTRIES; i++)
                put_entry(i == place ? 10 * i - 10 - fall : 10 * i, "1");
            put("\n1 5:1\n");
            text.n += (size_t)sprintf(text.bytes + text.n, "%128s", "");
            compare("order", text.bytes, text.n, place, fall);
        }
}

/* Rows longer than chunks, lists longer than lists, lines by the thousand. */
static void test_long_texts(void) {
    static const uint32_t LENGTHS[] = {1, 60, 1000, 2500, 6000};
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        begin((uint32_t)i);
        while (text.n < MOST_TEXT - 20 * LENGTHS[i] - 200)
            put_row(LENGTHS[i]);
        text.n += (size_t)sprintf(text.bytes + text.n, "%128s", "");
        compare("long", text.bytes, text.n, i, 0);
    }
    static const char *const REPEATED[] = {"\n", "1\n", "1 1:1\n", "1 1: 2:1\n", "1 1:1 2:2 3:3\n",
                                           "1:"};
    for (size_t i = 0; i < sizeof REPEATED / sizeof *REPEATED; i++) {
        begin(0);
        while (text.n < MOST_TEXT - 200)
            put(REPEATED[i]);
        compare("repeated", text.bytes, text.n, i, 0);
    }
    begin(0);
    put("1");
    for (uint32_t id = 1; text.n < MOST_TEXT - 200; id++) /* as dense as colons can be */
        text.n += (size_t)sprintf(text.bytes + text.n, " %u:", id % 10);
    put("\n");
    compare("dense", text.bytes, text.n, 0, 0);
}

static void test_little_room(void) {
    begin(3);
    for (int i = 0; i < 12; i++)
        put_row(below(30));
    text.n += (size_t)sprintf(text.bytes + text.n, "%128s", "");
    uint8_t *at = last_bytes(text_memory, text.n);
    memcpy(at, text.bytes, text.n);
    for (size_t fewer = 0; fewer < 200; fewer++) {
        compare_lines("few entries", at, text.n, text.n, 0, fewer, fewer, 0);
        compare_lines("few rows", at, text.n, text.n, fewer % 16, 0, fewer, 1);
    }
}

int main(void) {
    text_memory = fence(MOST_TEXT);
    for (int i = 0; i < 2; i++) {
        results[i].labels = fence(4 * (MOST_TEXT + 1));
        results[i].row_ends = fence(8 * (MOST_TEXT + 1));
        results[i].indices = fence(4 * (MOST_TEXT + 1));
        results[i].data = fence(4 * (MOST_TEXT + 1));
    }
    test_every_end();
    test_short_first_lines();
    test_every_place_in_a_block();
    test_an_odd_byte_at_every_place();
    test_order_at_every_entry();
    test_long_texts();
    test_little_room();
    if (n_failed == 0)
        printf("ok\n");
    return n_failed != 0;
}
