#include "cf_replica.h"

#include <string.h>

#include "cf_bitfield.h"
#include "cf_pulled.h"

/* Coordinates are all over the memory: those so many places further on are fetched meanwhile. */
enum { AHEAD = 16 };

/* Found by trial at ten workers: 8 diverges at 32. */
static const float SAFE_TOUCHES = 5.0f, CROWD = 16.0f;

static const float MOST = 2147483520.0f; /* the largest float below 2^31 */

/* The counts of a row that comes next, if there is one. */
static void fetch_counts(const cf_replica *replica, const cf_csr *rows, uint32_t row) {
    size_t begin = 0, end = 0;
    if (row >= rows->n_rows || !cf_csr_row(rows, row, &begin, &end))
        return;
    for (size_t k = begin; k < end; k++)
        if (rows->indices[k] < replica->n)
            __builtin_prefetch(&replica->count[rows->indices[k]], 1);
}

cf_status cf_replica_touch(const cf_replica *replica, const cf_csr *rows, const uint32_t *order,
                           size_t n_order, uint32_t *ids, uint32_t *counts, size_t room,
                           size_t *n_ids) {
    uint32_t *const count = replica->count;
    const size_t intercept = replica->n - 1;
    cf_status status = cf_ok();
    size_t n = 0;
    for (size_t i = 0; i < n_order && status.code == CF_OK; i++) {
        size_t begin = 0, end = 0;
        if (order[i] >= rows->n_rows)
            status = cf_fail(CF_E_ROW, i);
        else if (!cf_csr_row(rows, order[i], &begin, &end))
            status = cf_fail(CF_E_INDPTR, i);
        else if (room - n < end - begin + 1) /* one for the intercept */
            status = cf_fail(CF_E_ROOM, i);
        if (i + 3 < n_order)
            cf_csr_prefetch(rows, order[i + 3]);
        if (i + 1 < n_order)
            fetch_counts(replica, rows, order[i + 1]);
        for (size_t k = begin; status.code == CF_OK && k < end; k++) {
            const uint32_t id = rows->indices[k];
            if (id >= intercept) {
                status = cf_fail(CF_E_ID, i);
                break;
            }
            ids[n] = id; /* no branch on new or seen, as in cf_localize */
            n += count[id] == 0;
            count[id]++;
        }
    }
    cf_pulled_sort(&(cf_pulled_scratch){replica->bits, NULL, replica->n}, ids, n);
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(&count[ids[i + AHEAD]], 1);
        counts[i] = count[ids[i]];
        count[ids[i]] = 0;
    }
    if (status.code == CF_OK && room > n) {
        ids[n] = (uint32_t)intercept;
        counts[n++] = (uint32_t)n_order;
    }
    *n_ids = n;
    return status;
}

void cf_replica_keep(const cf_replica *replica, const uint32_t *ids, size_t n, float *before) {
    if (replica->kind == CF_ADAGRAD)
        for (size_t i = 0; i < n; i++)
            before[i] = replica->state[2 * (size_t)ids[i] + 1];
}

/* What share of a move counts. */
static float damping(const cf_replica *replica, float s, uint32_t count) {
    const float workers = (float)replica->n_workers;
    const float safe = replica->kind == CF_ADAGRAD ? SAFE_TOUCHES * sqrtf(s) : CROWD;
    const float share = safe / (workers * (float)count);
    return share > 1 ? 1 : share < 1 / workers ? 1 / workers : share;
}

static float weight_of(int32_t held) { return (float)held / CF_BITFIELD_SCALE; }

static int32_t add_bounded(int32_t a, int32_t b) {
    const int64_t sum = (int64_t)a + b;
    return (int32_t)(sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum);
}

