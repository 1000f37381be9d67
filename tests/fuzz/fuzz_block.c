/* Fuzzes the dictionary parser and the block decoder; checksums are skipped so that mutations get
 * inside. Input: length of the dictionary (2 bytes, little-endian; 0 for none), dictionary, block.
 *
 * Every buffer is allocated to its exact size, so a sanitizer sees one byte too many. What decodes
 * must encode, and decode to the same rows again. */
#include "cf_block.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(claim)                                                                               \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim);                    \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void *exactly(size_t n) {
    void *memory = malloc(n);
    CHECK(memory != NULL || n == 0);
    return memory;
}

static const cf_kernels *scalar(void) {
    size_t i = 0;
    while (cf_kernels_at(i + 1) != NULL)
        i++;
    return cf_kernels_at(i);
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

static cf_code decode(const uint8_t *block, size_t n, const cf_block_header *h,
                      const cf_dictionary *dictionary, int ordered, int skip_checksum,
                      cf_block_rows *rows) {
    uint64_t *scratch = exactly(8 * cf_block_decode_scratch(h, ordered));
    const cf_block_options options = {0, ordered, skip_checksum};
    const cf_status status =
        cf_block_decode(scalar(), block, n, h, dictionary, options, scratch, rows);
    free(scratch);
    CHECK(status.offset <= n);
    return status.code;
}

/* Rows that decoded are rows: they encode, and what comes back is the same. */
static void check_round_trip(const cf_block_header *h, const cf_dictionary *dictionary,
                             const cf_block_rows *rows) {
    const int has_weights = (h->flags & CF_BLOCK_WEIGHTS) != 0;
    const cf_block_input input = {h->n_rows,     rows->labels, rows->indptr,
                                  rows->indices, rows->data,   has_weights ? rows->weights : NULL};
    uint64_t *scratch = exactly(8 * cf_block_encode_scratch(h->n_rows, h->nnz));
    cf_block_header measured, read;
    CHECK(cf_block_measure(&input, dictionary, scratch, &measured).code == CF_OK);
    uint8_t *block = exactly(measured.n_bytes);
    cf_block_fill(scalar(), &input, dictionary, scratch, &measured, block);
    free(scratch);
    CHECK(cf_block_read_header(block, measured.n_bytes, &read).code == CF_OK);
    CHECK(read.n_rows == h->n_rows && read.nnz == h->nnz);
    cf_block_rows again = allocate(&read);
    CHECK(decode(block, measured.n_bytes, &read, dictionary, 1, 0, &again) == CF_OK);
    CHECK(memcmp(again.labels, rows->labels, 4 * (size_t)h->n_rows) == 0);
    CHECK(memcmp(again.indptr, rows->indptr, 8 * ((size_t)h->n_rows + 1)) == 0);
    CHECK(memcmp(again.indices, rows->indices, 4 * (size_t)h->nnz) == 0);
    CHECK(memcmp(again.data, rows->data, 4 * (size_t)h->nnz) == 0);
    CHECK(!has_weights || memcmp(again.weights, rows->weights, 4 * (size_t)h->n_rows) == 0);
    release(again);
    free(block);
}

static void check_block(const uint8_t *block, size_t n, const cf_dictionary *dictionary) {
    cf_block_header h;
    if (cf_block_read_header(block, n, &h).code != CF_OK)
        return;
    CHECK(h.n_rows <= 8 * (uint64_t)h.n_bytes && h.nnz <= 8 * (uint64_t)h.n_bytes);
    cf_block_rows rows = allocate(&h);
    const cf_code unordered = decode(block, n, &h, dictionary, 0, 1, &rows);
    const cf_code ordered = decode(block, n, &h, dictionary, 1, 1, &rows);
    CHECK(ordered == unordered || ordered == CF_E_CORRUPT); /* an id twice in a row */
    if (ordered == CF_OK)
        check_round_trip(&h, dictionary, &rows);
    release(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2)
        return 0;
    size_t n_dictionary = cf_load_u16(data), n_words = 0;
    if (n_dictionary > n - 2)
        n_dictionary = n - 2;
    uint8_t *dictionary = exactly(n_dictionary);
    memcpy(dictionary, data + 2, n_dictionary);
    const size_t n_block = n - 2 - n_dictionary;
    uint8_t *block = exactly(n_block);
    memcpy(block, data + 2 + n_dictionary, n_block);

    uint64_t *memory = NULL;
    const cf_dictionary *parsed = NULL;
    if (cf_dictionary_measure(dictionary, n_dictionary, &n_words).code == CF_OK) {
        memory = exactly(8 * n_words);
        if (cf_dictionary_parse(scalar(), dictionary, n_dictionary, 1, memory, n_words).code ==
            CF_OK)
            parsed = (const cf_dictionary *)(void *)memory;
    }
    /* A block that names a dictionary means this one, whatever has become of it. */
    if (parsed != NULL && n_block >= CF_BLOCK_HEADER && cf_load_u64(block + 24) != 0)
        cf_store_u64(block + 24, parsed->identity);
    check_block(block, n_block, parsed);
    free(memory);
    free(block);
    free(dictionary);
    return 0;
}
