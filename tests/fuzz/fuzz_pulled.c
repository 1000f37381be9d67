/* Fuzzes what a worker does at a step: finding the ids of rows, their set, parts of shards, the
 * gradient, and answers as they come from a server. All tables of kernels must agree, and a set
 * must be what cf_id_set_write makes of the same ids. */
#include "cf_id_set.h"
#include "cf_pulled.h"
#include "cf_shard.h"
#include "cf_step.h"
#include "fuzz_arrays.h"

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    if (i >= 12 || room < 300)
        return 0;
    for (size_t k = 0; k < 300; k++)
        out[k] = (uint8_t)(k * (2 * i + 3) % 239);
    out[0] = (uint8_t)i;
    return 300;
}

/* An answer is read the same however much of it is there. */
static void read_answer(const uint8_t *data, size_t n) {
    const uint8_t *string = NULL;
    size_t n_string = 0, n_whole = 0;
    const cf_frame whole = cf_answer_frame(data, n, &string, &n_string, &n_whole);
    if (whole == CF_FRAME_WHOLE) {
        CHECK(n_whole <= n && string + n_string + 2 == data + n_whole);
        CHECK(cf_answer_frame(data, n_whole - 1, &string, &n_string, &n_whole) == CF_FRAME_PART);
    }
    uint8_t *const frame = exactly(n_string + CF_FRAME_ROOM + 1);
    uint8_t *const end = frame + n_string + CF_FRAME_ROOM + 1;
    if (whole == CF_FRAME_WHOLE) { /* and what is written around a request is such a string */
        memcpy(end - n_string - 1, string, n_string);
        const uint8_t *const begin = cf_request_frame("$", 1, n_string, end - n_string - 1);
        const uint8_t *again = NULL;
        size_t n_again = 0;
        CHECK(begin >= frame);
        CHECK(cf_answer_frame(begin, (size_t)(end - begin), &again, &n_again, &n_whole) ==
              CF_FRAME_PART);
        CHECK(n_again == n_string && again == end - n_string - 1);
    }
    free(frame);
}

static void check_shards(const uint32_t *ids, size_t n, uint32_t n_shards) {
    float *const values = exactly(4 * n), *const back = exactly(4 * n);
    size_t taken = 0;
    for (size_t i = 0; i < n; i++)
        values[i] = (float)i;
    for (uint32_t shard = 0; shard < n_shards; shard++) {
        uint32_t *const here = exactly(4 * n);
        const size_t n_here = cf_shard_ids(ids, n, n_shards, shard, here);
        float *const some = exactly(4 * n_here);
        cf_shard_take(ids, n, n_shards, shard, values, some);
        for (size_t i = 0; i < n_here; i++)
            CHECK(ids[(size_t)some[i]] == here[i] * n_shards + shard);
        cf_shard_put(ids, n, n_shards, shard, (const uint8_t *)some, back);
        taken += n_here;
        free(some);
        free(here);
    }
    CHECK(taken == n && same_bytes(values, back, 4 * n));
    free(values);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const size_t SIZES[] = {0, 1, 64, 100, 9000, 70000, (1 << 20) + 65};
    byte_source in = {data, data + n};
    const size_t n_ids = SIZES[take_byte(&in) % 7];
    const uint32_t n_shards = 1 + take_byte(&in) % 5u;
    const fuzz_csr csr = take_csr(&in, n_ids);
    for (size_t k = 0; n_ids > 256 && k < csr.rows.nnz; k++) { /* near ids, and far ones */
        uint32_t *const ids = csr.owned[1];
        ids[k] = ids[k] < 256 && k % 3 ? ids[k] * (uint32_t)(n_ids / 256) : ids[k];
    }
    const size_t n_order = take_byte(&in) % 30;
    uint32_t *const order = take_ids(&in, n_order, csr.rows.n_rows);
    const size_t n_words = cf_pulled_words(n_ids);
    uint64_t *const bits = exactly(8 * n_words);
    uint32_t *const before = exactly(4 * (n_ids / 64 + 1));
    memset(bits, 0, 8 * n_words);
    const cf_pulled_scratch scratch = {bits, before, n_ids};
    size_t n_entries = 0, first_distinct = 0;
    uint32_t *first = NULL;
    if (cf_pulled_entries(&csr.rows, order, n_order, &n_entries).code == CF_OK) {
        for (size_t i = 0; usable_kernels(i); i++) {
            uint32_t *const local = exactly(4 * (2 * n_entries + 1));
            size_t distinct;
            const cf_status status = cf_pulled_localize(usable_kernels(i), &csr.rows, order,
                                                        n_order, &scratch, local, &distinct);
            if (status.code == CF_OK) {
                uint32_t *const ids = exactly(4 * distinct);
                uint8_t *const set = exactly(cf_id_set_bound(distinct, n_ids));
                uint8_t *const same = exactly(cf_id_set_bound(distinct, n_ids));
                const size_t length = cf_pulled_write_set(&scratch, distinct, set);
                CHECK(cf_pulled_localize(usable_kernels(i), &csr.rows, order, n_order, &scratch,
                                         local, &distinct)
                          .code == CF_OK);
                cf_pulled_take_ids(&scratch, distinct, ids);
                CHECK(cf_ids_increase(ids, distinct, n_ids));
                CHECK(cf_id_set_write(ids, distinct, same) == length);
                CHECK(same_bytes(set, same, length));
                size_t k = 0;
                for (size_t row = 0; row < n_order; row++)
                    for (int64_t at = csr.rows.indptr[order[row]];
                         at < csr.rows.indptr[order[row] + 1]; at++, k++)
                        CHECK(local[k] < distinct && ids[local[k]] == csr.rows.indices[at]);
                CHECK(!first ||
                      (distinct == first_distinct && same_bytes(first, local, 4 * n_entries)));
                check_shards(ids, distinct, n_shards);
                const cf_minibatch batch = {&csr.rows, order, n_order, local, {1, 1}};
                float *const w = exactly(4 * distinct), *const gradient = exactly(4 * distinct);
                memset(w, 0, 4 * distinct);
                cf_gradient_total total;
                CHECK(cf_pulled_gradient(&batch, n_entries, w, distinct, 0, gradient, NULL, &total)
                          .code == CF_OK);
                CHECK(cf_pulled_gradient(&batch, n_entries + 1, w, distinct, 0, gradient, NULL,
                                         &total)
                          .code != CF_OK);
                free(w);
                free(gradient);
                free(ids);
                free(set);
                free(same);
                free(first);
                first = local;
                first_distinct = distinct;
            } else {
                free(local);
            }
            for (size_t word = 0; word < n_words; word++)
                CHECK(bits[word] == 0);
        }
    }
    free(first);
    free(order);
    free(bits);
    free(before);
    free_csr(csr);
    read_answer(data, n);
    return 0;
}
