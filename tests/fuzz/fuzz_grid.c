/* Fuzzes the kernels that train sixteen models side by side: whatever the arrays say, nothing
 * outside them is read or written, and all kernels this CPU has agree to the bit, on what they
 * refuse as well. */
#include "cf_grid.h"
#include "fuzz_arrays.h"

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) { return plain_seed(i, out, room); }

/* NaN equals NaN whatever its payload, and 0 equals -0. */
static void check_same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        CHECK(a[i] == b[i] || (isnan(a[i]) && isnan(b[i])));
}

static void check_same_losses(const cf_grid_model *model, const cf_grid_total *a,
                              const cf_grid_total *b) {
    CHECK(a->n_rows == b->n_rows && a->n_updates == b->n_updates);
    CHECK(a->weight_sum == b->weight_sum || isnan(a->weight_sum));
    for (size_t lane = 0; lane < CF_GRID_LANES; lane++)
        if (model->active >> lane & 1)
            CHECK(a->loss_sum[lane] == b->loss_sum[lane] ||
                  (isnan(a->loss_sum[lane]) && isnan(b->loss_sum[lane])));
}

typedef struct {
    uint32_t *table, *local, *distinct, *n_distinct;
    cf_grid_batches batches;
} owned_batches;

/* Mini-batches of the rows, or of what the input says they are. */
static bool take_batches(byte_source *in, const cf_csr *rows, const uint32_t *order, size_t n_order,
                         size_t n_ids, size_t size, owned_batches *own) {
    const size_t room = take_byte(in), n_batches = (n_order + size - 1) / size;
    *own = (owned_batches){
        .table = take_ids(in, n_ids, room),
        .local = exactly(4 * room),
        .distinct = exactly(4 * (room + 1)),
        .n_distinct = exactly(4 * n_batches),
        .batches = {.minibatch_size = size},
    };
    const cf_status status = cf_grid_localize(rows, order, n_order, n_ids, own->table, own->local,
                                              own->distinct, room, own->n_distinct, &own->batches);
    CHECK(own->batches.n_local <= room && own->batches.n_all_distinct <= own->batches.n_local);
    CHECK(own->batches.n_batches <= n_batches);
    if (status.code == CF_OK) {
        CHECK(own->batches.n_batches == n_batches);
    } else {
        CHECK(status.offset < n_order && status.offset % size == 0);
    }
    /* Spoilt: what is checked is not only what was made. */
    const uint8_t spoil = take_byte(in);
    if (spoil >= 0xc0 && own->batches.n_local)
        own->local[spoil % own->batches.n_local] = take_u32(in);
    if (spoil >= 0xb0 && own->batches.n_all_distinct)
        own->distinct[spoil % own->batches.n_all_distinct] = take_u32(in);
    if (spoil >= 0xa0 && own->batches.n_batches)
        own->n_distinct[spoil % own->batches.n_batches] = take_u32(in);
    return status.code == CF_OK && spoil < 0xa0;
}

static void free_batches(owned_batches own) {
    free(own.table);
    free(own.local);
    free(own.distinct);
    free(own.n_distinct);
}

static void check_measure(const cf_grid_model *model, const cf_csr *rows) {
    cf_grid_total first = {0};
    cf_status expected = cf_ok();
    float *kept = NULL;
    for (size_t i = 0; usable_kernels(i); i++) {
        float *margins = exactly(4 * CF_GRID_LANES * rows->n_rows);
        cf_grid_total total;
        const cf_status status = cf_grid_measure(usable_kernels(i), model, rows, margins, &total);
        if (i == 0) {
            first = total;
            expected = status;
            kept = margins;
        }
        CHECK(status.code == expected.code && status.offset == expected.offset);
        check_same_losses(model, &total, &first);
        check_same_floats(margins, kept, total.n_rows * CF_GRID_LANES);
        if (i > 0)
            free(margins);
    }
    free(kept);
}

