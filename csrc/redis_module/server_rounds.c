/* bsp: pushes held behind the model until all are there, and the step made of them. */
#include "server_layout.h"

#include <string.h>

enum { RECORD_HEAD = 8 }; /* u32 worker, u32 bytes of the request that follows */

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
        make_step(model, sum.ids, (const uint8_t *)sum.gradient,
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
