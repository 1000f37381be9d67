/* cf_libsvm and cf_number from plain C: proof that they need no Python, and a short tour of them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cf_libsvm.h"
#include "cf_number.h"

static int n_failed = 0;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
            n_failed++;                                                                            \
        }                                                                                          \
    } while (0)

enum { ROOM = 64 };

static const cf_kernels *kernels; /* the table under test */

typedef struct {
    float labels[ROOM], data[ROOM], weights[ROOM];
    int64_t row_ends[ROOM];
    uint32_t indices[ROOM];
    uint64_t scratch[ROOM];
    cf_libsvm_rows rows;
    cf_status status;
} result;

/* Room is exactly what is measured. */
static void parse_range(result *r, cf_libsvm_options options, const char *text, size_t n,
                        size_t begin, size_t end) {
    const uint8_t *bytes = (const uint8_t *)text;
    size_t first, last;
    memset(r, 0, sizeof *r);
    cf_libsvm_range(bytes, n, begin, end, &first, &last);
    cf_libsvm_measure(kernels, bytes, first, last, &r->rows.row_room, &r->rows.entry_room);
    CHECK(r->rows.row_room <= ROOM && r->rows.entry_room <= ROOM);
    r->rows.labels = r->labels;
    r->rows.row_ends = r->row_ends;
    r->rows.indices = r->indices;
    r->rows.data = r->data;
    r->rows.weights = options.flags & CF_LIBSVM_WEIGHTS ? r->weights : NULL;
    r->rows.scratch = r->scratch;
    r->status = cf_libsvm_fill(kernels, &options, bytes, n, first, last, &r->rows);
}

static const cf_libsvm_options PLAIN = {0, 0, 0, CF_LIBSVM_MAX_ID};

static void parse(result *r, cf_libsvm_options options, const char *text) {
    parse_range(r, options, text, strlen(text), 0, strlen(text));
}

static int fails(cf_libsvm_options options, const char *text, cf_code code, size_t offset) {
    /* Blanks behind it bring the same line before the fast path. */
    char padded[512];
    result r;
    parse(&r, options, text);
    if (r.status.code != code || r.status.offset != offset)
        return 0;
    snprintf(padded, sizeof padded, "%s\n%64s", text, "");
    parse(&r, options, padded);
    return r.status.code == code && r.status.offset == offset;
}

static void test_rows(void) {
    result r;
    parse(&r, PLAIN, "1 1:0.5 3:2 # note\r\n\n-1 qid:4 2:1e-3\n0");
    CHECK(r.status.code == CF_OK);
    CHECK(r.rows.n_rows == 3 && r.rows.n_entries == 3);
    CHECK(r.labels[0] == 1 && r.labels[1] == -1 && r.labels[2] == 0);
    CHECK(r.row_ends[0] == 2 && r.row_ends[1] == 3 && r.row_ends[2] == 3);
    CHECK(r.indices[0] == 1 && r.indices[1] == 3 && r.indices[2] == 2);
    CHECK(r.data[0] == 0.5f && r.data[1] == 2 && r.data[2] == 1e-3f);
    CHECK(r.rows.min_id == 1 && r.rows.max_id == 3);

    parse(&r, PLAIN, "");
    CHECK(r.status.code == CF_OK && r.rows.n_rows == 0);
}

static void test_refusals(void) {
    const cf_libsvm_options one_based = {CF_LIBSVM_REFUSE_ZERO, 0, 1, CF_LIBSVM_MAX_ID};
    const cf_libsvm_options weights = {CF_LIBSVM_WEIGHTS, 0, 0, CF_LIBSVM_MAX_ID};
    CHECK(fails(PLAIN, "1 1:1\nspam 1:1", CF_E_LABEL, 6));
    CHECK(fails(PLAIN, "1:1 2:1", CF_E_LABEL_COLON, 0));
    CHECK(fails(weights, "1:-1 2:1", CF_E_WEIGHT, 2));
    CHECK(fails(PLAIN, "1 5", CF_E_COLON, 2));
    CHECK(fails(PLAIN, "1 x:5", CF_E_INDEX, 2));
    CHECK(fails(one_based, "1 0:5", CF_E_INDEX_ZERO, 2));
    CHECK(fails(PLAIN, "1 4294967295:5", CF_E_INDEX_RANGE, 2));
    CHECK(fails(PLAIN, "1 3:1 2:1", CF_E_ORDER, 6));
    CHECK(fails(PLAIN, "1 3:\n1 2:1", CF_E_VALUE_MISSING, 3));
    CHECK(fails(PLAIN, "1 3:0x1", CF_E_VALUE, 4));
    CHECK(fails(PLAIN, "1 3:nan", CF_E_NONFINITE, 4));
    CHECK(fails(PLAIN, "1 3:1e39", CF_E_VALUE_RANGE, 4));
    CHECK(fails(PLAIN, "1 3:1\r4:1", CF_E_BYTE, 5));
    CHECK(fails(PLAIN, "1 3:1 qid:1", CF_E_QID, 6));
}

static void test_little_room(void) {
    static const char TEXT[] = "1 1:1 2:1\n0 3:1\n"
                               "                                                                ";
    result r;
    for (size_t rows = 0; rows <= 2; rows++)
        for (size_t entries = 0; entries <= 3; entries++) {
            parse(&r, PLAIN, "");
            r.rows.row_room = rows;
            r.rows.entry_room = entries;
            r.data[entries] = r.labels[rows] = 77;
            const cf_status status = cf_libsvm_fill(kernels, &PLAIN, (const uint8_t *)TEXT,
                                                    sizeof TEXT - 1, 0, sizeof TEXT - 1, &r.rows);
            CHECK(status.code == (rows == 2 && entries == 3 ? CF_OK : CF_E_ROOM));
            CHECK(r.data[entries] == 77 && r.labels[rows] == 77);
        }
}

