/* cf_step.h -- what a worker and the parameter server say to each other (docs/redis-module.md).
 *
 * A request pushes the gradient of one mini-batch, or pulls the weights of another's ids, or both.
 * Little-endian, at any address:
 *      0  u8   version, 1
 *      1  u8   CF_STEP_PUSH | CF_STEP_PULL
 *      2  u16  0
 *      4  u32  worker              8  u32  generation
 *     12  u32  rows of the push   16  u64  its number, from 1 on
 *     24  f64  sum of the losses  32  f64  sum of the row weights
 *     40  f32  multiplies the learning rate
 *     44  f32  gradient of the intercept
 *     48  u32  n_push             52  u32  n_touch_bytes
 *     56  u32  n_pull             60  u32  0
 *     64  pushed ids (cf_id_set.h) if CF_STEP_PUSH, f32[n_push] sums of gradients,
 *         u8[n_touch_bytes] entries of each id; 255 is followed by a u32
 *         pulled ids if CF_STEP_PULL
 * The answer is a cf_step_answer and, to a pull, f32[n_pull] weights.
 */
#ifndef CF_STEP_H
#define CF_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cf_status.h"

enum {
    CF_STEP_VERSION = 1,
    CF_STEP_PUSH = 1,
    CF_STEP_PULL = 2,
    CF_STEP_HEAD = 64,
    CF_ANSWER_HEAD = 32
};

typedef struct {
    bool pushes, pulls;
    uint32_t worker, generation, n_rows;
    uint64_t number;
    double loss_sum, weight_sum;
    float rate, intercept_gradient;
    uint32_t n_push, n_touch_bytes, n_pull;
} cf_step_head;

typedef struct {
    cf_step_head head;
    const uint8_t *push_ids, *values, *touches, *pull_ids, *end; /* into the request */
} cf_step;

/* Finds the parts of a request. What they hold is checked where they are read. */
cf_status cf_step_parse(const uint8_t *bytes, size_t n, cf_step *step);

/* The parts. Each reads exactly as many as the head says, or fails with CF_E_MESSAGE; a gradient
 * that is not finite is CF_E_NONFINITE. Touches that were not sent are 0. */
cf_status cf_step_push_ids(const cf_step *step, size_t n_ids, uint32_t *ids);
cf_status cf_step_touches(const cf_step *step, float *touches);
cf_status cf_step_check_values(const cf_step *step);
cf_status cf_step_pull_ids(const cf_step *step, size_t n_ids, uint32_t *ids);

/* No request of such a head and such sets is longer. */
size_t cf_step_bound(const cf_step_head *head, bool has_touches, size_t set_bytes);

/* A set of ids as it is sent (cf_id_set.h). */
typedef struct {
    const uint8_t *bytes;
    size_t n_bytes;
} cf_step_ids;

/* Writes a request; returns its length. The ids pushed are as often as not those that were pulled
 * before, so a set is written once and given twice. head->n_touch_bytes is not looked at: touches
 * are sent unless NULL, and must be whole numbers. */
size_t cf_step_write(const cf_step_head *head, cf_step_ids pushed, const float *gradient,
                     const float *touches, cf_step_ids pulled, uint8_t *out);

typedef enum {
    CF_ANSWER_DONE,
    CF_ANSWER_DUPLICATE, /* the push was there already; the pull is answered all the same */
    CF_ANSWER_WAIT,      /* pushed, but others must catch up before this worker may pull: no weights
                            follow. Asking again by the same request is safe */
} cf_answer_status;

/* At 0 u8 version, 1 u8 status, 2 u16 0, 4 f32 intercept, 8 f64 rows_seen, 16 u64 updates,
 * 24 u64 number. */
typedef struct {
    cf_answer_status status;
    float intercept;
    double rows_seen;   /* by all workers, this push included */
    uint64_t n_updates; /* steps of the optimiser */
    uint64_t number;    /* of this worker's last push that is known */
} cf_step_answer;

void cf_answer_write(const cf_step_answer *answer, uint8_t out[CF_ANSWER_HEAD]);

/* Reads an answer that n_pull weights should follow; *weights is where they are, or NULL with
 * CF_ANSWER_WAIT. */
cf_status cf_answer_read(const uint8_t *bytes, size_t n, size_t n_pull, cf_step_answer *answer,
                         const uint8_t **weights);

/* Around a request and an answer stands Redis's protocol. Writes the command that has the request
 * as its last argument, whose bytes end at `begin`, in front of them: `head` is what is the same in
 * all such commands, up to the last argument's length. Returns where it begins. */
enum { CF_FRAME_ROOM = 16 }; /* beside the head */
uint8_t *cf_request_frame(const char *head, size_t n_head, size_t n_request, uint8_t *begin);

typedef enum {
    CF_FRAME_WHOLE, /* a string is there, and ends after *n_whole bytes */
    CF_FRAME_PART,  /* more bytes are needed */
    CF_FRAME_OTHER  /* it is no string: an error, above all */
} cf_frame;
cf_frame cf_answer_frame(const uint8_t *bytes, size_t n, const uint8_t **string, size_t *n_string,
                         size_t *n_whole);

#endif
