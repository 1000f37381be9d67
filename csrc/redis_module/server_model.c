#include "server_model.h"

#include <string.h>

#include "cf_bits.h"

/* Places in the head and in a worker's slot. */
enum {
    AT_FORMAT = 8,
    AT_OPTIMIZER = 12,
    AT_RATE = 16,
    AT_INITIAL = 20,
    AT_IDS = 24,
    AT_WORKERS = 32,
    AT_CONSISTENCY = 36,
    AT_STALENESS = 40,
    AT_EXPIRY = 48,
    AT_FLAGS = 56,
    AT_INTERCEPT_RATE = 60,
    AT_ROWS_SEEN = 64,
    AT_UPDATES = 72,
    AT_HELD = 80,

    SLOT_GENERATION = 0,
    SLOT_STATE = 4,
    SLOT_NUMBER = 8,
    SLOT_UPDATES = 16,
    SLOT_ROWS = 24,
    SLOT_LOSS = 32,
    SLOT_WEIGHT = 40,
    SLOT_SEEN = 48,
    SLOT_HELD = 56,

    RECORD_HEAD = 8, /* u32 worker, u32 bytes of the request that follows */

    PENALIZED = 1,
    FITS_INTERCEPT = 2,
    DIVERGED = 4
};
static const char MAGIC[8] = "CIRRUSPS";
enum { PREFETCH_AHEAD = 16 }; /* coordinates; a model is larger than the nearer caches */

static size_t penalty_bytes(const model_config *config) {
    return config->penalized ? (size_t)config->n_ids * 8 : 0;
}

static size_t state_bytes(const model_config *config) {
    return ((size_t)config->n_ids + 1) * cf_optimizer_width(config->optimizer.kind) * 4;
}

size_t model_bytes(const model_config *config, size_t most) {
    /* 16 bytes a coordinate at most: this cannot overflow after it. */
    if (config->n_ids > most / 4 || config->n_ids > UINT32_MAX - 1 ||
        config->n_workers > MOST_WORKERS)
        return 0;
    const size_t n = MODEL_HEAD + (size_t)config->n_workers * MODEL_SLOT + state_bytes(config) +
                     penalty_bytes(config);
    return n > most ? 0 : n;
}

/* Coordinates lie at odd addresses: two numbers of four bytes each, never an array of floats. */
static void load_state(const uint8_t *at, size_t width, float state[2]) {
    state[0] = cf_load_f32(at);
    state[1] = width > 1 ? cf_load_f32(at + 4) : 0.0f;
}

static void store_state(uint8_t *at, size_t width, const float state[2]) {
    cf_store_f32(at, state[0]);
    if (width > 1)
        cf_store_f32(at + 4, state[1]);
}

static void lay_out(const model_config *config, uint8_t *bytes, server_model *model) {
    model->config = *config;
    model->head = bytes;
    model->slots = bytes + MODEL_HEAD;
    model->state = model->slots + (size_t)config->n_workers * MODEL_SLOT;
    model->penalties = model->state + state_bytes(config);
    model->held = model->penalties + penalty_bytes(config);
    model->fixed_bytes = (size_t)(model->held - bytes);
    model->held_bytes = 0;
}

void create_model(const model_config *config, float intercept, uint64_t now_ms, uint8_t *bytes) {
    server_model model;
    lay_out(config, bytes, &model);
    memset(bytes, 0, model.fixed_bytes);
    memcpy(bytes, MAGIC, sizeof MAGIC);
    cf_store_u32(bytes + AT_FORMAT, MODEL_FORMAT);
    cf_store_u32(bytes + AT_OPTIMIZER, (uint32_t)config->optimizer.kind);
    cf_store_f32(bytes + AT_RATE, config->optimizer.learning_rate);
    cf_store_f32(bytes + AT_INITIAL, config->optimizer.initial);
    cf_store_u64(bytes + AT_IDS, config->n_ids);
    cf_store_u32(bytes + AT_WORKERS, config->n_workers);
    cf_store_u32(bytes + AT_CONSISTENCY, (uint32_t)config->consistency);
    cf_store_u64(bytes + AT_STALENESS, config->staleness);
    cf_store_u64(bytes + AT_EXPIRY, config->expiry_ms);
    cf_store_u32(bytes + AT_FLAGS, (config->penalized ? PENALIZED : 0u) |
                                       (config->fit_intercept ? FITS_INTERCEPT : 0u));
    cf_store_f32(bytes + AT_INTERCEPT_RATE, config->intercept_rate);
    for (uint32_t worker = 0; worker < config->n_workers; worker++)
        cf_store_u64(model.slots + worker * MODEL_SLOT + SLOT_SEEN, now_ms);
    const size_t width = cf_optimizer_width(config->optimizer.kind);
    float state[2] = {0, 0};
    cf_optimizer_clear(config->optimizer, state, 1);
    if (state[1] != 0)
        for (uint64_t id = 0; id < config->n_ids; id++)
            store_state(model.state + id * width * 4, width, state);
    cf_optimizer_set(config->optimizer, state, intercept);
    store_state(model.state + config->n_ids * width * 4, width, state);
}

