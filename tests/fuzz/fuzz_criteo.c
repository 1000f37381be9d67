/* Fuzz entry for cf_criteo: what the shortcuts read agrees with what is read without them, a split
 * at any byte agrees with the whole, and rows keep their promises.
 */
#include "cf_criteo.h"
#include "cf_libsvm.h"
#include "fuzz.h"

const char *const fuzz_words[] = {
    "0\t",
    "1\t",
    "0,",
    "1,",
    "1.0",
    "260.0",
    "-1",
    "\t-2\t",
    ",-12345678.0,",
    "12345678",
    "1e39",
    "68fd1e64",
    "\t68fd1e64\t80e26c9b\t",
    ",05db9164,,",
    "a",
    "a longer category",
    "\"",
    "\n",
    "\r\n",
    "\r",
    "\t",
    ",",
    "\t\t\t\t\t",
    ",,,,,",
    "Id,Label,I1,I2,I3,I4,I5,I6,I7,I8,I9,I10,I11,I12,I13,C1,C2,C3,C4,C5,C6,C7,C8,C9,C10,C11,C12,"
    "C13,C14,C15,C16,C17,C18,C19,C20,C21,C22,C23,C24,C25,C26\n",
    "I1",
    "id",
    "label",
    "",
    NULL};

/* Rows in every layout. */
size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    static const char *const HEADERS[] = {"", "id,label,", "Id,", "LABEL,", ",", "", ""};
    if (i >= sizeof HEADERS / sizeof *HEADERS)
        return 0;
    const char separator = i == 0 || i == 5 ? '\t' : ',';
    const char *const ending = i % 2 ? "\r\n" : "\n";
    const char *const header = HEADERS[i];
    size_t n = 0;
    if (*header) {
        n += (size_t)snprintf((char *)out, room, "%s", *header == ',' ? "" : header);
        for (unsigned c = 1; c <= CF_CRITEO_CELLS; c++)
            n += (size_t)snprintf((char *)out + n, room - n, "%c%u%s", c <= 13 ? 'I' : 'C',
                                  c <= 13 ? c : c - 13, c == CF_CRITEO_CELLS ? ending : ",");
    }
    for (unsigned row = 0; row < 4; row++) {
        if (strstr(header, "d,"))
            n += (size_t)snprintf((char *)out + n, room - n, "%u,", 1000 + row);
        if (!*header || strstr(header, "abel") || strstr(header, "ABEL"))
            n += (size_t)snprintf((char *)out + n, room - n, "%u%c", row % 2, separator);
        for (unsigned c = 1; c <= CF_CRITEO_CELLS; c++) {
            const unsigned value = (c * 2654435761u) >> (row + 3);
            if (i == 5 && row == 1 && c == 36) /* trimmed */
                break;
            if (c > 1)
                out[n++] = (uint8_t)separator;
            if (c <= 13 && value % 4)
                n += (size_t)snprintf((char *)out + n, room - n, i == 2 ? "%d.0" : "%d",
                                      (int)(value % 100000) - 3);
            else if (c > 13 && value % 5)
                n += (size_t)snprintf((char *)out + n, room - n, i == 3 ? "%x" : "%08x", value);
        }
        n += (size_t)snprintf((char *)out + n, room - n, "%s", row == 3 && i == 6 ? "" : ending);
    }
    return n;
}

typedef struct {
    cf_criteo_rows rows;
    cf_status status;
} parsed;

static parsed parse(cf_criteo_options options, const uint8_t *text, size_t n, size_t begin,
                    size_t end) {
    size_t first, last;
    parsed result;
    memset(&result, 0, sizeof result);
    cf_criteo_rows *rows = &result.rows;
    cf_libsvm_range(text, n, begin, end, &first, &last);
    cf_criteo_measure(usable_kernels(0), text, first, last, &rows->row_room, &rows->entry_room);
    CHECK(rows->entry_room <= last - first);
    rows->labels = exactly(rows->row_room * sizeof(float));
    rows->row_ends = exactly(rows->row_room * sizeof(int64_t));
    rows->indices = exactly(rows->entry_room * sizeof(uint32_t));
    rows->data = exactly(rows->entry_room * sizeof(float));
    result.status = cf_criteo_fill(&options, text, n, first, last, rows);
    CHECK(result.status.code != CF_E_ROOM);
    CHECK(result.status.code == CF_OK ||
          (result.status.offset >= first && result.status.offset < last));
    return result;
}

