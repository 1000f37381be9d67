#include "cf_step.h"

#include "cf_bits.h"
#include "cf_id_set.h"

enum { MANY_TOUCHES = 255, LONGEST_TOUCH = 5 };

/* Moves *at over a set of ids without reading it. */
static bool skip_ids(const uint8_t **at, const uint8_t *end) {
    if ((size_t)(end - *at) < CF_ID_SET_HEAD)
        return false;
    const uint64_t n = 8 * (uint64_t)cf_load_u32(*at) + 2 * (uint64_t)cf_load_u32(*at + 4);
    if ((uint64_t)(end - *at) - CF_ID_SET_HEAD < n)
        return false;
    *at += CF_ID_SET_HEAD + (size_t)n;
    return true;
}

cf_status cf_step_parse(const uint8_t *bytes, size_t n, cf_step *step) {
    if (n < CF_STEP_HEAD)
        return cf_fail(CF_E_MESSAGE, n);
    if (bytes[0] != CF_STEP_VERSION)
        return cf_fail(CF_E_MESSAGE, 0);
    if ((bytes[1] & ~(CF_STEP_PUSH | CF_STEP_PULL)) || cf_load_u16(bytes + 2) ||
        cf_load_u32(bytes + 60))
        return cf_fail(CF_E_MESSAGE, 1);
    step->head = (cf_step_head){
        .pushes = bytes[1] & CF_STEP_PUSH,
        .pulls = bytes[1] & CF_STEP_PULL,
        .worker = cf_load_u32(bytes + 4),
        .generation = cf_load_u32(bytes + 8),
        .n_rows = cf_load_u32(bytes + 12),
        .number = cf_load_u64(bytes + 16),
        .loss_sum = cf_load_f64(bytes + 24),
        .weight_sum = cf_load_f64(bytes + 32),
        .rate = cf_load_f32(bytes + 40),
        .intercept_gradient = cf_load_f32(bytes + 44),
        .n_push = cf_load_u32(bytes + 48),
        .n_touch_bytes = cf_load_u32(bytes + 52),
        .n_pull = cf_load_u32(bytes + 56),
    };
    const cf_step_head *const head = &step->head;
    const uint8_t *at = bytes + CF_STEP_HEAD, *const end = bytes + n;
    step->push_ids = step->values = step->touches = at;
    if (head->pushes) {
        if (!skip_ids(&at, end))
            return cf_fail(CF_E_MESSAGE, (size_t)(at - bytes));
        step->values = at;
        if ((size_t)(end - at) / 4 < head->n_push)
            return cf_fail(CF_E_MESSAGE, (size_t)(at - bytes));
        at += 4 * (size_t)head->n_push;
        step->touches = at;
        if ((size_t)(end - at) < head->n_touch_bytes)
            return cf_fail(CF_E_MESSAGE, (size_t)(at - bytes));
        at += head->n_touch_bytes;
    } else if (head->n_push || head->n_touch_bytes) {
        return cf_fail(CF_E_MESSAGE, 48);
    }
    step->pull_ids = at;
    if (head->pulls ? !skip_ids(&at, end) : head->n_pull != 0)
        return cf_fail(CF_E_MESSAGE, 56);
    if (at != end)
        return cf_fail(CF_E_MESSAGE, (size_t)(at - bytes));
    step->end = end;
    return cf_ok();
}

cf_status cf_step_push_ids(const cf_step *step, size_t n_ids, uint32_t *ids) {
    const uint8_t *at = step->push_ids;
    if (!step->head.pushes)
        return cf_ok();
    return cf_id_set_read(&at, step->values, step->head.n_push, n_ids, ids);
}

cf_status cf_step_pull_ids(const cf_step *step, size_t n_ids, uint32_t *ids) {
    const uint8_t *at = step->pull_ids;
    if (!step->head.pulls)
        return cf_ok();
    return cf_id_set_read(&at, step->end, step->head.n_pull, n_ids, ids);
}

cf_status cf_step_touches(const cf_step *step, float *touches) {
    const size_t n = step->head.n_push;
    const uint8_t *at = step->touches, *const end = at + step->head.n_touch_bytes;
    for (size_t i = 0; i < n; i++) {
        touches[i] = 0.0f;
        if (step->head.n_touch_bytes == 0)
            continue;
        if (at == end)
            return cf_fail(CF_E_MESSAGE, i);
        const uint8_t few = *at++;
        touches[i] = few;
        if (few == MANY_TOUCHES) {
            if (end - at < 4)
                return cf_fail(CF_E_MESSAGE, i);
            touches[i] = (float)cf_load_u32(at);
            at += 4;
        }
    }
    return at == end ? cf_ok() : cf_fail(CF_E_MESSAGE, n);
}

cf_status cf_step_check_values(const cf_step *step) {
    enum { EXPONENT = 0x7f800000 };
    uint32_t any = 0;
    for (size_t i = 0; i < step->head.n_push; i++) /* no early way out: this becomes vectors */
        any |= (cf_load_u32(step->values + 4 * i) & EXPONENT) == EXPONENT;
    return any ? cf_fail(CF_E_NONFINITE, 0) : cf_ok();
}

size_t cf_step_bound(const cf_step_head *head, bool has_touches, size_t set_bytes) {
    const size_t longest = 4 + (has_touches ? LONGEST_TOUCH : 0);
    return CF_STEP_HEAD + longest * (size_t)head->n_push + set_bytes;
}

static uint8_t *write_ids(cf_step_ids ids, uint8_t *at) {
    if (ids.n_bytes > 0)
        memcpy(at, ids.bytes, ids.n_bytes);
    return at + ids.n_bytes;
}

