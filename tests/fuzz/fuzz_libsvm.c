/* Fuzz entry for cf_libsvm: every kernel table agrees with the careful reader bit for bit, a split
 * at any byte agrees with the whole, and what was accepted survives being written and read back.
 */
#include "cf_libsvm.h"
#include "cf_number.h"
#include "fuzz.h"

const char *const fuzz_words[] = {
    "1",
    "-1",
    "+1",
    "0",
    " 1:1",
    " 2:0.5",
    " 3:-1.25e-3",
    " 5:3e38 6:3e38 7:3e38",
    " 12345678:1",
    " 123456789:0.186651",
    " 4294967294:1",
    " 4294967295:1",
    " 18446744073709551615:1",
    " 18446744073709551616:1",
    "qid:7",
    " qid:",
    "nan",
    "-inf",
    "nan(ind)",
    "1.#INF",
    "1e39",
    "3.4028235677973366e38",
    "1e-46",
    "0.30112345678901234567",
    "9007199254740993",
    "9007199254740992.99999999999999999999999999999",
    "8."
    "988465674311579538646525953945123668089884894711532863671504057886633790275048156635423866120"
    "3768010560056939935696678829394884407208311246423715319737062188883946712432742638151109800e30"
    "7",
    "2.22507385850720113605740979670913197593481954635164564e-308",
    "\n",
    "\r\n",
    "\r",
    " ",
    "\t",
    "#",
    " # 5:5\n",
    ":",
    ".",
    "e",
    "-",
    "+",
    "1:2",
    "1\n1 1:1\n",
    "",
    NULL};

static void check(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "fuzz_libsvm: %s\n", what);
        abort();
    }
}

static void *allocate(size_t n, size_t size) { return exactly(n * size); }

typedef struct {
    cf_libsvm_rows rows;
    cf_status status;
} parsed;

static parsed parse(const cf_kernels *kernels, cf_libsvm_options options, const uint8_t *text,
                    size_t n, size_t begin, size_t end) {
    size_t first, last;
    parsed result;
    memset(&result, 0, sizeof result);
    cf_libsvm_rows *rows = &result.rows;
    cf_libsvm_range(text, n, begin, end, &first, &last);
    check(first <= last && last <= n, "a range is out of order");
    cf_libsvm_measure(kernels, text, first, last, &rows->row_room, &rows->entry_room);
    rows->labels = allocate(rows->row_room, sizeof(float));
    rows->row_ends = allocate(rows->row_room, sizeof(int64_t));
    rows->indices = allocate(rows->entry_room, sizeof(uint32_t));
    rows->data = allocate(rows->entry_room, sizeof(float));
    if (options.flags & CF_LIBSVM_WEIGHTS)
        rows->weights = allocate(rows->row_room, sizeof(float));
    if (options.hash_bits)
        rows->scratch = allocate(rows->entry_room, sizeof(uint64_t));
    result.status = cf_libsvm_fill(kernels, &options, text, n, first, last, rows);
    check(result.status.code != CF_E_ROOM, "measured too little");
    check(result.status.code == CF_OK ||
              (result.status.offset >= first && result.status.offset < last),
          "an error lies outside the range");
    return result;
}

static void release(parsed *p) {
    free(p->rows.labels);
    free(p->rows.row_ends);
    free(p->rows.indices);
    free(p->rows.data);
    free(p->rows.weights);
    free(p->rows.scratch);
}

/* Whether b is rows [row, row + b's) of a. */
static int holds(const cf_libsvm_rows *a, const cf_libsvm_rows *b, size_t row) {
    const size_t entry = row ? (size_t)a->row_ends[row - 1] : 0;
    if (row + b->n_rows > a->n_rows || entry + b->n_entries > a->n_entries)
        return 0;
    for (size_t i = 0; i < b->n_rows; i++)
        if (a->row_ends[row + i] != b->row_ends[i] + (int64_t)entry)
            return 0;
    return same_bytes(a->labels + row, b->labels, b->n_rows * sizeof(float)) &&
           (!a->weights || same_bytes(a->weights + row, b->weights, b->n_rows * sizeof(float))) &&
           same_bytes(a->indices + entry, b->indices, b->n_entries * sizeof(uint32_t)) &&
           same_bytes(a->data + entry, b->data, b->n_entries * sizeof(float));
}

static int same_rows(const cf_libsvm_rows *a, const cf_libsvm_rows *b) {
    if (a->n_rows != b->n_rows || a->n_entries != b->n_entries || !holds(a, b, 0))
        return 0;
    return a->n_entries == 0 || (a->min_id == b->min_id && a->max_id == b->max_id);
}

static int same_status(cf_status a, cf_status b) {
    return a.code == b.code && a.offset == b.offset;
}

static int same(const parsed *a, const parsed *b) {
    return same_status(a->status, b->status) && same_rows(&a->rows, &b->rows) &&
           a->rows.n_skipped == b->rows.n_skipped &&
           (a->rows.n_skipped == 0 || same_status(a->rows.first_skipped, b->rows.first_skipped));
}

