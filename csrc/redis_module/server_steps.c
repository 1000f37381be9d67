/* Weights read, and steps made, each in a loop of its own for each optimiser. */
#include "server_layout.h"

#include <math.h>
#include <string.h>

#include "cf_lanes.h"

enum { PREFETCH_AHEAD = 16 }; /* coordinates; a model is larger than the nearer caches */

static cf_penalty penalty_of(const server_model *model, uint64_t id, float times) {
    cf_penalty penalty = {0, 0};
    if (model->config.penalized) {
        penalty.l1 = cf_load_f32(model->penalties + 8 * id) * times;
        penalty.l2 = cf_load_f32(model->penalties + 8 * id + 4) * times;
    }
    return penalty;
}

static void put_weight(const server_model *model, cf_optimizer_kind kind, uint64_t id,
                       float rows_seen, uint8_t *out) {
    const size_t width = cf_optimizer_width(kind);
    const uint8_t *const at = model->state + id * width * 4;
    if (kind != CF_FTRL) {
        memcpy(out, at, 4);
        return;
    }
    cf_optimizer optimizer = model->config.optimizer;
    optimizer.kind = kind;
    float state[2];
    load_state(at, width, state);
    cf_store_f32(out, cf_optimizer_weight(optimizer, state, penalty_of(model, id, rows_seen)));
}

static inline void pull_of_kind(const server_model *model, cf_optimizer_kind kind,
                                const uint32_t *ids, size_t n, uint8_t *out) {
    const float rows_seen = (float)model_rows_seen(model);
    const size_t bytes = 4 * cf_optimizer_width(kind);
    for (size_t i = 0; i < n; i++) {
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(model->state + ids[i + PREFETCH_AHEAD] * bytes);
        put_weight(model, kind, ids[i], rows_seen, out + 4 * i);
    }
}

void pull_weights(const server_model *model, const uint32_t *ids, size_t n, uint8_t *out) {
    switch (model->config.optimizer.kind) { /* a constant in each call: each has its own loop */
    case CF_SGD:
        pull_of_kind(model, CF_SGD, ids, n, out);
        break;
    case CF_ADAGRAD:
        pull_of_kind(model, CF_ADAGRAD, ids, n, out);
        break;
    case CF_FTRL:
        pull_of_kind(model, CF_FTRL, ids, n, out);
        break;
    }
}

void snapshot_weights(const server_model *model, uint64_t first, size_t n, uint8_t *out) {
    const float rows_seen = (float)model_rows_seen(model);
    for (size_t i = 0; i < n; i++)
        put_weight(model, model->config.optimizer.kind, first + i, rows_seen, out + 4 * i);
}

float model_intercept(const server_model *model) {
    const size_t width = cf_optimizer_width(model->config.optimizer.kind);
    float state[2];
    load_state(model->state + model->config.n_ids * width * 4, width, state);
    return cf_optimizer_weight(model->config.optimizer, state, (cf_penalty){0, 0});
}

/* Pushes */

static bool is_finite(double value) { return value - value == 0; }

cf_status check_push(const server_model *model, const cf_step *step, const push_scratch *scratch) {
    const cf_step_head *const head = &step->head;
    if (!is_finite(head->intercept_gradient) || !is_finite(head->loss_sum) ||
        !is_finite(head->weight_sum) || !(head->rate >= 0) ||
        !is_finite(head->rate * model->config.optimizer.learning_rate))
        return cf_fail(CF_E_NONFINITE, 0);
    if (charges_touches(model) && head->n_push && head->n_touch_bytes == 0)
        return cf_fail(CF_E_MESSAGE, 52);
    cf_status status = cf_step_push_ids(step, (size_t)model->config.n_ids, scratch->ids);
    if (status.code == CF_OK)
        status = cf_step_check_values(step);
    if (status.code == CF_OK && charges_touches(model))
        status = cf_step_touches(step, scratch->touches);
    return status;
}

/* adagrad without penalties, four coordinates at a time: roots and divisions are most of a step's
 * time, and come in fours. The same operations as cf_optimizer_update's, so the same bits. Returns
 * how many were done. */