static bool is_positive(float value) { return value > 0 && value <= 3.4e38f; }

/* Whether create_model could have been called with it. */
static bool is_possible(const model_config *config) {
    return config->optimizer.kind <= CF_FTRL && is_positive(config->optimizer.learning_rate) &&
           is_positive(config->optimizer.initial) && config->n_workers >= 1 &&
           config->consistency <= MODEL_BSP && is_positive(config->intercept_rate);
}

model_verdict open_model(uint8_t *bytes, size_t n, server_model *model) {
    if (n < MODEL_HEAD || memcmp(bytes, MAGIC, sizeof MAGIC) != 0)
        return MODEL_FOREIGN;
    if (cf_load_u32(bytes + AT_FORMAT) != MODEL_FORMAT)
        return MODEL_OTHER_FORMAT;
    const uint32_t kind = cf_load_u32(bytes + AT_OPTIMIZER);
    const uint32_t consistency = cf_load_u32(bytes + AT_CONSISTENCY);
    if (kind > CF_FTRL || consistency > MODEL_BSP)
        return MODEL_DAMAGED;
    const model_config config = {
        .optimizer = {(cf_optimizer_kind)kind, cf_load_f32(bytes + AT_RATE),
                      cf_load_f32(bytes + AT_INITIAL)},
        .n_ids = cf_load_u64(bytes + AT_IDS),
        .n_workers = cf_load_u32(bytes + AT_WORKERS),
        .consistency = (model_consistency)consistency,
        .staleness = cf_load_u64(bytes + AT_STALENESS),
        .expiry_ms = cf_load_u64(bytes + AT_EXPIRY),
        .penalized = cf_load_u32(bytes + AT_FLAGS) & PENALIZED,
        .fit_intercept = cf_load_u32(bytes + AT_FLAGS) & FITS_INTERCEPT,
        .intercept_rate = cf_load_f32(bytes + AT_INTERCEPT_RATE),
    };
    const size_t fixed = model_bytes(&config, n);
    if (fixed == 0 || !is_possible(&config) || cf_load_u64(bytes + AT_HELD) != n - fixed)
        return MODEL_DAMAGED;
    lay_out(&config, bytes, model);
    model->held_bytes = n - fixed;
    return MODEL_OK;
}

uint64_t model_updates(const server_model *model) { return cf_load_u64(model->head + AT_UPDATES); }

double model_rows_seen(const server_model *model) {
    return cf_load_f64(model->head + AT_ROWS_SEEN);
}

bool model_diverged(const server_model *model) {
    return cf_load_u32(model->head + AT_FLAGS) & DIVERGED;
}

void mark_diverged(server_model *model) {
    cf_store_u32(model->head + AT_FLAGS, cf_load_u32(model->head + AT_FLAGS) | DIVERGED);
}

size_t slot_offset(uint32_t worker) { return MODEL_HEAD + (size_t)worker * MODEL_SLOT; }

size_t coordinate_bytes(const server_model *model) {
    return 4 * cf_optimizer_width(model->config.optimizer.kind);
}

size_t coordinate_offset(const server_model *model, uint64_t id) {
    return (size_t)(model->state - model->head) + (size_t)id * coordinate_bytes(model);
}

/* Workers */

