/* A model's head, and the standing of its workers. */
#include "server_layout.h"

#include <string.h>

static const char MAGIC[8] = "CIRRUSPS";

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
    if (head->number != slot.number + 1)
        return PUSH_GAP;
    return slot.held ? PUSH_EARLY : PUSH_NEXT;
}

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
