/* Fuzzes the kernels that take arrays: whatever the arrays say, nothing outside them is read or
 * written, and what is reported fits what was asked. One mini-batch trained at once equals the two
 * halves of a step, to the bit. All kernels this CPU has refuse the same rows. */
#include "cf_auc.h"
#include "cf_columns.h"
#include "cf_localize.h"
#include "cf_logistic.h"
#include "cf_prepare.h"
#include "cf_train.h"
#include "fuzz_arrays.h"

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) { return plain_seed(i, out, room); }

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* ---- rows and columns ---- */

static void check_take(const cf_csr *rows, const uint32_t *order, size_t n_order, size_t room) {
    float *labels = exactly(4 * n_order), *weights = exactly(4 * n_order);
    int64_t *indptr = exactly(8 * (n_order + 1));
    uint32_t *indices = exactly(4 * room);
    float *data = exactly(4 * room);
    const cf_status status = cf_csr_take(rows, order, n_order, labels, indptr, indices, data,
                                         rows->weights ? weights : NULL, room);
    CHECK(status.code == CF_OK || status.code == CF_E_ROW || status.code == CF_E_INDPTR ||
          status.code == CF_E_ROOM);
    for (size_t i = 0; status.code == CF_OK && i < n_order; i++) {
        const size_t begin = (size_t)rows->indptr[order[i]],
                     n = (size_t)(indptr[i + 1] - indptr[i]);
        CHECK(n == (size_t)rows->indptr[order[i] + 1] - begin);
        CHECK(same_bytes(indices + indptr[i], rows->indices + begin, 4 * n));
        CHECK(same_bytes(data + indptr[i], rows->data + begin, 4 * n));
        CHECK(same_bytes(labels + i, rows->labels + order[i], 4));
    }
    free(labels);
    free(weights);
    free(indptr);
    free(indices);
    free(data);
}

static void check_columns(byte_source *in, const cf_csr *rows, size_t n_ids) {
    uint32_t *ones = exactly(4 * n_ids);
    cf_column *others = exactly(n_ids * sizeof *others);
    cf_column *columns = exactly(n_ids * sizeof *columns);
    if (n_ids) {
        memset(ones, 0, 4 * n_ids);
        memset(others, 0, n_ids * sizeof *others);
        memset(columns, 0, n_ids * sizeof *columns);
    }
    uint32_t *met = exactly(4 * n_ids);
    cf_column_table table = {ones, others, met, n_ids, 0};
    const cf_status status = cf_columns_scan(rows->indices, rows->data, rows->nnz, &table);
    CHECK(status.code == CF_OK || rows->indices[status.offset] >= n_ids);
    uint64_t total = 0;
    size_t n_used = 0;
    for (size_t i = 0; i < n_ids; i++) {
        total += ones[i] + others[i].count;
        n_used += others[i].count != 0;
        columns[i] = others[i];
    }
    CHECK(table.n_met == n_used);
    for (size_t i = 0; i < table.n_met; i++)
        CHECK(met[i] < n_ids && others[met[i]].count > 0);
    CHECK(total == (status.code == CF_OK ? rows->nnz : status.offset));

    /* Two lists with ids that should increase; here they do or do not. */
    const size_t n_a = n_ids / 2, n_b = n_ids - n_a;
    uint32_t *a = take_ids(in, n_a, n_ids), *b = take_ids(in, n_b, n_ids);
    uint32_t *ids = exactly(4 * n_ids);
    cf_column *merged = exactly(n_ids * sizeof *merged);
    const size_t n = cf_columns_merge(a, columns, n_a, b, columns + n_a, n_b, ids, merged);
    CHECK(n <= n_ids && n >= (n_a > n_b ? n_a : n_b));
    uint64_t kept = 0;
    for (size_t i = 0; i < n; i++)
        kept += merged[i].count;
    for (size_t i = 0; i < n_ids; i++)
        kept += ones[i];
    CHECK(kept == total);

    const size_t n_pairs = take_byte(in) % (n_ids + 1);
    float *pairs = take_floats(in, 2 * n_pairs);
    float *scaled = exactly(4 * rows->nnz), *in_place = copy_exactly(rows->data, 4 * rows->nnz);
    cf_columns_scale(rows->indices, rows->data, rows->nnz, pairs, n_pairs, scaled);
    cf_columns_scale(rows->indices, in_place, rows->nnz, pairs, n_pairs, in_place);
    CHECK(same_bytes(scaled, in_place, 4 * rows->nnz));
    free(ones);
    free(others);
    free(met);
    free(columns);
    free(a);
    free(b);
    free(ids);
    free(merged);
    free(pairs);
    free(scaled);
    free(in_place);
}