static uint8_t *slot_at(const server_model *model, uint32_t worker) {
    return model->head + slot_offset(worker);
}

worker_slot get_worker(const server_model *model, uint32_t worker) {
    const uint8_t *const slot = slot_at(model, worker);
    const uint32_t state = cf_load_u32(slot + SLOT_STATE);
    return (worker_slot){
        .generation = cf_load_u32(slot + SLOT_GENERATION),
        .state = state > WORKER_FINISHED ? WORKER_FINISHED : (worker_state)state,
        .number = cf_load_u64(slot + SLOT_NUMBER),
        .n_updates = cf_load_u64(slot + SLOT_UPDATES),
        .n_rows = cf_load_u64(slot + SLOT_ROWS),
        .loss_sum = cf_load_f64(slot + SLOT_LOSS),
        .weight_sum = cf_load_f64(slot + SLOT_WEIGHT),
        .seen_ms = cf_load_u64(slot + SLOT_SEEN),
        .held = cf_load_u32(slot + SLOT_HELD) != 0,
    };
}

bool join_worker(server_model *model, uint32_t worker, uint32_t generation, worker_state state,
                 uint64_t now_ms) {
    uint8_t *const slot = slot_at(model, worker);
    const worker_slot old = get_worker(model, worker);
    if (generation < old.generation)
        return false;
    if (generation > old.generation) {
        /* What the older one had under way is not known to be whole: the new one does it again. */
        cf_store_u32(slot + SLOT_GENERATION, generation);
        cf_store_u64(slot + SLOT_NUMBER, 0);
        cf_store_u32(slot + SLOT_HELD, 0);
    }
    cf_store_u32(slot + SLOT_STATE, (uint32_t)state);
    cf_store_u64(slot + SLOT_SEEN, now_ms);
    return true;
}

bool leave_worker(server_model *model, uint32_t worker, uint32_t generation) {
    uint8_t *const slot = slot_at(model, worker);
    if (generation < cf_load_u32(slot + SLOT_GENERATION))
        return false;
    cf_store_u32(slot + SLOT_STATE, WORKER_FINISHED);
    return true;
}

void note_worker_seen(server_model *model, uint32_t worker, uint64_t now_ms) {
    cf_store_u64(slot_at(model, worker) + SLOT_SEEN, now_ms);
}

push_verdict judge_push(const server_model *model, const cf_step_head *head) {
    if (head->worker >= model->config.n_workers)
        return PUSH_NOBODY;
    const worker_slot slot = get_worker(model, head->worker);
    if (head->generation != slot.generation)
        return head->generation < slot.generation ? PUSH_FENCED : PUSH_GAP;
    if (head->number == slot.number && slot.held)
        return PUSH_HELD;
    if (head->number <= slot.number)
        return PUSH_DUPLICATE;
    /* A worker that has a push in an open round may have no other. */
    return head->number == slot.number + 1 && !slot.held ? PUSH_NEXT : PUSH_GAP;
}

static bool is_awaited(worker_slot slot) { return slot.state != WORKER_FINISHED; }

static uint64_t slowest_updates(const server_model *model) {
    uint64_t slowest = UINT64_MAX;
    for (uint32_t worker = 0; worker < model->config.n_workers; worker++) {
        const worker_slot slot = get_worker(model, worker);
        if (is_awaited(slot) && slot.n_updates < slowest)
            slowest = slot.n_updates;
    }
    return slowest;
}

bool may_pull(const server_model *model, uint32_t worker) {
    if (worker >= model->config.n_workers)
        return true;
    switch (model->config.consistency) {
    case MODEL_ASYNC:
        break;
    case MODEL_SSP: {
        const uint64_t own = get_worker(model, worker).n_updates;
        const uint64_t slowest = slowest_updates(model);
        return own <= slowest || own - slowest <= model->config.staleness;
    }
    case MODEL_BSP:
        return !get_worker(model, worker).held;
    }
    return true;
}

