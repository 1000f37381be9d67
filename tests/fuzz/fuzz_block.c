/* Fuzzes the block decoder; checksums are skipped so that mutations get inside. Input: length of
 * the dictionary behind the block (2 bytes, little-endian; 0 for none), block, dictionary.
 *
 * Every buffer is allocated to its exact size, so a sanitizer sees one byte too many. All kernels
 * decode alike; what decodes must encode, and decode to the same rows again. */
#include "fuzz_rows.h"

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    static const size_t N_ROWS[] = {0, 1, 5, 60};
    if (i >= 2 * 4 * N_ROW_KINDS)
        return 0;
    const int kind = (int)(i % N_ROW_KINDS), with = (int)(i / N_ROW_KINDS % 2);
    const fuzz_rows sample = make_fuzz_rows(kind, 300, 1);
    const fuzz_rows rows = make_fuzz_rows(kind, N_ROWS[i / N_ROW_KINDS / 2], 1 + i);
    uint8_t *dictionary = exactly(room);
    uint64_t *memory = NULL, *index_memory = NULL;
    const size_t n_dictionary = with ? write_fuzz_dictionary(sample, 300, dictionary, room) : 0;
    const cf_dictionary *parsed = parse_fuzz_dictionary(dictionary, n_dictionary, &memory);
    const cf_dictionary_index *index = make_fuzz_index(parsed, &index_memory);
    const cf_block_input input = {rows.n_rows,  rows.labels, rows.indptr,
                                  rows.indices, rows.data,   i % 3 == 0 ? rows.weights : NULL};
    uint64_t *scratch =
        exactly(8 * cf_block_encode_scratch(index, rows.n_rows, (size_t)rows.indptr[rows.n_rows]));
    cf_block_header h;
    CHECK(cf_block_measure(scalar_kernels(), &input, index, scratch, &h, NULL).code == CF_OK);
    const size_t n = 2 + (size_t)h.n_bytes + n_dictionary;
    CHECK(n <= room && n_dictionary <= UINT16_MAX);
    cf_store_u16(out, (uint32_t)n_dictionary);
    cf_block_fill(scalar_kernels(), &input, index, scratch, &h, out + 2);
    memcpy(out + 2 + h.n_bytes, dictionary, n_dictionary);
    free(scratch);
    free(index_memory);
    free(memory);
    free(dictionary);
    free_fuzz_rows(rows);
    free_fuzz_rows(sample);
    return n;
}

static cf_block_rows allocate(const cf_block_header *h) {
    return (cf_block_rows){
        .labels = exactly(4 * (size_t)h->n_rows),
        .indptr = exactly(8 * ((size_t)h->n_rows + 1)),
        .indices = exactly(4 * (size_t)h->nnz),
        .data = exactly(4 * (size_t)h->nnz),
        .weights = exactly(4 * (size_t)h->n_rows),
    };
}

static void release(cf_block_rows rows) {
    free(rows.labels);
    free(rows.indptr);
    free(rows.indices);
    free(rows.data);
    free(rows.weights);
}

static int same_rows(const cf_block_header *h, const cf_block_rows *a, const cf_block_rows *b) {
    const int has_weights = (h->flags & CF_BLOCK_WEIGHTS) != 0;
    return same_bytes(a->labels, b->labels, 4 * (size_t)h->n_rows) &&
           same_bytes(a->indptr, b->indptr, 8 * ((size_t)h->n_rows + 1)) &&
           same_bytes(a->indices, b->indices, 4 * (size_t)h->nnz) &&
           same_bytes(a->data, b->data, 4 * (size_t)h->nnz) &&
           (!has_weights || same_bytes(a->weights, b->weights, 4 * (size_t)h->n_rows));
}

static cf_status decode(const cf_kernels *kernels, const uint8_t *block, size_t n,
                        const cf_block_header *h, const cf_dictionary *dictionary, uint32_t base,
                        int ordered, int skip_checksum, cf_block_rows *rows) {
    uint64_t *scratch = exactly(8 * cf_block_decode_scratch(h, ordered));
    const cf_block_options options = {base, ordered, skip_checksum};
    const cf_status status =
        cf_block_decode(kernels, block, n, h, dictionary, options, scratch, rows);
    free(scratch);
    CHECK(status.offset <= n);
    return status;
}

/* Rows that decoded are rows: they encode, and what comes back is the same. */
static void check_round_trip(const cf_block_header *h, const cf_dictionary *dictionary,
                             const cf_block_rows *rows) {
    const int has_weights = (h->flags & CF_BLOCK_WEIGHTS) != 0;
    const cf_block_input input = {h->n_rows,     rows->labels, rows->indptr,
                                  rows->indices, rows->data,   has_weights ? rows->weights : NULL};
    uint64_t *memory = NULL;
    const cf_dictionary_index *index = make_fuzz_index(dictionary, &memory);
    uint64_t *scratch = exactly(8 * cf_block_encode_scratch(index, h->n_rows, h->nnz));
    cf_block_header measured, read;
    CHECK(cf_block_measure(scalar_kernels(), &input, index, scratch, &measured, NULL).code ==
          CF_OK);
    uint8_t *block = exactly(measured.n_bytes);
    cf_block_fill(scalar_kernels(), &input, index, scratch, &measured, block);
    free(scratch);
    free(memory);
    CHECK(cf_block_read_header(block, measured.n_bytes, &read).code == CF_OK);
    CHECK(read.n_rows == h->n_rows && read.nnz == h->nnz);
    cf_block_rows again = allocate(&read);
    CHECK(decode(scalar_kernels(), block, measured.n_bytes, &read, dictionary, 0, 1, 0, &again)
              .code == CF_OK);
    CHECK(same_rows(h, &again, rows));
    CHECK(again.n_features == rows->n_features);
    release(again);
    free(block);
}