static void check_localize(byte_source *in, const uint32_t *ids, size_t nnz, size_t n_ids) {
    uint32_t *table = take_ids(in, n_ids, nnz), *distinct = exactly(4 * (nnz + 1));
    uint32_t *local = copy_exactly(ids, 4 * nnz); /* in place, as cf_train does it */
    size_t n = SIZE_MAX;
    const cf_status status = cf_localize(local, nnz, table, n_ids, local, distinct, &n);
    if (status.code == CF_OK) {
        CHECK(n <= nnz);
        for (size_t i = 0; i < nnz; i++)
            CHECK(local[i] < n && distinct[local[i]] == ids[i]);
        for (size_t i = 0; i < n; i++)
            CHECK(table[distinct[i]] == i);
    } else {
        CHECK(status.code == CF_E_ID && ids[status.offset] >= n_ids);
    }
    free(table);
    free(distinct);
    free(local);
}

/* ---- loss and gradient ---- */

static void check_logistic(byte_source *in, const cf_csr *rows, size_t n_ids) {
    float *w = take_floats(in, n_ids), *gradient = exactly(4 * n_ids);
    float *margins = exactly(4 * rows->n_rows), *p = exactly(4 * rows->n_rows);
    const float intercept = take_float(in);
    memset(margins, 0, 4 * rows->n_rows);
    const cf_status status = cf_logistic_margins(rows, w, n_ids, intercept, margins);
    CHECK(status.code == CF_OK || (status.code == CF_E_INDPTR && status.offset < rows->n_rows));
    const cf_logistic_total loss =
        cf_logistic_loss(margins, rows->labels, rows->weights, rows->n_rows);
    CHECK(rows->weights != NULL || loss.weight_sum == (double)rows->n_rows);
    CHECK(rows->weights != NULL || (loss.correct >= 0 && loss.correct <= loss.weight_sum));
    cf_logistic_probabilities(margins, rows->n_rows, p);
    cf_logistic_probabilities(margins, rows->n_rows, margins);
    CHECK(same_bytes(p, margins, 4 * rows->n_rows));
    for (size_t i = 0; i < rows->n_rows; i++)
        CHECK(isnan(p[i]) || (p[i] >= 0 && p[i] <= 1));
    uint64_t *sorted = exactly(16 * rows->n_rows);
    const cf_auc_sums auc = cf_auc(margins, rows->labels, rows->weights, rows->n_rows, sorted);
    CHECK(rows->weights != NULL || (auc.won >= 0 && auc.won <= auc.positive * auc.negative));
    free(sorted);
    cf_gradient_total total;
    const cf_status pushed = cf_logistic_gradient(rows, w, n_ids, intercept, gradient, &total);
    CHECK(pushed.code == CF_OK || pushed.code == CF_E_INDPTR || pushed.code == CF_E_ID);
    free(w);
    free(gradient);
    free(margins);
    free(p);
}

/* ---- training ---- */

static float divided(const cf_places *places, float value, uint32_t place) {
    const size_t last = places->n_divisors - 1;
    return value / places->divisors[place < last ? place : last];
}

/* Entries where they are: the first without a place is told, and from some place before it on all
 * are as they were. */
