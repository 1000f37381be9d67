/* server_model.h -- a model and the standing of its workers in the bytes of one string.
 *
 * Nothing here knows Redis: bytes in, bytes changed. They come from a key that anybody may have
 * written, so `open_model` checks all that the rest relies on. The layout is docs/redis-module.md;
 * numbers are little-endian and lie at any address, since strings do.
 */
#ifndef SERVER_MODEL_H
#define SERVER_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_optimizer.h"
#include "cf_step.h"

enum { MODEL_FORMAT = 1, MODEL_HEAD = 128, MODEL_SLOT = 64, MOST_WORKERS = 10000 };

typedef enum { MODEL_ASYNC, MODEL_SSP, MODEL_BSP } model_consistency;

typedef struct {
    cf_optimizer optimizer;
    uint64_t n_ids;     /* coordinates beside the intercept's */
    uint32_t n_workers; /* from 1 on */
    model_consistency consistency;
    uint64_t staleness; /* mini-batches a worker may be ahead of the slowest; ssp alone */
    uint64_t expiry_ms; /* silence after which nobody waits for a worker; 0: never */
    bool penalized;     /* (l1, l2) pairs of every id follow the state */
    bool fit_intercept;
    float intercept_rate; /* multiplies the intercept's gradient */
} model_config;

/* An opened model: views into its bytes. */
typedef struct {
    model_config config;
    uint8_t *head, *slots, *state, *penalties, *held;
    size_t held_bytes; /* pushes of an unfinished bsp round, after all else */
    size_t fixed_bytes;
} server_model;

typedef enum { WORKER_AWAITED, WORKER_ACTIVE, WORKER_FINISHED } worker_state;

typedef struct {
    uint32_t generation;
    worker_state state;
    uint64_t number;    /* of its last push */
    uint64_t n_updates; /* pushes that are in the model */
    uint64_t n_rows;    /* of those */
    double loss_sum, weight_sum;
    uint64_t seen_ms; /* when it last pushed or joined, by this server's clock */
    bool held;        /* its push waits for the round to be complete */
} worker_slot;

/* The length of a model's string, or 0 if it is over `most`. */
size_t model_bytes(const model_config *config, size_t most);

/* Makes bytes[model_bytes] a model at weight 0 and `intercept`, penalties 0, workers awaited. */
void create_model(const model_config *config, float intercept, uint64_t now_ms, uint8_t *bytes);

typedef enum { MODEL_OK, MODEL_FOREIGN, MODEL_OTHER_FORMAT, MODEL_DAMAGED } model_verdict;
model_verdict open_model(uint8_t *bytes, size_t n, server_model *model);

uint64_t model_updates(const server_model *model);
double model_rows_seen(const server_model *model);
float model_intercept(const server_model *model);

/* A copy of this server that missed pushes says so until it is made anew. */
bool model_diverged(const server_model *model);
void mark_diverged(server_model *model);

/* Workers; `worker` is below n_workers. */
worker_slot get_worker(const server_model *model, uint32_t worker);
bool join_worker(server_model *model, uint32_t worker, uint32_t generation, worker_state state,
                 uint64_t now_ms); /* false: a later one is there */
bool leave_worker(server_model *model, uint32_t worker, uint32_t generation);

typedef enum {
    PUSH_NEXT,      /* take it */
    PUSH_DUPLICATE, /* it was taken before */
    PUSH_HELD,      /* the same, and its round is not complete */
    PUSH_EARLY,     /* next, but the one before it is in a round that is not complete */
    PUSH_GAP,       /* a push before it is missing */
    PUSH_FENCED,    /* of a generation whose place was taken */
    PUSH_NOBODY     /* no such worker */
} push_verdict;
push_verdict judge_push(const server_model *model, const cf_step_head *head);
void note_worker_seen(server_model *model, uint32_t worker, uint64_t now_ms);

/* Scratch of the calls below: arrays for the ids of a request, and for merging rounds. */
typedef struct {
    uint32_t *ids;  /* [most(n_push, n_pull)] */
    float *touches; /* [n_push] where penalties are charged by them */
} push_scratch;

/* Checks all of a push, then makes the optimiser's step with it; on failure nothing is changed. */
cf_status apply_push(server_model *model, const cf_step *step, const push_scratch *scratch);

/* The same check, for a push that is to be held. */
cf_status check_push(const server_model *model, const cf_step *step, const push_scratch *scratch);

/* bsp. A push is held as a record behind the model: the caller says so by set_held_bytes,
 * lengthens the string by held_record_bytes, opens it again, and calls hold_push. When
 * round_complete, merge_round makes one step of them all, summed in the order of the workers, and
 * the caller cuts the string to fixed_bytes, by set_held_bytes(0) too. Pushes that were written
 * over are left out, and CF_E_MESSAGE names the last such worker.
 * `scratch` is of merge_scratch_bytes, aligned for any type. */
void set_held_bytes(uint8_t *bytes, size_t n);
size_t held_record_bytes(size_t request_bytes);
void hold_push(server_model *model, const cf_step_head *head, const uint8_t *request, size_t n);
bool round_complete(const server_model *model);
size_t merge_scratch_bytes(const server_model *model);
cf_status merge_round(server_model *model, void *scratch);
/* After it: the ids that were changed, in scratch. */
size_t merged_ids(const void *scratch, const uint32_t **ids);

/* Whether a worker may pull now, or must wait for others. */
bool may_pull(const server_model *model, uint32_t worker);

/* A worker that others wait for and that was silent for longer than expiry_ms; n_workers if none.
 */
uint32_t find_silent(const server_model *model, uint32_t waiting, uint64_t now_ms);

/* Weights of ids that are all below n_ids, to f32[n] at `out`. */
void pull_weights(const server_model *model, const uint32_t *ids, size_t n, uint8_t *out);
/* The same of n coordinates from `first` on. */
void snapshot_weights(const server_model *model, uint64_t first, size_t n, uint8_t *out);

/* Where coordinate `id` lies (n_ids: the intercept's), for copies by parts. */
size_t coordinate_offset(const server_model *model, uint64_t id);
size_t coordinate_bytes(const server_model *model);
size_t slot_offset(uint32_t worker);

#endif