static uint8_t *write_touches(const float *touches, size_t n, uint8_t *at) {
    for (size_t i = 0; i < n; i++) {
        const float n_times = touches[i] > 0 ? touches[i] : 0.0f; /* NaN is none */
        if (n_times < MANY_TOUCHES) {
            *at++ = (uint8_t)n_times;
        } else {
            *at = MANY_TOUCHES;
            cf_store_u32(at + 1, n_times < 4e9f ? (uint32_t)n_times : UINT32_MAX);
            at += LONGEST_TOUCH;
        }
    }
    return at;
}

size_t cf_step_write(const cf_step_head *head, cf_step_ids pushed, const float *gradient,
                     const float *touches, cf_step_ids pulled, uint8_t *out) {
    uint8_t *at = out + CF_STEP_HEAD;
    size_t n_touch_bytes = 0;
    if (head->pushes) {
        at = write_ids(pushed, at);
        if (head->n_push)
            memcpy(at, gradient, 4 * (size_t)head->n_push);
        at += 4 * (size_t)head->n_push;
        if (touches) {
            uint8_t *const end = write_touches(touches, head->n_push, at);
            n_touch_bytes = (size_t)(end - at);
            at = end;
        }
    }
    if (head->pulls)
        at = write_ids(pulled, at);
    out[0] = CF_STEP_VERSION;
    out[1] = (uint8_t)((head->pushes ? CF_STEP_PUSH : 0) | (head->pulls ? CF_STEP_PULL : 0));
    cf_store_u16(out + 2, 0);
    cf_store_u32(out + 4, head->worker);
    cf_store_u32(out + 8, head->generation);
    cf_store_u32(out + 12, head->n_rows);
    cf_store_u64(out + 16, head->number);
    cf_store_f64(out + 24, head->loss_sum);
    cf_store_f64(out + 32, head->weight_sum);
    cf_store_f32(out + 40, head->rate);
    cf_store_f32(out + 44, head->intercept_gradient);
    cf_store_u32(out + 48, head->pushes ? head->n_push : 0);
    cf_store_u32(out + 52, (uint32_t)n_touch_bytes);
    cf_store_u32(out + 56, head->pulls ? head->n_pull : 0);
    cf_store_u32(out + 60, 0);
    return (size_t)(at - out);
}

void cf_answer_write(const cf_step_answer *answer, uint8_t out[CF_ANSWER_HEAD]) {
    out[0] = CF_STEP_VERSION;
    out[1] = (uint8_t)answer->status;
    cf_store_u16(out + 2, 0);
    cf_store_f32(out + 4, answer->intercept);
    cf_store_f64(out + 8, answer->rows_seen);
    cf_store_u64(out + 16, answer->n_updates);
    cf_store_u64(out + 24, answer->number);
}

cf_status cf_answer_read(const uint8_t *bytes, size_t n, size_t n_pull, cf_step_answer *answer,
                         const uint8_t **weights) {
    if (n < CF_ANSWER_HEAD || bytes[0] != CF_STEP_VERSION || bytes[1] > CF_ANSWER_WAIT)
        return cf_fail(CF_E_MESSAGE, 0);
    *answer = (cf_step_answer){
        .status = (cf_answer_status)bytes[1],
        .intercept = cf_load_f32(bytes + 4),
        .rows_seen = cf_load_f64(bytes + 8),
        .n_updates = cf_load_u64(bytes + 16),
        .number = cf_load_u64(bytes + 24),
    };
    const bool waits = answer->status == CF_ANSWER_WAIT;
    if ((n - CF_ANSWER_HEAD) % 4 || (n - CF_ANSWER_HEAD) / 4 != (waits ? 0 : n_pull))
        return cf_fail(CF_E_MESSAGE, CF_ANSWER_HEAD);
    *weights = waits ? NULL : bytes + CF_ANSWER_HEAD;
    return cf_ok();
}

uint8_t *cf_request_frame(const char *head, size_t n_head, size_t n_request, uint8_t *begin) {
    *--begin = '\n';
    *--begin = '\r';
    do
        *--begin = (uint8_t)('0' + n_request % 10);
    while (n_request /= 10);
    begin -= n_head;
    memcpy(begin, head, n_head);
    return begin;
}

cf_frame cf_answer_frame(const uint8_t *bytes, size_t n, const uint8_t **string, size_t *n_string,
                         size_t *n_whole) {
    enum { MOST_DIGITS = 9 };
    size_t length = 0, i = 1;
    if (n == 0)
        return CF_FRAME_PART;
    if (bytes[0] != '$')
        return CF_FRAME_OTHER;
    for (; i < n && bytes[i] >= '0' && bytes[i] <= '9'; i++) {
        if (i > MOST_DIGITS)
            return CF_FRAME_OTHER;
        length = 10 * length + (size_t)(bytes[i] - '0');
    }
    if (i < n && (i == 1 || bytes[i] != '\r'))
        return CF_FRAME_OTHER;
    if (n < i + 2)
        return CF_FRAME_PART;
    if (bytes[i + 1] != '\n')
        return CF_FRAME_OTHER;
    *string = bytes + i + 2;
    *n_string = length;
    *n_whole = i + 2 + length + 2;
    if (n < *n_whole)
        return CF_FRAME_PART;
    return bytes[*n_whole - 2] == '\r' && bytes[*n_whole - 1] == '\n' ? CF_FRAME_WHOLE
                                                                      : CF_FRAME_OTHER;
}