static void check_in_place(const cf_kernels *kernels, const cf_csr *rows, const cf_places *places) {
    uint32_t *const indices = copy_exactly(rows->indices, 4 * rows->nnz);
    float *const data = copy_exactly(rows->data, 4 * rows->nnz);
    const cf_status status = cf_prepare_entries(kernels, places, indices, data, rows->nnz);
    size_t n = 0, done = rows->nnz;
    while (n < rows->nnz && places->n_divisors > 0 && rows->indices[n] < places->n_ids &&
           places->of[rows->indices[n]] < places->n_places)
        n++;
    CHECK(n == rows->nnz ? status.code == CF_OK : status.code == CF_E_ID && status.offset == n);
    while (n < rows->nnz && done > 0 && indices[done - 1] == rows->indices[done - 1] &&
           same_bytes(data + done - 1, rows->data + done - 1, 4))
        done--;
    CHECK(done <= n);
    for (size_t k = 0; k < done; k++) {
        const float quotient = divided(places, rows->data[k], indices[k]);
        CHECK(indices[k] == places->of[rows->indices[k]]);
        CHECK(isnan(quotient) ? isnan(data[k]) : same_bytes(&quotient, data + k, 4));
    }
    free(indices);
    free(data);
}

static void check_prepare(byte_source *in, const cf_csr *rows, size_t n_ids, const uint32_t *order,
                          size_t n_order, size_t room) {
    const size_t n_places = n_ids / 2, first_entry = take_byte(in);
    uint32_t *place = take_ids(in, n_ids, n_places);
    const size_t n_divisors = n_places ? 1 + take_byte(in) % n_places : 0;
    float *divisors = take_floats(in, n_divisors);
    float *labels = exactly(4 * n_order), *weights = exactly(4 * n_order);
    int64_t *indptr = exactly(8 * (n_order + 1));
    uint32_t *indices = exactly(4 * room);
    float *data = exactly(4 * room);
    const cf_places places = {place, divisors, n_ids, n_places, n_divisors};
    cf_status status = cf_ok();
    for (size_t i = 0; usable_kernels(i); i++) {
        const cf_status found =
            cf_prepare(usable_kernels(i), rows, order, n_order, &places, first_entry, labels,
                       indptr, indices, data, rows->weights ? weights : NULL, room);
        CHECK(i == 0 || (found.code == status.code && found.offset == status.offset));
        status = found;
        check_in_place(usable_kernels(i), rows, &places);
    }
    CHECK(status.code == CF_OK || status.code == CF_E_ROW || status.code == CF_E_INDPTR ||
          status.code == CF_E_ROOM || status.code == CF_E_ID);
    for (size_t i = 0; status.code == CF_OK && i < n_order; i++) {
        const size_t begin = (size_t)rows->indptr[order[i]],
                     n = (size_t)(indptr[i + 1] - indptr[i]);
        CHECK(n == (size_t)rows->indptr[order[i] + 1] - begin);
        for (size_t k = 0; k < n; k++) {
            const size_t at = (size_t)indptr[i] - first_entry + k;
            const uint32_t id = indices[at];
            CHECK(id < n_places && id == place[rows->indices[begin + k]]);
            const float quotient = divided(&places, rows->data[begin + k], id);
            CHECK(isnan(quotient) ? isnan(data[at]) : same_bytes(&quotient, data + at, 4));
        }
    }
    free(place);
    free(divisors);
    free(labels);
    free(weights);
    free(indptr);
    free(indices);
    free(data);
}

