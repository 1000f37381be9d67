/* Fuzzes what writes: the block encoder, the dictionary builder and the LibSVM writer get rows that
 * may contradict themselves. They refuse them, or write no more than they said, and what they wrote
 * reads back. */
#include "cf_libsvm.h"
#include "fuzz_arrays.h"
#include "fuzz_rows.h"

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) { return plain_seed(i, out, room); }

/* What the callers check first: the ends of indptr lie inside the entries. */
static int ends_fit(const cf_csr *rows) {
    const int64_t begin = rows->indptr[0], end = rows->indptr[rows->n_rows];
    return begin >= 0 && begin <= end && (uint64_t)end <= rows->nnz;
}

/* Whether all rows are rows, and their ids increase. */
static cf_code judge(const cf_csr *rows, uint32_t most) {
    for (size_t i = 0; i < rows->n_rows; i++) {
        size_t begin, end;
        if (!cf_csr_row(rows, i, &begin, &end) || (int64_t)end > rows->indptr[rows->n_rows])
            return CF_E_INDPTR;
        for (size_t e = begin; e < end; e++) {
            if (e > begin && rows->indices[e] <= rows->indices[e - 1])
                return CF_E_ORDER;
            if (rows->indices[e] > most)
                return CF_E_INDEX_RANGE;
        }
    }
    return CF_OK;
}

/* Every kernel writes the block that scalar wrote. */
static void check_kernels(const cf_block_input *input, const cf_dictionary_index *index, size_t nnz,
                          const cf_block_header *h, const uint8_t *block, cf_status expected) {
    for (size_t i = 0; usable_kernels(i); i++) {
        uint64_t *scratch = exactly(8 * cf_block_encode_scratch(index, input->n_rows, nnz));
        cf_block_header mine;
        const cf_status status =
            cf_block_measure(usable_kernels(i), input, index, scratch, &mine, NULL);
        CHECK(status.code == expected.code && status.offset == expected.offset);
        if (status.code == CF_OK) {
            CHECK(mine.n_bytes == h->n_bytes);
            uint8_t *again = exactly(mine.n_bytes);
            cf_block_fill(usable_kernels(i), input, index, scratch, &mine, again);
            CHECK(same_bytes(again, block, mine.n_bytes));
            free(again);
        }
        free(scratch);
    }
}

enum { WIDEST = 1 << 18 };

/* Zeros that are made zeros again where entries were, since to clear all takes long. */
typedef struct {
    uint32_t ones[WIDEST], met[WIDEST], by_rank[CF_MAX_DICTIONARY_IDS];
    cf_column others[WIDEST];
} column_memory;

static cf_column_table table_of(column_memory *memory, size_t n) {
    return (cf_column_table){memory->ones, memory->others, memory->met, n, 0};
}

static void clear(column_memory *memory, const uint32_t *ids, size_t nnz) {
    for (size_t e = 0; e < nnz; e++) {
        memory->ones[ids[e]] = 0;
        memset(memory->others + ids[e], 0, sizeof(cf_column));
    }
}

