/* Runs one kernel of the core TIMES times on rows out of files: see arm.py, which counts.
 *
 *     arm KERNEL TABLE TIMES TEXT BLOCK DICTIONARY
 */
#include <stdio.h>
#include <stdlib.h>

#include "cf_block.h"
#include "cf_gradient.h"
#include "cf_libsvm.h"
#include "cf_localize.h"
#include "cf_train.h"

enum { BATCH = 200 };

static uint8_t *read_file(const char *path, size_t *n) {
    FILE *const file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        exit(2);
    *n = (size_t)ftell(file);
    rewind(file);
    uint8_t *const bytes = malloc(*n + 1);
    if (bytes == NULL || fread(bytes, 1, *n, file) != *n)
        exit(2);
    fclose(file);
    return bytes;
}

static void *room_for(size_t n, size_t size) {
    void *const memory = calloc(n + 64, size);
    return memory ? memory : (exit(2), NULL);
}

static void must(cf_status status) {
    if (status.code != CF_OK) {
        fprintf(stderr, "%s\n", cf_strerror(status.code));
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 7)
        return 2;
    const char *const what = argv[1];
    const cf_kernels *kernels = NULL, *scalar = NULL;
    for (size_t i = 0; cf_kernels_at(i) != NULL; i++) {
        scalar = cf_kernels_at(i);
        if (strcmp(scalar->name, argv[2]) == 0)
            kernels = scalar;
    }
    if (kernels == NULL)
        return 2;
    size_t n_text, n_block, n_dictionary, n_words, n_distinct;
    const uint8_t *const text = read_file(argv[4], &n_text);
    const uint8_t *const block = read_file(argv[5], &n_block);
    const uint8_t *const raw = read_file(argv[6], &n_dictionary);

    must(cf_dictionary_measure(raw, n_dictionary, &n_words));
    uint64_t *const memory = room_for(n_words, 8);
    must(cf_dictionary_parse(scalar, raw, n_dictionary, 0, memory, n_words));
    const cf_dictionary *const dictionary = (const cf_dictionary *)(void *)memory;
    cf_block_header h;
    must(cf_block_read_header(block, n_block, &h));
    uint64_t *const scratch = room_for(cf_block_decode_scratch(&h, 0), 8);
    cf_block_rows rows = {
        .labels = room_for(h.n_rows, 4),
        .indptr = room_for(h.n_rows + 1, 8),
        .indices = room_for(h.nnz, 4),
        .data = room_for(h.nnz, 4),
    };
    const cf_block_options options = {1, 0, 0};
    must(cf_block_decode(scalar, block, n_block, &h, dictionary, options, scratch, &rows));
    const size_t n_ids = rows.n_features;
    cf_csr csr = {rows.labels, rows.indptr, rows.indices, rows.data, NULL, h.n_rows, h.nnz};
    uint32_t *const order = room_for(h.n_rows, 4);
    for (uint32_t i = 0; i < h.n_rows; i++)
        order[i] = i;

    cf_local_table table = {NULL, cf_block_minibatches_stamps(&h, dictionary), 1};
    table.stamps = room_for(table.n_stamps, 4);
    uint64_t *const batch_scratch = room_for(cf_block_minibatches_scratch(&h, BATCH), 8);
    cf_block_minibatches batches = {
        .labels = room_for(h.n_rows, 4),
        .indptr = room_for(h.n_rows + 1, 8),
        .local = room_for(h.nnz, 4),
        .data = room_for(h.nnz, 4),
        .ids = room_for(h.nnz, 4),
        .offsets = room_for(h.n_rows, 8),
    };
    uint32_t *const local = room_for(h.nnz, 4), *const distinct = room_for(h.nnz, 4);
    must(cf_localize(csr.indices, (size_t)csr.indptr[BATCH], room_for(n_ids, 4), n_ids, local,
                     distinct, &n_distinct));
    float *const weights = room_for(n_distinct, 4), *const gradient = room_for(n_distinct, 4);

    cf_train_model model = {.n_ids = n_ids, .fit_intercept = true, .class_weight = {1, 1}};
    model.optimizer = (cf_optimizer){CF_ADAGRAD, 0.1f, 1.0f};
    if (strcmp(what, "ftrl") == 0)
        model.optimizer.kind = CF_FTRL;
    if (strcmp(what, "sgd") == 0)
        model.optimizer.kind = CF_SGD;
    model.state = room_for(2 * (n_ids + 1), 4);
    cf_optimizer_clear(model.optimizer, model.state, n_ids + 1);

    cf_libsvm_rows parsed = {
        .row_room = h.n_rows,
        .entry_room = h.nnz,
        .labels = room_for(h.n_rows, 4),
        .row_ends = room_for(h.n_rows, 8),
        .indices = room_for(h.nnz, 4),
        .data = room_for(h.nnz, 4),
    };
    const cf_libsvm_options as_written = {.base = 1, .max_id = CF_LIBSVM_MAX_ID};

    for (long times = atol(argv[3]); times > 0; times--) {
        size_t lines, colons;
        cf_train_total total;
        if (strcmp(what, "count") == 0) {
            kernels->count_lines_colons(text, n_text, &lines, &colons);
        } else if (strcmp(what, "crc") == 0) {
            kernels->crc32c(0, text, n_text);
        } else if (strcmp(what, "parse") == 0) {
            parsed.n_rows = parsed.n_entries = 0;
            must(cf_libsvm_fill(kernels, &as_written, text, n_text, 0, n_text, &parsed));
        } else if (strcmp(what, "decode") == 0) {
            must(cf_block_decode(kernels, block, n_block, &h, dictionary, options, scratch, &rows));
        } else if (strcmp(what, "minibatches") == 0) {
            must(cf_block_decode_minibatches(kernels, block, n_block, &h, dictionary, options,
                                             BATCH, &table, batch_scratch, &batches));
        } else if (strcmp(what, "gradient") == 0) {
            const cf_minibatch batch = {&csr, NULL, BATCH, local, {1, 1}};
            cf_gradient_sum(&batch, weights, n_distinct, 0, gradient, NULL);
        } else {
            must(cf_train(kernels, &model, &csr, order, h.n_rows, 1, NULL, &total));
        }
    }
    return 0;
}