size_t cf_replica_take(const cf_replica *replica, const uint32_t *ids, const uint32_t *counts,
                       const float *before, size_t n, uint32_t *places, int32_t *amounts,
                       size_t *n_bounded) {
    const size_t width = cf_optimizer_width(replica->kind);
    size_t filled = 0;
    *n_bounded = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t id = ids[i];
        if (i + AHEAD < n) {
            const size_t next = ids[i + AHEAD];
            __builtin_prefetch(replica->state + next * width, 1);
            __builtin_prefetch(&replica->held[next], 1);
            __builtin_prefetch(&replica->sent[next], 1);
            __builtin_prefetch(&replica->residual[next], 1);
        }
        float *const state = replica->state + id * width;
        float share = 1;
        if (replica->n_workers > 1)
            share = damping(replica, width > 1 ? state[1] : 0, counts[i]);
        if (width > 1) {
            const float times = share * (float)replica->n_workers;
            state[1] = before[i] + (times > 1 ? times : 1) * (state[1] - before[i]);
        }
        const float move = state[0] - weight_of(replica->held[id]);
        float amount = share * move * CF_BITFIELD_SCALE + replica->residual[id];
        if (!(fabsf(amount) <= MOST)) {
            amount = amount > 0 ? MOST : amount < 0 ? -MOST : 0; /* NaN: the loss tells */
            ++*n_bounded;
        }
        const int32_t whole = (int32_t)nearbyintf(amount);
        replica->residual[id] = amount - (float)whole;
        replica->held[id] = add_bounded(replica->held[id], whole);
        replica->sent[id] += (uint32_t)whole;
        state[0] = weight_of(replica->held[id]);
        places[filled] = (uint32_t)id;
        amounts[filled] = whole;
        filled += whole != 0;
    }
    return filled;
}

static void settle(const cf_replica *replica, size_t id, int32_t value, uint32_t sent_then) {
    const int32_t since = (int32_t)(replica->sent[id] - sent_then);
    replica->held[id] = add_bounded(value, since);
    replica->state[id * cf_optimizer_width(replica->kind)] = weight_of(replica->held[id]);
}

void cf_replica_settle(const cf_replica *replica, const uint32_t *ids, const int32_t *values,
                       const uint32_t *sent_then, size_t n) {
    for (size_t i = 0; i < n; i++)
        settle(replica, ids[i], values[i], sent_then ? sent_then[i] : replica->sent[ids[i]]);
}

void cf_replica_settle_run(const cf_replica *replica, size_t first, size_t stride,
                           const int32_t *values, const uint32_t *sent_then, size_t n) {
    for (size_t i = 0, id = first; i < n; i++, id += stride)
        settle(replica, id, values[i], sent_then ? sent_then[i] : replica->sent[id]);
}

void cf_replica_gradient(const int32_t *amounts, size_t n, float *gradient) {
    for (size_t i = 0; i < n; i++)
        gradient[i] = -weight_of(amounts[i]);
}

size_t cf_replica_settle_weights(const cf_replica *replica, const uint32_t *ids,
                                 const float *weights, const uint32_t *sent_then, size_t n) {
    size_t n_bounded = 0;
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n) {
            const size_t next = ids[i + AHEAD];
            __builtin_prefetch(replica->state + next * cf_optimizer_width(replica->kind), 1);
            __builtin_prefetch(&replica->held[next], 1);
            __builtin_prefetch(&replica->sent[next]);
        }
        float whole = nearbyintf(weights[i] * CF_BITFIELD_SCALE);
        if (!(fabsf(whole) <= MOST)) {
            whole = whole > 0 ? MOST : whole < 0 ? -MOST : 0;
            n_bounded++;
        }
        settle(replica, ids[i], (int32_t)whole, sent_then ? sent_then[i] : replica->sent[ids[i]]);
    }
    return n_bounded;
}

size_t cf_replica_missing(const cf_replica *replica, const uint32_t *ids, size_t n,
                          const uint32_t *known, size_t n_known, size_t from, uint32_t *missing) {
    size_t filled = 0;
    for (size_t i = 0; i < n_known; i++)
        replica->count[known[i]] = 1;
    for (size_t i = 0; i < n; i++) {
        missing[filled] = ids[i];
        filled += ids[i] >= from && replica->count[ids[i]] == 0;
    }
    for (size_t i = 0; i < n_known; i++)
        replica->count[known[i]] = 0;
    return filled;
}

size_t cf_replica_dense(const cf_replica *replica, const uint32_t *ids, size_t n,
                        size_t bytes_alone) {
    size_t below[33] = {0}; /* ids of so many bits */
    for (size_t i = 0; i < n; i++)
        below[ids[i] ? 32 - __builtin_clz(ids[i]) : 0]++;
    size_t best = 0, saved = 0, found = 0;
    for (unsigned bits = 0; bits <= 32; bits++) {
        size_t range = (size_t)1 << bits;
        if (range > replica->n)
            range = replica->n;
        found += below[bits];
        const size_t alone = found * bytes_alone, together = 4 * range;
        if (alone > together && alone - together > saved) {
            saved = alone - together;
            best = range;
        }
        if (range == replica->n)
            break;
    }
    return best;
}
