/* The block codec without Python: known checksums, a round trip with and without dictionary, and
 * rows laid into larger arrays. */
#include "cf_block.h"
#include "cf_crc32c.h"

#include <stdio.h>
#include <stdlib.h>

static int n_checks, n_failures;

#define CHECK(claim)                                                                               \
    do {                                                                                           \
        n_checks++;                                                                                \
        if (!(claim)) {                                                                            \
            n_failures++;                                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim);                    \
        }                                                                                          \
    } while (0)

enum { N_ROWS = 4000, PER_ROW = 9, NNZ = N_ROWS * PER_ROW };

static float labels[N_ROWS], values[NNZ], weights[N_ROWS];
static int64_t indptr[N_ROWS + 1];
static uint32_t indices[NNZ];

/* Nine ids a row: the k-th is k of so many, the small ones popular; the first two have values. */
static void make_rows(void) {
    uint64_t state = 1;
    for (uint32_t row = 0; row < N_ROWS; row++) {
        labels[row] = row % 4 == 0 ? 1.0f : -1.0f;
        weights[row] = (float)row;
        indptr[row + 1] = (int64_t)(row + 1) * PER_ROW;
        for (uint32_t k = 0; k < PER_ROW; k++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            const uint32_t random = (uint32_t)(state >> 33);
            const uint32_t shift = (random >> 20) % 16;
            indices[row * PER_ROW + k] = k * 70000 + (k < 2 ? 0 : (random & 0xffff) >> shift);
            values[row * PER_ROW + k] = k < 2 ? (float)(random % 5) : 1.0f;
        }
    }
}

static void check_checksums(const cf_kernels *kernels) {
    static const uint8_t zeros[32];
    static uint8_t bytes[20000];
    CHECK(kernels->crc32c(0, (const uint8_t *)"123456789", 9) == 0xe3069283u);
    CHECK(kernels->crc32c(0, zeros, 32) == 0x8a9136aau); /* RFC 3720, B.4: 32 zero bytes */
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * i >> 3);
    for (size_t n = 0; n < sizeof bytes; n += 1 + n / 7) {
        const uint32_t whole = cf_crc32c_scalar(0, bytes, n);
        CHECK(kernels->crc32c(0, bytes, n) == whole);
        CHECK(kernels->crc32c(kernels->crc32c(0, bytes, n / 3), bytes + n / 3, n - n / 3) == whole);
    }
}

static size_t check_round_trip(const cf_kernels *kernels, const cf_dictionary *dictionary,
                               const cf_dictionary_index *index) {
    const cf_block_input rows = {N_ROWS, labels, indptr, indices, values, weights};
    uint64_t *scratch = malloc(8 * cf_block_encode_scratch(index, N_ROWS, NNZ));
    cf_block_header header;
    CHECK(cf_block_measure(kernels, &rows, index, scratch, &header, NULL).code == CF_OK);
    uint8_t *block = malloc(header.n_bytes);
    cf_block_fill(kernels, &rows, index, scratch, &header, block);
    free(scratch);

    cf_block_header read;
    CHECK(cf_block_read_header(block, CF_BLOCK_HEADER, &read).code == CF_OK);
    CHECK(read.n_rows == N_ROWS && read.nnz == NNZ && read.max_row == PER_ROW);
    CHECK(read.dictionary == (dictionary != NULL ? dictionary->identity : 0));
    static float out_labels[N_ROWS], out_values[NNZ], out_weights[N_ROWS];
    static int64_t out_indptr[N_ROWS + 1];
    static uint32_t out_indices[NNZ];
    cf_block_rows out = {out_labels, out_indptr, out_indices, out_values, out_weights, 100, 0};
    scratch = malloc(8 * cf_block_decode_scratch(&read, 1));
    const cf_block_options options = {0, 1, 0};
    const cf_status status =
        cf_block_decode(kernels, block, header.n_bytes, &read, dictionary, options, scratch, &out);
    CHECK(status.code == CF_OK);
    CHECK(memcmp(labels, out_labels, sizeof labels) == 0);
    CHECK(memcmp(weights, out_weights, sizeof weights) == 0);
    CHECK(memcmp(indices, out_indices, sizeof indices) == 0);
    CHECK(memcmp(values, out_values, sizeof values) == 0);
    CHECK(out_indptr[0] == 100 && out_indptr[N_ROWS] == 100 + NNZ);
    CHECK(out.n_features > 8 * 70000 && out.n_features <= 8 * 70000 + 65536);
    free(scratch);
    free(block);
    return header.n_bytes;
}

int main(void) {
    make_rows();
    const cf_kernels *kernels = cf_kernels_at(0);
    for (size_t i = 0; cf_kernels_at(i) != NULL; i++) {
        if (cf_kernels_at(i)->needs & ~cf_cpu_features())
            continue;
        kernels = cf_kernels_at(i);
        check_checksums(kernels);
    }

    uint64_t *scratch = malloc(8 * cf_dictionary_build_scratch(NNZ));
    uint8_t *bytes = malloc(cf_dictionary_bound(NNZ, 4096));
    size_t n = 0, n_words = 0;
    CHECK(cf_dictionary_build(kernels, N_ROWS, indptr, indices, values, 4096, scratch, bytes, &n)
              .code == CF_OK);
    CHECK(cf_dictionary_measure(bytes, n, &n_words).code == CF_OK);
    uint64_t *memory = malloc(8 * n_words);
    CHECK(cf_dictionary_parse(kernels, bytes, n, 0, memory, n_words).code == CF_OK);
    CHECK(cf_dictionary_parse(kernels, bytes, n, 0, memory, n_words - 1).code == CF_E_ROOM);
    CHECK(cf_dictionary_parse(kernels, bytes, n, 0, memory, n_words).code == CF_OK);
    const cf_dictionary *dictionary = (const cf_dictionary *)(void *)memory;
    CHECK(dictionary->n_ids > 100 && dictionary->n_narrow + dictionary->n_wide == 2);
    uint64_t *index_memory = malloc(8 * cf_dictionary_index_words(dictionary));
    CHECK(cf_dictionary_index_make(dictionary, index_memory).code == CF_OK);
    const cf_dictionary_index *index = (const cf_dictionary_index *)(void *)index_memory;
    const size_t with = check_round_trip(kernels, dictionary, index);
    const size_t without = check_round_trip(kernels, NULL, NULL);
    CHECK(with < without);
    free(index_memory);
    free(memory);
    free(bytes);
    free(scratch);

    printf("%d checks, %s\n", n_checks, n_failures == 0 ? "passed" : "FAILED");
    return n_failures != 0;
}
