/* server_layout.h -- where what lies in a model's bytes (internal to the files server_*.c). */
#ifndef SERVER_LAYOUT_H
#define SERVER_LAYOUT_H

#include "cf_bits.h"
#include "server_model.h"

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

    PENALIZED = 1,
    FITS_INTERCEPT = 2,
    DIVERGED = 4
};
/* Coordinates lie at odd addresses: two numbers of four bytes each, never an array of floats. */
static inline void load_state(const uint8_t *at, size_t width, float state[2]) {
    state[0] = cf_load_f32(at);
    state[1] = width > 1 ? cf_load_f32(at + 4) : 0.0f;
}

static inline void store_state(uint8_t *at, size_t width, const float state[2]) {
    cf_store_f32(at, state[0]);
    if (width > 1)
        cf_store_f32(at + 4, state[1]);
}

static inline uint8_t *slot_at(const server_model *model, uint32_t worker) {
    return model->head + slot_offset(worker);
}

static inline bool is_awaited(worker_slot slot) { return slot.state != WORKER_FINISHED; }

static inline bool charges_touches(const server_model *model) {
    return model->config.penalized && model->config.optimizer.kind != CF_FTRL;
}

/* server_steps.c: one step of the optimiser, with gradients that were checked. */
void make_step(server_model *model, const uint32_t *ids, const uint8_t *values,
               const float *touches, size_t n, float intercept_gradient, float rate);
/* Counts a push that is in the model; takes its number as its worker's last. */
void count_push(server_model *model, const cf_step_head *head);
void take_number(server_model *model, const cf_step_head *head);

#endif