static void test_every_split(void) {
    static const char TEXT[] = "# a:b\n1 1:1 2:2.5\r\n\n 0 qid:1 3:4 #\n-1\n1 7:1e3 8:1\n1 9:9";
    const size_t n = sizeof TEXT - 1;
    result whole, left, right;
    parse(&whole, PLAIN, TEXT);
    for (size_t cut = 0; cut <= n; cut++) {
        parse_range(&left, PLAIN, TEXT, n, 0, cut);
        parse_range(&right, PLAIN, TEXT, n, cut, n);
        const size_t n_rows = left.rows.n_rows, n_entries = left.rows.n_entries;
        CHECK(n_rows + right.rows.n_rows == whole.rows.n_rows);
        CHECK(n_entries + right.rows.n_entries == whole.rows.n_entries);
        CHECK(memcmp(whole.data, left.data, n_entries * sizeof(float)) == 0);
        CHECK(memcmp(whole.data + n_entries, right.data, right.rows.n_entries * sizeof(float)) ==
              0);
    }
}

static void test_hashing(void) {
    const cf_libsvm_options hashing = {0, 1, 0, 0};
    result r;
    CHECK(cf_libsvm_hash(0x9e3779b97f4a7c15u, 32) == 0xe220a839u);
    parse(&r, hashing, "1 1:1 2:2 18446744073709551615:4");
    CHECK(r.status.code == CF_OK && r.rows.n_entries <= 2 && r.rows.max_id <= 1);
    float sum = 0;
    for (size_t i = 0; i < r.rows.n_entries; i++)
        sum += r.data[i];
    CHECK(sum == 7);
}

static void test_skipping(void) {
    const cf_libsvm_options skip = {CF_LIBSVM_SKIP, 0, 0, CF_LIBSVM_MAX_ID};
    result r;
    parse(&r, skip, "1 1:1\nx\n1 2:2 1:1\n0 2:3\n");
    CHECK(r.status.code == CF_OK && r.rows.n_rows == 2 && r.rows.n_entries == 2);
    CHECK(r.rows.n_skipped == 2 && r.rows.first_skipped.code == CF_E_LABEL);
    CHECK(r.rows.first_skipped.offset == 6 && r.data[1] == 3);
}

static void test_locate(void) {
    size_t line, column;
    cf_libsvm_locate(kernels, (const uint8_t *)"ab\ncd\n", 4, &line, &column);
    CHECK(line == 2 && column == 2);
    cf_libsvm_locate(kernels, (const uint8_t *)"ab\ncd\n", 0, &line, &column);
    CHECK(line == 1 && column == 1);
}

static void test_numbers(void) {
    static const struct {
        const char *text;
        double value;
    } CASES[] = {
        {"0", 0},
        {"-1.5e3", -1500},
        {"9007199254740993", 9007199254740992.0},
        {"9007199254740993.0000000000000000000000000000001", 9007199254740994.0},
        {"2.2250738585072011e-308", 2.2250738585072011e-308},
        {"2.4703282292062327e-324", 0},
        {"1e23", 1e23},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const uint8_t *text = (const uint8_t *)CASES[i].text;
        const cf_number number = cf_number_read(text, text + strlen(CASES[i].text));
        CHECK(number.kind == CF_NUMBER_FINITE && number.value == CASES[i].value);
        CHECK(number.stop == text + strlen(CASES[i].text));
    }
    uint8_t out[CF_NUMBER_TEXT];
    CHECK(cf_number_format(-1.17549435e-38f, out) <= CF_NUMBER_TEXT);
    CHECK(cf_number_format(0.1f, out) == 3 && memcmp(out, "0.1", 3) == 0);
    CHECK(cf_number_fits_f32(3.4028235e38) && !cf_number_fits_f32(3.5e38));
    CHECK(!cf_number_fits_f32(HUGE_VAL) && !cf_number_fits_f32(-HUGE_VAL));
}

static void test_writing(void) {
    static const float labels[] = {1, -0.0f}, data[] = {0.5f, 1e-45f, 3};
    static const int64_t indptr[] = {0, 2, 3};
    static const uint32_t indices[] = {0, 4, 9};
    uint8_t out[2 * CF_LIBSVM_ROW_TEXT + 3 * CF_LIBSVM_ENTRY_TEXT];
    size_t n;
    const cf_status status = cf_libsvm_write(labels, indptr, indices, data, NULL, 0, 2, 1, out, &n);
    static const char EXPECTED[] = "1 1:0.5 5:1e-45\n-0 10:3\n";
    CHECK(status.code == CF_OK && n == sizeof EXPECTED - 1 && memcmp(out, EXPECTED, n) == 0);
}

int main(void) {
    const unsigned cpu = cf_cpu_features();
    for (size_t i = 0; cf_kernels_at(i); i++) {
        kernels = cf_kernels_at(i);
        if (kernels->needs & ~cpu)
            continue;
        test_rows();
        test_refusals();
        test_little_room();
        test_every_split();
        test_hashing();
        test_skipping();
        test_locate();
    }
    test_numbers();
    test_writing();
    if (n_failed == 0)
        printf("ok\n");
    return n_failed != 0;
}