uint32_t find_silent(const server_model *model, uint32_t waiting, uint64_t now_ms) {
    const model_config *const config = &model->config;
    if (config->expiry_ms == 0 || config->consistency == MODEL_ASYNC)
        return config->n_workers;
    const uint64_t slowest = slowest_updates(model);
    for (uint32_t worker = 0; worker < config->n_workers; worker++) {
        const worker_slot slot = get_worker(model, worker);
        const bool awaited =
            is_awaited(slot) && worker != waiting &&
            (config->consistency == MODEL_BSP ? !slot.held : slot.n_updates == slowest);
        if (awaited && now_ms > slot.seen_ms && now_ms - slot.seen_ms > config->expiry_ms)
            return worker;
    }
    return config->n_workers;
}

/* Weights */

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

static bool charges_touches(const server_model *model) {
    return model->config.penalized && model->config.optimizer.kind != CF_FTRL;
}

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

static inline void update_of_kind(const server_model *model, cf_optimizer optimizer,
                                  cf_optimizer_kind kind, const uint32_t *ids,
                                  const uint8_t *values, const float *touches, size_t n) {
    optimizer.kind = kind;
    const size_t width = cf_optimizer_width(kind);
    const float rows_seen = (float)model_rows_seen(model);
    for (size_t i = 0; i < n; i++) {
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

/* One optimiser step. */
static void update(server_model *model, const uint32_t *ids, const uint8_t *values,
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

/* Counts a push that is in the model. */
static void count_push(server_model *model, const cf_step_head *head) {
    uint8_t *const slot = slot_at(model, head->worker);
    const worker_slot old = get_worker(model, head->worker);
    cf_store_u64(slot + SLOT_UPDATES, old.n_updates + 1);
    cf_store_u64(slot + SLOT_ROWS, old.n_rows + head->n_rows);
    cf_store_f64(slot + SLOT_LOSS, old.loss_sum + head->loss_sum);
    cf_store_f64(slot + SLOT_WEIGHT, old.weight_sum + head->weight_sum);
    cf_store_f64(model->head + AT_ROWS_SEEN, model_rows_seen(model) + head->n_rows);
}

static void take_number(server_model *model, const cf_step_head *head) {
    uint8_t *const slot = slot_at(model, head->worker);
    cf_store_u64(slot + SLOT_NUMBER, head->number);
    cf_store_u32(slot + SLOT_STATE, WORKER_ACTIVE);
}

cf_status apply_push(server_model *model, const cf_step *step, const push_scratch *scratch) {
    const cf_step_head *const head = &step->head;
    const cf_status status = check_push(model, step, scratch);
    if (status.code != CF_OK)
        return status;
    update(model, scratch->ids, step->values, charges_touches(model) ? scratch->touches : NULL,
           head->n_push, head->intercept_gradient, head->rate);
    take_number(model, head);
    count_push(model, head);
    return status;
}

/* Rounds */

void set_held_bytes(uint8_t *bytes, size_t n) { cf_store_u64(bytes + AT_HELD, n); }

size_t held_record_bytes(size_t request_bytes) { return RECORD_HEAD + request_bytes; }

void hold_push(server_model *model, const cf_step_head *head, const uint8_t *request, size_t n) {
    uint8_t *const record = model->held + model->held_bytes - held_record_bytes(n);
    cf_store_u32(record, head->worker);
    cf_store_u32(record + 4, (uint32_t)n);
    memcpy(record + RECORD_HEAD, request, n);
    take_number(model, head);
    cf_store_u32(slot_at(model, head->worker) + SLOT_HELD, 1);
}

bool round_complete(const server_model *model) {
    bool any = false;
    for (uint32_t worker = 0; worker < model->config.n_workers; worker++) {
        const worker_slot slot = get_worker(model, worker);
        any |= slot.held;
        if (is_awaited(slot) && !slot.held)
            return false;
    }
    return any;
}

/* The held push of a worker; false if there is none that is whole. */
static bool find_held(const server_model *model, uint32_t worker, cf_step *step) {
    const worker_slot slot = get_worker(model, worker);
    const uint8_t *at = model->held, *const end = at + model->held_bytes;
    while (slot.held && (size_t)(end - at) >= RECORD_HEAD) {
        const size_t n = cf_load_u32(at + 4);
        const bool its = cf_load_u32(at) == worker;
        at += RECORD_HEAD;
        if ((size_t)(end - at) < n)
            break;
        if (its && cf_step_parse(at, n, step).code == CF_OK && step->head.worker == worker &&
            step->head.pushes && step->head.generation == slot.generation &&
            step->head.number == slot.number)
            return true;
        at += n;
    }
    return false;
}

static size_t held_ids(const server_model *model) {
    size_t n = 0;
    for (uint32_t worker = 0; worker < model->config.n_workers; worker++) {
        cf_step step;
        if (find_held(model, worker, &step))
            n += step.head.n_push;
    }
    return n;
}

/* Sums of gradients and of touches, of increasing ids. */
typedef struct {
    uint32_t *ids;
    float *gradient, *touches;
    size_t n;
} sum_list;

typedef struct {
    size_t n_merged, room;
} merge_head;

/* Three lists, the sums, the sums to come and a worker's, of an id and two numbers each. */
size_t merge_scratch_bytes(const server_model *model) {
    return sizeof(merge_head) + held_ids(model) * 3 * 12;
}

static sum_list list_at(void *scratch, size_t room, unsigned i) {
    uint32_t *const first = (uint32_t *)((merge_head *)scratch + 1) + (size_t)i * 3 * room;
    return (sum_list){first, (float *)(first + room), (float *)(first + 2 * room), 0};
}

static void add_lists(const sum_list *a, const sum_list *b, sum_list *sum) {
    size_t i = 0, k = 0, n = 0;
    while (i < a->n || k < b->n) {
        const bool from_a = k == b->n || (i < a->n && a->ids[i] <= b->ids[k]);
        const bool from_b = i == a->n || (k < b->n && b->ids[k] <= a->ids[i]);
        sum->ids[n] = from_a ? a->ids[i] : b->ids[k];
        sum->gradient[n] = (from_a ? a->gradient[i] : 0.0f) + (from_b ? b->gradient[k] : 0.0f);
        sum->touches[n] = (from_a ? a->touches[i] : 0.0f) + (from_b ? b->touches[k] : 0.0f);
        i += from_a;
        k += from_b;
        n++;
    }
    sum->n = n;
}

cf_status merge_round(server_model *model, void *scratch) {
    const size_t room = (((merge_head *)scratch)->room = held_ids(model));
    sum_list sum = list_at(scratch, room, 0), next = list_at(scratch, room, 1);
    sum_list own = list_at(scratch, room, 2);
    double intercept = 0; /* as in memory (runtime/bsp.py) */
    float rate = 0;
    bool any = false;
    cf_step step;
    cf_status status = cf_ok();
    for (uint32_t worker = 0; worker < model->config.n_workers; worker++) {
        if (!get_worker(model, worker).held)
            continue;
        if (!find_held(model, worker, &step) ||
            check_push(model, &step, &(push_scratch){own.ids, own.touches}).code != CF_OK) {
            cf_store_u32(slot_at(model, worker) + SLOT_HELD, 0);
            status = cf_fail(CF_E_MESSAGE, worker); /* somebody wrote over it: go on without */
            continue;
        }
        own.n = step.head.n_push;
        if (own.n)
            memcpy(own.gradient, step.values, 4 * own.n);
        if (!charges_touches(model) && own.n)
            memset(own.touches, 0, 4 * own.n);
        add_lists(&sum, &own, &next);
        const sum_list before = sum;
        sum = next;
        next = before;
        intercept += step.head.intercept_gradient;
        rate = any ? rate : step.head.rate;
        any = true;
    }
    if (any)
        update(model, sum.ids, (const uint8_t *)sum.gradient,
               charges_touches(model) ? sum.touches : NULL, sum.n, (float)intercept, rate);
    for (uint32_t worker = 0; worker < model->config.n_workers; worker++) {
        if (get_worker(model, worker).held && find_held(model, worker, &step))
            count_push(model, &step.head);
        cf_store_u32(slot_at(model, worker) + SLOT_HELD, 0);
    }
    ((merge_head *)scratch)->n_merged = sum.n;
    if (sum.n) /* where merged_ids looks */
        memmove(list_at(scratch, room, 0).ids, sum.ids, 4 * sum.n);
    return status;
}

size_t merged_ids(const void *scratch, const uint32_t **ids) {
    const merge_head *const head = scratch;
    *ids = (const uint32_t *)(head + 1);
    return head->n_merged;
}