static void check_lanes(byte_source *in, const cf_csr *rows, size_t n_ids, const uint32_t *order,
                        size_t n_order) {
    static const double SEEN[] = {0, 1, 1e9, 1e300};
    const uint8_t flags = take_byte(in);
    const size_t size = 1 + take_byte(in) % 9;
    cf_grid_model model = {
        .kind = (cf_optimizer_kind)(flags % 3),
        .initial = fabsf(take_float(in)) + 1e-6f,
        .n_ids = n_ids,
        .fit_intercept = flags >> 2 & 1,
        .intercept_rate = 1,
        .rows_seen = SEEN[flags >> 3 & 3],
        .active = take_u32(in) & (flags & 64 ? 0xff : 0xffff),
    };
    float start[CF_GRID_LANES];
    for (size_t lane = 0; lane < CF_GRID_LANES; lane++) {
        model.learning_rate[lane] = fabsf(take_float(in)) + 1e-6f;
        model.l1[lane] = take_float(in);
        model.l2[lane] = take_float(in);
        model.class_weight[0][lane] = take_float(in);
        model.class_weight[1][lane] = 1;
        start[lane] = take_float(in);
    }
    const size_t n_penalties = flags & 32 && n_ids ? 1 + take_byte(in) % n_ids : 0;
    float *penalties = take_floats(in, 2 * n_penalties);
    cf_penalty *pairs = copy_exactly(penalties, 8 * n_penalties);
    model.penalties = (cf_penalties){pairs, n_penalties};
    const size_t n_state = (n_ids + 1) * cf_optimizer_width(model.kind) * CF_GRID_LANES;
    float *state = exactly(4 * n_state), *weights = exactly(4 * n_ids), intercept;
    model.state = state;
    cf_grid_clear(&model, start);
    owned_batches own = {0};
    const bool whole = size == 1 || take_batches(in, rows, order, n_order, n_ids, size, &own);
    const size_t room = take_byte(in);
    cf_grid_scratch scratch = {exactly(4 * CF_GRID_LANES * room), exactly(4 * CF_GRID_LANES * room),
                               exactly(4 * room), room};
    cf_grid_total first = {0};
    cf_status expected = cf_ok();
    float *kept = NULL;
    for (size_t i = 0; usable_kernels(i); i++) {
        cf_grid_model mine = model;
        cf_grid_total total;
        mine.state = copy_exactly(state, 4 * n_state);
        const cf_status status = cf_grid_train(usable_kernels(i), &mine, rows, order, n_order,
                                               size == 1 ? NULL : &own.batches, &scratch, &total);
        if (i == 0) {
            first = total;
            expected = status;
            kept = mine.state;
        }
        CHECK(status.code == expected.code && status.offset == expected.offset);
        if (model.kind ==
            CF_ADAGRAD) { /* whose roots differ between tables, which all may follow */
            CHECK(total.n_rows == first.n_rows && total.n_updates == first.n_updates);
        } else {
            check_same_losses(&model, &total, &first);
            check_same_floats(mine.state, kept, n_state);
        }
        CHECK(status.code == CF_OK ? total.n_rows == n_order : total.n_rows == status.offset);
        CHECK(status.code == CF_OK || !whole || size == 1 || status.code == CF_E_ROOM);
        if (i > 0)
            free(mine.state);
    }
    for (size_t k = 0; k < n_state; k++) /* lanes that are off: as they were, unless no number */
        if (!(model.active >> k % CF_GRID_LANES & 1) && isfinite(state[k]))
            CHECK(kept[k] == state[k] || !isfinite(kept[k]));
    model.state = kept;
    check_measure(&model, rows);
    cf_grid_weights(&model, 1u << flags % CF_GRID_LANES, &weights, &intercept);
    cf_grid_move(&model, flags % CF_GRID_LANES, &model, flags / CF_GRID_LANES);
    free(kept);
    free(state);
    free(weights);
    free(penalties);
    free(pairs);
    free(scratch.weights);
    free(scratch.gradient);
    free(scratch.touches);
    free_batches(own);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    byte_source in = {data, data + n};
    const size_t n_ids = take_byte(&in) % 48, n_order = take_byte(&in) % 40;
    const fuzz_csr csr = take_csr(&in, n_ids);
    uint32_t *order = take_ids(&in, n_order, csr.rows.n_rows);
    check_lanes(&in, &csr.rows, n_ids, order, n_order);
    free(order);
    free_csr(csr);
    return 0;
}