/* Steps of one row by every kernel, with hot copies or without. */
static void check_kernels(byte_source *in, cf_train_model model, const cf_csr *rows,
                          const uint32_t *order, size_t n_order) {
    const size_t width = cf_optimizer_width(model.optimizer.kind);
    const uint8_t flags = take_byte(in);
    const size_t n_hot = model.n_ids ? flags % (model.n_ids + 1) : 0, n_threads = 1 + flags % 3u;
    const size_t n_published = n_threads * (n_hot + 1) * width;
    cf_train_total first = {0, 0, 0, 0};
    cf_status expected = cf_ok();
    for (size_t i = 0; usable_kernels(i); i++) {
        cf_train_model mine = model;
        cf_hot hot = {n_hot,
                      1 + flags / 16u,
                      n_threads,
                      flags % n_threads,
                      exactly(4 * n_published),
                      exactly(4 * (n_hot + 1) * width),
                      exactly(4 * (n_hot + 1) * width)};
        for (size_t k = 0; k < n_published; k++)
            hot.published[k] = 0;
        mine.state = copy_exactly(model.state, 4 * (model.n_ids + 1) * width);
        mine.hot = flags & 8 ? &hot : NULL;
        cf_train_total total;
        const cf_status status =
            cf_train(usable_kernels(i), &mine, rows, order, n_order, 1, NULL, &total);
        if (i == 0) {
            first = total;
            expected = status;
        }
        CHECK(status.code == expected.code && status.offset == expected.offset);
        CHECK(total.n_rows == first.n_rows && total.n_updates == total.n_rows);
        CHECK(total.weight_sum == first.weight_sum || isnan(first.weight_sum));
        CHECK(status.code == CF_OK ? total.n_rows == n_order : total.n_rows == status.offset);
        free(mine.state);
        free(hot.published);
        free(hot.own);
        free(hot.seen);
    }
}

static cf_train_scratch make_scratch(byte_source *in, size_t n_ids, size_t room) {
    return (cf_train_scratch){
        .table = take_ids(in, n_ids, room),
        .local = exactly(4 * room),
        .distinct = exactly(4 * (room + 1)),
        .weights = exactly(4 * room),
        .gradient = exactly(4 * room),
        .touches = exactly(4 * room),
        .room = room,
    };
}

static void free_scratch(cf_train_scratch scratch) {
    free(scratch.table);
    free(scratch.local);
    free(scratch.distinct);
    free(scratch.weights);
    free(scratch.gradient);
    free(scratch.touches);
}

/* NaN equals NaN whatever its payload, and 0 equals -0. */
static void check_same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        CHECK(a[i] == b[i] || (isnan(a[i]) && isnan(b[i])));
}

static void check_two_halves(cf_train_model model, const cf_csr *rows, const uint32_t *order,
                             size_t n_order, const cf_train_scratch *scratch) {
    const size_t width = cf_optimizer_width(model.optimizer.kind);
    const size_t n_state = (model.n_ids + 1) * width;
    float *whole = copy_exactly(model.state, 4 * n_state), *halves = model.state;
    cf_train_total total, first_half;
    model.state = whole;
    const cf_status status = cf_train(scalar_kernels(), &model, rows, order, n_order,
                                      n_order < 2 ? 2 : n_order, scratch, &total);
    CHECK(status.code == CF_OK || status.offset == 0);
    CHECK(total.n_updates == (status.code == CF_OK && n_order > 0));

    model.state = halves;
    size_t n = 0;
    float intercept_gradient = 0;
    const cf_status again = cf_train_gradient(&model, rows, order, n_order, scratch, &n,
                                              &intercept_gradient, &first_half);
    CHECK(again.code == status.code);
    if (again.code == CF_OK) {
        CHECK(n <= scratch->room);
        uint32_t *ids = copy_exactly(scratch->distinct, 4 * n);
        float *gradient = copy_exactly(scratch->gradient, 4 * n);
        float *touches = copy_exactly(scratch->touches, 4 * n);
        CHECK(cf_train_apply(&model, ids, gradient, touches, n, intercept_gradient, scratch).code ==
              CF_OK);
        if (n_order > 0)
            check_same_floats(halves, whole, n_state);
        free(ids);
        free(gradient);
        free(touches);
    }
    free(whole);
}