static size_t update_fours(const server_model *model, float learning_rate, const uint32_t *ids,
                           const uint8_t *values, size_t n) {
    enum { FOUR = 4 };
    size_t i = 0;
    for (; i + FOUR <= n; i += FOUR) {
        uint8_t *at[FOUR];
        cf_four w, s, root, g;
        for (size_t k = 0; k < FOUR; k++) {
            if (i + k + PREFETCH_AHEAD < n)
                __builtin_prefetch(model->state + ids[i + k + PREFETCH_AHEAD] * (size_t)8, 1);
            at[k] = model->state + ids[i + k] * (size_t)8;
            w[k] = cf_load_f32(at[k]);
            s[k] = cf_load_f32(at[k] + 4);
            g[k] = cf_load_f32(values + 4 * (i + k));
        }
        s = s + g * g;
        for (size_t k = 0; k < FOUR; k++)
            root[k] = sqrtf(s[k]);
        w = w - learning_rate / root * g;
        for (size_t k = 0; k < FOUR; k++) {
            cf_store_f32(at[k], w[k]);
            cf_store_f32(at[k] + 4, s[k]);
        }
    }
    return i;
}

static inline void update_of_kind(const server_model *model, cf_optimizer optimizer,
                                  cf_optimizer_kind kind, const uint32_t *ids,
                                  const uint8_t *values, const float *touches, size_t n) {
    optimizer.kind = kind;
    const size_t width = cf_optimizer_width(kind);
    const float rows_seen = (float)model_rows_seen(model);
    size_t i = 0;
    if (kind == CF_ADAGRAD && !model->config.penalized)
        i = update_fours(model, optimizer.learning_rate, ids, values, n);
    for (; i < n; i++) {
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(model->state + ids[i + PREFETCH_AHEAD] * width * 4, 1);
        uint8_t *const at = model->state + ids[i] * width * 4;
        const float times = kind == CF_FTRL ? rows_seen : touches ? touches[i] : 0.0f;
        float state[2];
        load_state(at, width, state);
        cf_optimizer_update(optimizer, state, cf_load_f32(values + 4 * i),
                            penalty_of(model, ids[i], times));
        store_state(at, width, state);
    }
}

void make_step(server_model *model, const uint32_t *ids, const uint8_t *values,
               const float *touches, size_t n, float intercept_gradient, float rate) {
    cf_optimizer optimizer = model->config.optimizer;
    optimizer.learning_rate *= rate;
    if (optimizer.learning_rate > 0) { /* a rate of 0 learns nothing */
        switch (optimizer.kind) {
        case CF_SGD:
            update_of_kind(model, optimizer, CF_SGD, ids, values, touches, n);
            break;
        case CF_ADAGRAD:
            update_of_kind(model, optimizer, CF_ADAGRAD, ids, values, touches, n);
            break;
        case CF_FTRL:
            update_of_kind(model, optimizer, CF_FTRL, ids, values, touches, n);
            break;
        }
        if (model->config.fit_intercept) {
            const size_t width = cf_optimizer_width(optimizer.kind);
            uint8_t *const at = model->state + model->config.n_ids * width * 4;
            float state[2];
            load_state(at, width, state);
            cf_optimizer_update(optimizer, state, intercept_gradient * model->config.intercept_rate,
                                (cf_penalty){0, 0});
            store_state(at, width, state);
        }
    }
    cf_store_u64(model->head + AT_UPDATES, model_updates(model) + 1);
}

void count_push(server_model *model, const cf_step_head *head) {
    uint8_t *const slot = slot_at(model, head->worker);
    const worker_slot old = get_worker(model, head->worker);
    cf_store_u64(slot + SLOT_UPDATES, old.n_updates + 1);
    cf_store_u64(slot + SLOT_ROWS, old.n_rows + head->n_rows);
    cf_store_f64(slot + SLOT_LOSS, old.loss_sum + head->loss_sum);
    cf_store_f64(slot + SLOT_WEIGHT, old.weight_sum + head->weight_sum);
    cf_store_f64(model->head + AT_ROWS_SEEN, model_rows_seen(model) + head->n_rows);
}

void take_number(server_model *model, const cf_step_head *head) {
    uint8_t *const slot = slot_at(model, head->worker);
    cf_store_u64(slot + SLOT_NUMBER, head->number);
    cf_store_u32(slot + SLOT_STATE, WORKER_ACTIVE);
}

cf_status apply_push(server_model *model, const cf_step *step, const push_scratch *scratch) {
    const cf_step_head *const head = &step->head;
    const cf_status status = check_push(model, step, scratch);
    if (status.code != CF_OK)
        return status;
    make_step(model, scratch->ids, step->values, charges_touches(model) ? scratch->touches : NULL,
              head->n_push, head->intercept_gradient, head->rate);
    take_number(model, head);
    count_push(model, head);
    return status;
}