/* Every kernel counts the columns as a scan of the entries does. */
static void check_columns(const cf_block_input *input, const cf_dictionary_index *index, size_t nnz,
                          uint64_t *scratch) {
    static column_memory one, two;
    const uint32_t *ids = input->indices + input->indptr[0];
    size_t n = 1;
    for (size_t e = 0; e < nnz; e++)
        n = ids[e] >= n ? (size_t)ids[e] + 1 : n;
    if (n > WIDEST)
        return;
    const cf_dictionary *d = index != NULL ? index->dictionary : &cf_no_dictionary;
    cf_column_table whole = table_of(&one, n);
    CHECK(cf_columns_scan(ids, input->data + input->indptr[0], nnz, &whole).code == CF_OK);
    for (size_t i = 0; usable_kernels(i); i++) {
        cf_column_table table = table_of(&two, n);
        cf_block_columns columns = {&table, two.by_rank};
        cf_block_header h;
        CHECK(cf_block_measure(usable_kernels(i), input, index, scratch, &h, &columns).code ==
              CF_OK);
        CHECK(cf_block_columns_by_id(&columns, d));
        CHECK(table.n_met == whole.n_met);
        for (size_t e = 0; e < nnz; e++) {
            const cf_column *a = table.others + ids[e], *b = whole.others + ids[e];
            CHECK(table.ones[ids[e]] == whole.ones[ids[e]] && a->count == b->count);
            CHECK(same_bytes(&a->min, &b->min, 4) && same_bytes(&a->max, &b->max, 4));
            CHECK(same_bytes(&a->sum_squares, &b->sum_squares, 8) ||
                  (a->sum_squares != a->sum_squares && b->sum_squares != b->sum_squares));
        }
        clear(&two, ids, nnz);
        table.n_columns = n - 1; /* too few for the largest id */
        CHECK(nnz == 0 ||
              cf_block_measure(usable_kernels(i), input, index, scratch, &h, &columns).code ==
                  CF_E_ID);
    }
    clear(&one, ids, nnz);
}

static void check_block(const cf_csr *rows, const cf_dictionary *dictionary) {
    const cf_block_input input = {rows->n_rows,  rows->labels, rows->indptr,
                                  rows->indices, rows->data,   rows->weights};
    const size_t nnz = (size_t)(rows->indptr[rows->n_rows] - rows->indptr[0]);
    uint64_t *memory = NULL;
    const cf_dictionary_index *index = make_fuzz_index(dictionary, &memory);
    uint64_t *scratch = exactly(8 * cf_block_encode_scratch(index, rows->n_rows, nnz));
    cf_block_header h, read;
    const cf_status status = cf_block_measure(scalar_kernels(), &input, index, scratch, &h, NULL);
    CHECK(status.code == judge(rows, UINT32_MAX));
    if (status.code != CF_OK) {
        check_kernels(&input, index, nnz, &h, NULL, status);
    } else {
        uint8_t *block = exactly(h.n_bytes);
        cf_block_fill(scalar_kernels(), &input, index, scratch, &h, block);
        check_kernels(&input, index, nnz, &h, block, status);
        check_columns(&input, index, nnz, scratch);
        CHECK(cf_block_read_header(block, h.n_bytes, &read).code == CF_OK);
        CHECK(read.n_rows == rows->n_rows && read.nnz == nnz);
        uint64_t *words = exactly(8 * cf_block_decode_scratch(&read, 1));
        cf_block_rows again = {
            .labels = exactly(4 * rows->n_rows),
            .indptr = exactly(8 * (rows->n_rows + 1)),
            .indices = exactly(4 * nnz),
            .data = exactly(4 * nnz),
            .weights = exactly(4 * rows->n_rows),
            .first_entry = rows->indptr[0],
        };
        const cf_block_options options = {0, 1, 0};
        CHECK(cf_block_decode(usable_kernels(0), block, h.n_bytes, &read, dictionary, options,
                              words, &again)
                  .code == CF_OK);
        const size_t begin = (size_t)rows->indptr[0];
        CHECK(same_bytes(again.labels, rows->labels, 4 * rows->n_rows));
        CHECK(same_bytes(again.indptr, rows->indptr, 8 * (rows->n_rows + 1)));
        CHECK(same_bytes(again.indices, rows->indices + begin, 4 * nnz));
        CHECK(same_bytes(again.data, rows->data + begin, 4 * nnz));
        CHECK(!rows->weights || same_bytes(again.weights, rows->weights, 4 * rows->n_rows));
        free(again.labels);
        free(again.indptr);
        free(again.indices);
        free(again.data);
        free(again.weights);
        free(words);
        free(block);
    }
    free(scratch);
    free(memory);
}