static void check_rows(const cf_libsvm_rows *rows, const cf_libsvm_options *options) {
    int64_t entry = 0;
    for (size_t i = 0; i < rows->n_rows; i++) {
        check(rows->row_ends[i] >= entry, "row ends decrease");
        for (int64_t first = entry; entry < rows->row_ends[i]; entry++) {
            const uint32_t id = rows->indices[entry] + options->base;
            check(id >= rows->min_id && id <= rows->max_id, "an id lies outside its bounds");
            check(entry == first || id > rows->indices[entry - 1] + options->base,
                  "ids do not increase");
            check(!options->hash_bits || id >> (options->hash_bits - 1) <= 1,
                  "a hash has too many bits");
        }
    }
    check((size_t)entry == rows->n_entries, "entries after the last row");
}

static void check_writing(const cf_kernels *kernels, const parsed *p) {
    const cf_libsvm_rows *rows = &p->rows;
    if (rows->n_rows == 0)
        return;
    int64_t *indptr = allocate(rows->n_rows + 1, sizeof(int64_t));
    indptr[0] = 0;
    memcpy(indptr + 1, rows->row_ends, rows->n_rows * sizeof(int64_t));
    const size_t room = rows->n_rows * CF_LIBSVM_ROW_TEXT + rows->n_entries * CF_LIBSVM_ENTRY_TEXT;
    uint8_t *text = allocate(room, 1);
    size_t n = 0;
    const cf_status status = cf_libsvm_write(rows->labels, indptr, rows->indices, rows->data,
                                             rows->weights, 0, rows->n_rows, 0, text, &n);
    if (status.code == CF_OK) {
        const cf_libsvm_options options = {
            CF_LIBSVM_NONFINITE | (rows->weights ? CF_LIBSVM_WEIGHTS : 0), 0, 0, CF_LIBSVM_MAX_ID};
        check(n <= room, "written text is longer than promised");
        parsed again = parse(kernels, options, text, n, 0, n);
        check(again.status.code == CF_OK && same_rows(&again.rows, rows),
              "written text does not read back");
        release(&again);
    } else {
        check(status.code == CF_E_INDEX_RANGE, "rows cannot be written");
    }
    free(text);
    free(indptr);
}

/* Lines skipped are lines counted one by one. */
static void check_skip(const uint8_t *text, size_t n, size_t wanted) {
    size_t lines = 0, pos = 0, found = wanted;
    while (pos < n && lines < wanted)
        lines += text[pos++] == '\n';
    check(cf_libsvm_skip(text, n, &found) == pos && found == lines, "lines are skipped otherwise");
}

/* Pieces are the rows counted range by range. */
static void check_cut(const uint8_t *text, size_t n, size_t before, size_t step) {
    const cf_kernels *const kernels = usable_kernels(0);
    cf_libsvm_piece *const pieces = allocate(n / step + 2, sizeof *pieces);
    const size_t n_pieces = cf_libsvm_cut(kernels, text, n, before, step, pieces);
    check(n_pieces <= n / step + 2, "there are more pieces than promised");
    size_t found = 0;
    for (size_t at = before - before % step; at < before + n; at += step) {
        size_t first, last, n_rows, n_entries;
        const size_t end = at + step < before + n ? at + step : before + n;
        cf_libsvm_range(text, n, at < before ? 0 : at - before, end - before, &first, &last);
        cf_libsvm_measure(kernels, text, first, last, &n_rows, &n_entries);
        n_rows = cf_libsvm_count(text, n, first, last);
        if (n_rows == 0)
            continue;
        check(found < n_pieces, "a piece is missing");
        const cf_libsvm_piece piece = pieces[found++];
        check(piece.begin == first && piece.end == last && piece.n_rows == n_rows &&
                  piece.n_entries == n_entries,
              "a piece is another");
    }
    check(found == n_pieces, "there is a piece too many");
    free(pieces);
}

static void check_options(cf_libsvm_options options, const uint8_t *text, size_t n, size_t split) {
    cf_libsvm_options careful = options;
    careful.flags |= CF_LIBSVM_CAREFUL;

    check_skip(text, n, split % 7);
    check_cut(text, n, split % 11, 1 + split);
    parsed expected = parse(scalar_kernels(), careful, text, n, 0, n);
    check_rows(&expected.rows, &options);
    if (n > 0 && expected.status.code == CF_OK && expected.rows.n_skipped == 0)
        check(cf_libsvm_count(text, n, 0, n) == expected.rows.n_rows, "rows are counted otherwise");
    for (size_t i = 0; usable_kernels(i); i++) {
        parsed other = parse(usable_kernels(i), options, text, n, 0, n);
        check(same(&expected, &other), usable_kernels(i)->name);
        release(&other);
    }

    const cf_kernels *const kernels = usable_kernels(0);
    parsed left = parse(kernels, options, text, n, 0, split);
    check(holds(&expected.rows, &left.rows, 0), "the left part differs from the whole");
    if (left.status.code != CF_OK) {
        check(same_status(left.status, expected.status), "the left part fails otherwise");
    } else {
        parsed right = parse(kernels, options, text, n, split, n);
        check(holds(&expected.rows, &right.rows, left.rows.n_rows) &&
                  left.rows.n_rows + right.rows.n_rows == expected.rows.n_rows,
              "the right part differs from the whole");
        check(same_status(right.status, expected.status), "the right part fails otherwise");
        check(left.rows.n_skipped + right.rows.n_skipped == expected.rows.n_skipped,
              "the parts skip other rows");
        release(&right);
    }
    release(&left);
    if (!options.base)
        check_writing(kernels, &expected);
    release(&expected);
}