static void check_training(byte_source *in, const cf_csr *rows, size_t n_ids, const uint32_t *order,
                           size_t n_order) {
    static const double SEEN[] = {0, 1, 1e9, 1e300};
    const uint8_t flags = take_byte(in), sizes = take_byte(in);
    cf_train_model model = {
        .optimizer = {(cf_optimizer_kind)(flags % 3), fabsf(take_float(in)) + 1e-6f,
                      fabsf(take_float(in)) + 1e-6f},
        .n_ids = n_ids,
        .fit_intercept = flags >> 2 & 1,
        .intercept_rate = 1,
        .class_weight = {1, take_float(in)},
        .rows_seen = SEEN[flags >> 3 & 3],
    };
    const size_t width = cf_optimizer_width(model.optimizer.kind);
    const size_t n_penalties = flags & 32 && n_ids ? 1 + take_byte(in) % n_ids : 0;
    float *penalties = take_floats(in, 2 * n_penalties);
    cf_penalty *pairs = copy_exactly(penalties, 8 * n_penalties);
    model.penalties = (cf_penalties){pairs, n_penalties};
    float *state = exactly(4 * (n_ids + 1) * width), *weights = exactly(4 * n_ids);
    cf_optimizer_clear(model.optimizer, state, n_ids + 1);
    cf_optimizer_set(model.optimizer, state + n_ids * width, take_float(in));
    model.state = state;

    cf_train_scratch scratch = make_scratch(in, n_ids, sizes % 64u);
    const size_t minibatch = sizes % 5 == 0 ? 1 : sizes == 0xff ? SIZE_MAX : 1 + sizes / 16u;
    cf_train_total total;
    check_kernels(in, model, rows, order, n_order);
    const cf_status status =
        cf_train(scalar_kernels(), &model, rows, order, n_order, minibatch, &scratch, &total);
    CHECK(total.n_rows <= n_order);
    if (status.code == CF_OK) {
        CHECK(total.n_rows == n_order);
        CHECK(total.n_updates == n_order / minibatch + (n_order % minibatch != 0));
    } else {
        CHECK(status.offset < n_order && status.offset == total.n_rows);
        CHECK(total.n_updates == status.offset / minibatch);
    }
    cf_optimizer_weights(model.optimizer, state, n_ids, model.penalties, 1e6, weights);
    check_two_halves(model, rows, order, smaller(n_order, 1 + sizes / 8u), &scratch);

    /* Gradients from other workers: any ids, more of them than there is room for as well. */
    const size_t n = take_byte(in) % 80;
    uint32_t *ids = take_ids(in, n, n_ids);
    float *gradient = take_floats(in, n), *touches = take_floats(in, n);
    const cf_status applied =
        cf_train_apply(&model, ids, gradient, touches, n, take_float(in), &scratch);
    CHECK(applied.code == CF_OK || (applied.code == CF_E_ROOM && n > scratch.room) ||
          (applied.code == CF_E_ID && ids[applied.offset] >= n_ids));
    free(ids);
    free(gradient);
    free(touches);
    free_scratch(scratch);
    free(penalties);
    free(pairs);
    free(state);
    free(weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    byte_source in = {data, data + n};
    const size_t n_ids = take_byte(&in) % 48, n_order = take_byte(&in) % 40;
    const fuzz_csr csr = take_csr(&in, n_ids);
    uint32_t *order = take_ids(&in, n_order, csr.rows.n_rows);
    check_take(&csr.rows, order, n_order, take_byte(&in));
    check_prepare(&in, &csr.rows, n_ids, order, n_order, take_byte(&in));
    check_training(&in, &csr.rows, n_ids, order, n_order);
    check_logistic(&in, &csr.rows, n_ids);
    check_localize(&in, csr.rows.indices, csr.rows.nnz, n_ids);
    check_columns(&in, &csr.rows, n_ids);
    free(order);
    free_csr(csr);
    return 0;
}