static void release(parsed *p) {
    free(p->rows.labels);
    free(p->rows.row_ends);
    free(p->rows.indices);
    free(p->rows.data);
}

/* Whether b is rows [row, row + b's) of a. */
static int holds(const cf_criteo_rows *a, const cf_criteo_rows *b, size_t row) {
    const size_t entry = row ? (size_t)a->row_ends[row - 1] : 0;
    if (row + b->n_rows > a->n_rows || entry + b->n_entries > a->n_entries)
        return 0;
    for (size_t i = 0; i < b->n_rows; i++)
        if (a->row_ends[row + i] != b->row_ends[i] + (int64_t)entry)
            return 0;
    return same_bytes(a->labels + row, b->labels, b->n_rows * sizeof(float)) &&
           same_bytes(a->indices + entry, b->indices, b->n_entries * sizeof(uint32_t)) &&
           same_bytes(a->data + entry, b->data, b->n_entries * sizeof(float));
}

static int same_status(cf_status a, cf_status b) {
    return a.code == b.code && a.offset == b.offset;
}

static void check_rows(const cf_criteo_rows *rows, const cf_criteo_options *options) {
    int64_t entry = 0;
    for (size_t i = 0; i < rows->n_rows; i++) {
        CHECK(rows->labels[i] == 0 || rows->labels[i] == 1);
        CHECK(rows->row_ends[i] >= entry && rows->row_ends[i] <= entry + CF_CRITEO_CELLS);
        float categories = 0;
        for (int64_t first = entry; entry < rows->row_ends[i]; entry++) {
            CHECK(rows->indices[entry] >> options->bits == 0);
            CHECK(entry == first || rows->indices[entry] > rows->indices[entry - 1]);
            if (rows->indices[entry] >= CF_CRITEO_INTEGERS)
                categories += rows->data[entry];
        }
        CHECK(categories <= CF_CRITEO_CATEGORIES);
    }
    CHECK((size_t)entry == rows->n_entries);
}

static void check_options(cf_criteo_options options, const uint8_t *text, size_t n, size_t split) {
    parsed whole = parse(options, text, n, 0, n);
    check_rows(&whole.rows, &options);

    /* Shortcuts need bytes behind a cell: with more of them, more cells are read that way. */
    if (n > 0 && text[n - 1] == '\n') {
        uint8_t *longer = exactly(n + 64);
        memcpy(longer, text, n);
        memset(longer + n, '\n', 64);
        parsed other = parse(options, longer, n + 64, 0, n + 64);
        CHECK(same_status(other.status, whole.status));
        CHECK(other.rows.n_rows == whole.rows.n_rows && holds(&whole.rows, &other.rows, 0));
        CHECK(other.rows.n_skipped == whole.rows.n_skipped);
        release(&other);
        free(longer);
    }

    parsed left = parse(options, text, n, 0, split);
    CHECK(holds(&whole.rows, &left.rows, 0));
    if (left.status.code != CF_OK) {
        CHECK(same_status(left.status, whole.status));
    } else {
        parsed right = parse(options, text, n, split, n);
        CHECK(holds(&whole.rows, &right.rows, left.rows.n_rows));
        CHECK(left.rows.n_rows + right.rows.n_rows == whole.rows.n_rows);
        CHECK(same_status(right.status, whole.status));
        CHECK(left.rows.n_skipped + right.rows.n_skipped == whole.rows.n_skipped);
        release(&right);
    }
    release(&left);
    release(&whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    size_t hash = 0;
    for (size_t i = 0; i < n; i++)
        hash = hash * 31 + data[i];
    for (unsigned i = 0; i < 2; i++) {
        cf_criteo_layout layout = {.has_label = i == 0};
        size_t begin;
        const cf_status status = cf_criteo_layout_read(data, n, &layout, &begin);
        CHECK(status.code == CF_OK || status.code == CF_E_CRITEO_HEADER);
        if (status.code != CF_OK) {
            CHECK(status.offset < n);
            continue;
        }
        CHECK(begin <= n && (begin == 0 || begin == n || data[begin - 1] == '\n'));
        const cf_criteo_options options = {layout, i == 0 ? CF_CRITEO_SKIP : 0, i == 0 ? 5 : 31};
        check_options(options, data + begin, n - begin, hash % (n - begin + 1));
    }
    return 0;
}