/* Mini-batches are the unordered rows with ids renumbered, whichever table does it. */
static void check_minibatches(const cf_kernels *kernels, const uint8_t *block, size_t n,
                              const cf_block_header *h, const cf_dictionary *dictionary,
                              uint32_t base, cf_status expected, const cf_block_rows *rows) {
    const size_t size = 1 + n % 17;
    const size_t n_batches = (h->n_rows + size - 1) / size;
    cf_local_table table = {NULL, cf_block_minibatches_stamps(h, dictionary), 1};
    table.stamps = exactly(4 * table.n_stamps);
    memset(table.stamps, 0, 4 * table.n_stamps);
    if (n % 3 == 0) /* soon out of stamps */
        table.first = UINT32_MAX - (uint32_t)n;
    uint64_t *scratch = exactly(8 * cf_block_minibatches_scratch(h, size));
    cf_block_minibatches out = {
        .labels = exactly(4 * (size_t)h->n_rows),
        .indptr = exactly(8 * ((size_t)h->n_rows + 1)),
        .local = exactly(4 * (size_t)h->nnz),
        .data = exactly(4 * (size_t)h->nnz),
        .ids = exactly(4 * (size_t)h->nnz),
        .offsets = exactly(8 * (n_batches + 1)),
    };
    const cf_block_options options = {base, 0, 1};
    for (int again = 0; again < 2; again++) {
        const cf_status found = cf_block_decode_minibatches(kernels, block, n, h, dictionary,
                                                            options, size, &table, scratch, &out);
        CHECK((found.code == CF_OK) == (expected.code == CF_OK));
        for (size_t i = 0; i < table.n_stamps; i++)
            CHECK(table.stamps[i] < table.first); /* else the next block takes it for its own */
        if (found.code != CF_OK)
            break;
        CHECK(out.n_features == rows->n_features);
        CHECK(same_bytes(out.labels, rows->labels, 4 * (size_t)h->n_rows));
        CHECK(same_bytes(out.indptr, rows->indptr, 8 * ((size_t)h->n_rows + 1)));
        CHECK(same_bytes(out.data, rows->data, 4 * (size_t)h->nnz));
        CHECK(out.offsets[n_batches] <= h->nnz);
        for (uint32_t row = 0; row < h->n_rows; row++)
            for (int64_t e = out.indptr[row]; e < out.indptr[row + 1]; e++) {
                const int64_t first = out.offsets[row / size], last = out.offsets[row / size + 1];
                CHECK(out.local[e] < last - first);
                CHECK(out.ids[first + out.local[e]] == rows->indices[e]);
            }
    }
    free(table.stamps);
    free(scratch);
    free(out.labels);
    free(out.indptr);
    free(out.local);
    free(out.data);
    free(out.ids);
    free(out.offsets);
}

static void check_block(const uint8_t *block, size_t n, const cf_dictionary *dictionary) {
    cf_block_header h;
    if (cf_block_read_header(block, n, &h).code != CF_OK)
        return;
    CHECK(h.n_rows <= 8 * (uint64_t)h.n_bytes && h.nnz <= 8 * (uint64_t)h.n_bytes);
    cf_block_rows rows = allocate(&h);
    const cf_kernels *scalar = scalar_kernels();
    const uint32_t base = n % 4 == 0;
    const cf_status unordered = decode(scalar, block, n, &h, dictionary, base, 0, 1, &rows);
    for (size_t i = 0; usable_kernels(i) != NULL; i++) {
        cf_block_rows others = allocate(&h);
        const cf_status other =
            decode(usable_kernels(i), block, n, &h, dictionary, base, 0, 1, &others);
        CHECK(other.code == unordered.code && other.offset == unordered.offset);
        CHECK(other.code != CF_OK || same_rows(&h, &others, &rows));
        release(others);
        check_minibatches(usable_kernels(i), block, n, &h, dictionary, base, unordered, &rows);
    }
    const cf_status ordered = decode(scalar, block, n, &h, dictionary, base, 1, 1, &rows);
    CHECK(ordered.code == unordered.code || ordered.code == CF_E_CORRUPT); /* an id twice */
    const cf_code checked = decode(scalar, block, n, &h, dictionary, base, 1, 0, &rows).code;
    CHECK(checked == ordered.code || checked == CF_E_CHECKSUM);
    for (size_t i = 0; usable_kernels(i) != scalar; i++) {
        cf_block_rows others = allocate(&h);
        const cf_status other =
            decode(usable_kernels(i), block, n, &h, dictionary, base, 1, 1, &others);
        CHECK(other.code == ordered.code && other.offset == ordered.offset);
        CHECK(other.code != CF_OK || same_rows(&h, &others, &rows));
        release(others);
    }
    if (ordered.code == CF_OK)
        check_round_trip(&h, dictionary, &rows);
    release(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2)
        return 0;
    size_t n_dictionary = cf_load_u16(data);
    if (n_dictionary > n - 2)
        n_dictionary = n - 2;
    const size_t n_block = n - 2 - n_dictionary;
    uint8_t *block = copy_exactly(data + 2, n_block);
    uint8_t *dictionary = copy_exactly(data + 2 + n_block, n_dictionary);
    uint64_t *memory = NULL;
    const cf_dictionary *parsed = parse_fuzz_dictionary(dictionary, n_dictionary, &memory);
    /* A block that names a dictionary means this one, whatever has become of it. */
    if (parsed != NULL && n_block >= CF_BLOCK_HEADER && cf_load_u64(block + 24) != 0)
        cf_store_u64(block + 24, parsed->identity);
    check_block(block, n_block, parsed);
    free(memory);
    free(block);
    free(dictionary);
    return 0;
}