static size_t append(uint8_t *out, size_t n, const char *string) {
    const size_t length = strlen(string);
    memcpy(out + n, string, length);
    return n + length;
}

/* Lines as they mostly are, which the kernels take many of at once; seed i has about 2^(7 + i / 8)
 * bytes. Mutations of conformance files alone would hardly ever reach the middle of a chunk. */
size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    /* Every other seed only has the first eight. */
    static const char VALUES[16][20] = {"1",
                                        "1",
                                        "1",
                                        "0",
                                        "7",
                                        "0.5",
                                        "1",
                                        "12",
                                        ".5",
                                        "-3",
                                        "1e-05",
                                        "0.0757212",
                                        "5.",
                                        "1",
                                        "0.30112345678901234",
                                        "123456789.123456"};
    static const char *const LABELS[] = {"-1", "1", "0.5"};
    static const char *const ENDS[] = {"\n", "\n", "\n", "\n", " \n", "\r\n"};
    static const uint32_t STEPS[] = {1, 9, 300, 20000, 3000000, 300000000};
    enum { N_SEEDS = 52, LONGEST = 40 };
    const size_t wanted = (size_t)1 << (7 + i / 8);
    uint32_t random = (uint32_t)i * 2654435761u + 1;
    size_t n = 0;
    if (i >= N_SEEDS)
        return 0;
    while (n < wanted && n + LONGEST < room) {
        uint64_t id = 0;
        n = append(out, n, LABELS[i % 3]);
        for (size_t left = (random >> 8) % (i % 4 == 0 ? 200 : 12); left > 0; left--) {
            random = random * 1664525u + 1013904223u;
            id += 1 + (random >> 8) % STEPS[i % 6];
            if (id > CF_LIBSVM_MAX_ID || n + LONGEST >= room)
                break;
            char written[24];
            snprintf(written, sizeof written, " %llu:", (unsigned long long)id);
            n = append(out, append(out, n, written), VALUES[(random >> 4) % (i % 2 ? 16 : 8)]);
        }
        random = random * 1664525u + 1013904223u;
        n = append(out, n, ENDS[i % 5 == 0 ? (random >> 8) % 6 : 0]);
    }
    return n;
}

/* The kernels leave the first and the last bytes of a text to slower code: two inputs in three get
 * blanks behind them, one a line before as well, so that all their lines are tried. */
enum { MARGIN = 128 };
static const char BEFORE[] = "1 1:1 2:0.5 3:7\n";

static size_t frame(const uint8_t *data, size_t size, size_t kind, uint8_t *text) {
    size_t n = 0;
    if (kind == 2) {
        memcpy(text, BEFORE, sizeof BEFORE - 1);
        n = sizeof BEFORE - 1;
    }
    if (size)
        memcpy(text + n, data, size);
    n += size;
    if (kind > 0) {
        text[n++] = '\n';
        memset(text + n, ' ', MARGIN);
        n += MARGIN;
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const cf_libsvm_options OPTIONS[] = {
        {0, 0, 1, CF_LIBSVM_MAX_ID},
        {CF_LIBSVM_REFUSE_ZERO, 0, 0, 100},
        {CF_LIBSVM_SKIP | CF_LIBSVM_NONFINITE | CF_LIBSVM_WEIGHTS, 0, 0, CF_LIBSVM_MAX_ID},
        {CF_LIBSVM_SKIP | CF_LIBSVM_REFUSE_ZERO, 0, 1, 500000},
        {CF_LIBSVM_SKIP, 1, 0, 0},
        {CF_LIBSVM_REFUSE_ZERO | CF_LIBSVM_NONFINITE | CF_LIBSVM_WEIGHTS, 32, 0, 0},
        {CF_LIBSVM_SKIP | CF_LIBSVM_REFUSE_ZERO, 0, 1, -1},
    };
    enum { N_OPTIONS = sizeof OPTIONS / sizeof *OPTIONS };
    size_t hash = 0;
    for (size_t i = 0; i < size; i++)
        hash = hash * 31 + data[i];
    const size_t kind = hash / 7 % 3;
    const size_t n = size + (kind == 2 ? sizeof BEFORE - 1 : 0) + (kind > 0 ? MARGIN + 1 : 0);
    uint8_t *text = allocate(n, 1), *copy = allocate(n, 1);
    check(frame(data, size, kind, copy) == n, "a frame of another size");
    if (n)
        memcpy(text, copy, n);
    check_options(OPTIONS[hash / 21 % N_OPTIONS], text, n, hash % (n + 1));
    check(same_bytes(text, copy, n), "the input was written to");
    free(text);
    free(copy);
    return 0;
}