/* The dictionary of these rows, in memory of its own, or NULL. */
static const cf_dictionary *build(const cf_csr *rows, uint32_t max_ids, uint64_t **memory) {
    const int64_t first = rows->indptr[0], last = rows->indptr[rows->n_rows];
    const size_t nnz = (size_t)(last - first);
    uint64_t *scratch = exactly(8 * cf_dictionary_build_scratch(nnz));
    uint8_t *out = exactly(cf_dictionary_bound(nnz, max_ids));
    const cf_dictionary *dictionary = NULL;
    size_t n = 0;
    const cf_code code = cf_dictionary_build(scalar_kernels(), rows->n_rows, rows->indptr,
                                             rows->indices, rows->data, max_ids, scratch, out, &n)
                             .code;
    CHECK(code == CF_OK || code == CF_E_INDPTR);
    if (code == CF_OK) {
        uint8_t *bytes = copy_exactly(out, n);
        dictionary = parse_fuzz_dictionary(bytes, n, memory);
        CHECK(dictionary != NULL);
        free(bytes);
    }
    free(scratch);
    free(out);
    return dictionary;
}

/* Dictionaries of other rows, some of whose ids and values these have. Made once. */
static const cf_dictionary *other_dictionary(size_t i) {
    static const int KINDS[] = {TABLES, LONG_ROWS, ONES, COUNTS};
    enum { ROOM = 1 << 16 };
    static uint64_t *memories[4];
    if (memories[i] == NULL) {
        const fuzz_rows rows = make_fuzz_rows(KINDS[i], 300, i);
        uint8_t *bytes = exactly(ROOM);
        const size_t n = write_fuzz_dictionary(rows, 1u << 16, bytes, ROOM);
        CHECK(parse_fuzz_dictionary(bytes, n, &memories[i]) != NULL);
        free(bytes);
        free_fuzz_rows(rows);
    }
    return (const cf_dictionary *)(const void *)memories[i];
}

static void check_text(const cf_csr *rows, uint32_t base) {
    const size_t nnz = (size_t)(rows->indptr[rows->n_rows] - rows->indptr[0]);
    const size_t room = rows->n_rows * CF_LIBSVM_ROW_TEXT + nnz * CF_LIBSVM_ENTRY_TEXT;
    uint8_t *text = exactly(room);
    size_t n = 0;
    const cf_code code = cf_libsvm_write(rows->labels, rows->indptr, rows->indices, rows->data,
                                         rows->weights, 0, rows->n_rows, base, text, &n)
                             .code;
    if (code == CF_OK) {
        CHECK(n <= room && judge(rows, CF_LIBSVM_MAX_ID - base) == CF_OK);
        size_t n_lines, n_colons;
        scalar_kernels()->count_lines_colons(text, n, &n_lines, &n_colons);
        CHECK(n_lines == rows->n_rows && n_colons == nnz + (rows->weights ? n_lines : 0));
    } else {
        CHECK(code == CF_E_WEIGHT || judge(rows, CF_LIBSVM_MAX_ID - base) != CF_OK);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    byte_source in = {data, data + n};
    const uint8_t flags = take_byte(&in), ids_byte = take_byte(&in);
    const size_t n_ids = flags & 1 ? 40u + ids_byte : (size_t)UINT32_MAX + 1 - ids_byte;
    const fuzz_csr csr = take_csr(&in, n_ids);
    if (ends_fit(&csr.rows)) {
        uint64_t *memory = NULL;
        const cf_dictionary *dictionary = flags & 4 ? other_dictionary(flags >> 3 & 3) : NULL;
        if (flags % 16 == 8) /* it takes longer than the rest, so not every time */
            dictionary = build(&csr.rows, take_byte(&in), &memory);
        check_block(&csr.rows, dictionary);
        check_text(&csr.rows, flags & 2 ? 1 : 0);
        free(memory);
    }
    free_csr(csr);
    return 0;
}
