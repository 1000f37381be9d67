/* Fuzzes what the module for Redis does with bytes: requests, and the string that is a model.
 *
 * An input makes a model, then does things to it one after another: well-formed and raw requests,
 * workers that come and go, bytes written over. What is refused must leave the model as it was,
 * what is taken must count, and what is read from a set of ids must be that set. */
#include "redis_module/server_model.c"
#include "redis_module/server_rounds.c"
#include "redis_module/server_steps.c"

#include "cf_id_set.h"
#include "fuzz_arrays.h"

typedef struct {
    uint8_t *bytes;
    size_t n;
} string;

enum { MOST_IDS = 200, ROOM = 1 << 14 };

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    if (i >= 18 || room < 400)
        return 0;
    out[0] = (uint8_t)(i % 3);
    out[1] = (uint8_t)(i / 3 % 3);
    out[2] = (uint8_t)(i / 9);
    out[3] = 90;
    for (size_t k = 4; k < 400; k++)
        out[k] = (uint8_t)(k % 7 == 0 ? i % 4 : k * (i + 3) % 251);
    return 400;
}

static string new_string(size_t n) { return (string){exactly(n), n}; }

/* As StringTruncate does: what is new is 0, and the bytes move. */
static void resize(string *s, size_t n) {
    uint8_t *const moved = exactly(n);
    memset(moved, 0, n);
    memcpy(moved, s->bytes, s->n < n ? s->n : n);
    free(s->bytes);
    *s = (string){moved, n};
}

static size_t take_increasing(byte_source *in, size_t n_ids, uint32_t *ids) {
    size_t n = 0;
    for (uint64_t id = take_byte(in) % 8; id < n_ids && n < MOST_IDS && in->at < in->end;
         id += 1 + take_byte(in) % 32u * (take_byte(in) < 8 ? 9000u : 1u))
        ids[n++] = (uint32_t)id;
    return n;
}

/* A request that is right but for numbers that may be anything. */
static size_t make_request(byte_source *in, size_t n_ids, uint64_t number, uint8_t *out) {
    uint32_t push[MOST_IDS], pull[MOST_IDS];
    float gradient[MOST_IDS], touches[MOST_IDS];
    const uint8_t kind = take_byte(in);
    cf_step_head head = {
        .pushes = kind & 1,
        .pulls = kind & 2,
        .worker = take_byte(in) % 5u,
        .generation = take_byte(in) % 3u,
        .n_rows = take_byte(in),
        .number = kind & 4 ? number + 1 : take_byte(in),
        .loss_sum = take_float(in),
        .rate = kind & 8 ? 1.0f : take_float(in),
        .intercept_gradient = take_float(in),
    };
    head.n_push = head.pushes ? (uint32_t)take_increasing(in, n_ids, push) : 0;
    head.n_pull = head.pulls ? (uint32_t)take_increasing(in, n_ids, pull) : 0;
    for (size_t i = 0; i < head.n_push; i++) {
        gradient[i] = take_float(in);
        touches[i] = (float)(take_byte(in) * (kind & 16 ? 1u : 9u));
    }
    uint8_t push_set[ROOM / 8], pull_set[ROOM / 8];
    CHECK(cf_id_set_bound(MOST_IDS, n_ids) <= sizeof push_set);
    const cf_step_ids pushed = {push_set, cf_id_set_write(push, head.n_push, push_set)};
    const cf_step_ids pulled = {pull_set, cf_id_set_write(pull, head.n_pull, pull_set)};
    const size_t bound = cf_step_bound(&head, kind & 32, pushed.n_bytes + pulled.n_bytes);
    CHECK(bound <= ROOM && pushed.n_bytes <= cf_id_set_bound(head.n_push, n_ids));
    const size_t n =
        cf_step_write(&head, pushed, gradient, kind & 32 ? touches : NULL, pulled, out);
    CHECK(n <= bound);
    /* What was written is read back. */
    cf_step step;
    uint32_t ids[MOST_IDS];
    float counts[MOST_IDS];
    CHECK(cf_step_parse(out, n, &step).code == CF_OK);
    CHECK(step.head.worker == head.worker && step.head.number == head.number &&
          step.head.n_push == head.n_push && step.head.n_pull == head.n_pull);
    CHECK(cf_step_push_ids(&step, n_ids, ids).code == CF_OK);
    CHECK(same_bytes(ids, push, 4 * head.n_push));
    CHECK(same_bytes(step.values, gradient, 4 * head.n_push));
    CHECK(cf_step_pull_ids(&step, n_ids, ids).code == CF_OK);
    CHECK(same_bytes(ids, pull, 4 * head.n_pull));
    CHECK(cf_step_touches(&step, counts).code == CF_OK);
    CHECK(!(kind & 32) || same_bytes(counts, touches, 4 * head.n_push));
    return n;
}

static void merge_if_complete(string *s, server_model *model) {
    if (model->config.consistency != MODEL_BSP || !round_complete(model))
        return;
    uint32_t *const scratch = exactly(merge_scratch_bytes(model));
    const uint64_t before = model_updates(model);
    merge_round(model, scratch);
    CHECK(model_updates(model) - before <= 1);
    const uint32_t *ids;
    const size_t n = merged_ids(scratch, &ids);
    for (size_t i = 0; i < n; i++)
        CHECK(ids[i] < model->config.n_ids && (i == 0 || ids[i] > ids[i - 1]));
    free(scratch);
    set_held_bytes(s->bytes, 0);
    resize(s, model->fixed_bytes);
    CHECK(open_model(s->bytes, s->n, model) == MODEL_OK);
    for (uint32_t worker = 0; worker < model->config.n_workers; worker++)
        CHECK(!get_worker(model, worker).held);
}

/* As the commands do (steps.c). */
static void request_arrives(string *s, server_model *model, const uint8_t *bytes, size_t n) {
    uint8_t *const request = copy_exactly(bytes, n);
    cf_step step;
    const size_t n_ids = (size_t)model->config.n_ids;
    if (cf_step_parse(request, n, &step).code != CF_OK || step.head.n_push > n_ids ||
        step.head.n_pull > n_ids) {
        free(request);
        return;
    }
    uint32_t *const ids = exactly(4 * (size_t)step.head.n_push);
    uint32_t *const pulled = exactly(4 * (size_t)step.head.n_pull);
    float *const touches = exactly(4 * (size_t)step.head.n_push);
    const push_scratch scratch = {ids, touches};
    const bool pulls = cf_step_pull_ids(&step, n_ids, pulled).code == CF_OK;
    if (pulls && step.head.pushes && judge_push(model, &step.head) == PUSH_NEXT) {
        uint8_t *const before = copy_exactly(s->bytes, s->n);
        const uint64_t updates = model_updates(model);
        if (model->config.consistency == MODEL_BSP) {
            if (check_push(model, &step, &scratch).code == CF_OK) {
                set_held_bytes(s->bytes, model->held_bytes + held_record_bytes(n));
                resize(s, s->n + held_record_bytes(n));
                CHECK(open_model(s->bytes, s->n, model) == MODEL_OK);
                hold_push(model, &step.head, request, n);
                CHECK(judge_push(model, &step.head) == PUSH_HELD);
                merge_if_complete(s, model);
            }
        } else if (apply_push(model, &step, &scratch).code == CF_OK) {
            CHECK(model_updates(model) == updates + 1);
            CHECK(judge_push(model, &step.head) == PUSH_DUPLICATE);
        } else {
            CHECK(same_bytes(before, s->bytes, s->n));
        }
        free(before);
    }
    if (pulls && step.head.pulls) {
        uint8_t *const out = exactly(4 * (size_t)step.head.n_pull);
        may_pull(model, step.head.worker);
        pull_weights(model, pulled, step.head.n_pull, out);
        free(out);
    }
    free(ids);
    free(pulled);
    free(touches);
    free(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const float RATES[] = {0.1f, 1e-30f, 1e30f, 1.0f};
    static const uint64_t SIZES[] = {0, 1, 90, 1000, 5000, 70000};
    byte_source in = {data, data + n};
    const model_config config = {
        .optimizer = {(cf_optimizer_kind)(take_byte(&in) % 3), RATES[take_byte(&in) % 4], 1.0f},
        .n_ids = SIZES[take_byte(&in) % 6],
        .n_workers = 1 + take_byte(&in) % 4u,
        .consistency = (model_consistency)(take_byte(&in) % 3),
        .staleness = take_byte(&in) % 4u,
        .expiry_ms = take_byte(&in) % 2 ? 10 : 0,
        .penalized = take_byte(&in) % 2,
        .fit_intercept = take_byte(&in) % 2,
        .intercept_rate = 0.5f,
    };
    CHECK(model_bytes(&config, 100) == 0);
    string s = new_string(model_bytes(&config, 1 << 24));
    create_model(&config, 0.25f, 1, s.bytes);
    server_model model;
    CHECK(open_model(s.bytes, s.n, &model) == MODEL_OK);
    CHECK(model.fixed_bytes == s.n && model.held_bytes == 0);
    uint8_t request[ROOM];
    for (int i = 0; i < 64 && in.at < in.end; i++) {
        const uint8_t what = take_byte(&in);
        const uint32_t worker = take_byte(&in) % model.config.n_workers;
        if (what < 120) {
            const uint64_t number = get_worker(&model, worker).number;
            const size_t length = make_request(&in, (size_t)model.config.n_ids, number, request);
            if (what % 4 == 0) /* and one byte wrong */
                request[take_u32(&in) % length] ^= take_byte(&in);
            request_arrives(&s, &model, request, what % 16 == 1 ? length / 2 : length);
        } else if (what < 160) {
            const size_t length = (size_t)(in.end - in.at) < 100 ? (size_t)(in.end - in.at) : 100;
            request_arrives(&s, &model, in.at, length);
            in.at += length;
        } else if (what < 190) {
            join_worker(&model, worker, take_byte(&in) % 3u, (worker_state)(take_byte(&in) % 2),
                        what);
            merge_if_complete(&s, &model);
        } else if (what < 210) {
            leave_worker(&model, worker, take_byte(&in) % 3u);
            const uint32_t silent = find_silent(&model, worker, take_byte(&in));
            CHECK(silent <= model.config.n_workers);
            merge_if_complete(&s, &model);
        } else if (what < 240) { /* anybody may write into a string */
            s.bytes[take_u32(&in) % s.n] = take_byte(&in);
        } else if (what < 250) {
            for (int k = 0; k < 4; k++)
                s.bytes[take_byte(&in) % (MODEL_HEAD + MODEL_SLOT)] = take_byte(&in);
        } else {
            resize(&s, take_u32(&in) % (2 * s.n + 1) + 1);
        }
        if (open_model(s.bytes, s.n, &model) != MODEL_OK)
            break;
    }
    /* Sets of ids of any bytes */
    const uint8_t *at = data;
    uint32_t *const ids = exactly(4 * (n % 97));
    if (cf_id_set_read(&at, data + n, n % 97, 90000, ids).code == CF_OK)
        CHECK(cf_ids_increase(ids, n % 97, 90000) && at <= data + n);
    free(ids);
    cf_step_answer answer;
    const uint8_t *weights;
    if (cf_answer_read(data, n, n / 8, &answer, &weights).code == CF_OK && weights)
        CHECK(weights + 4 * (n / 8) == data + n);
    free(s.bytes);
    return 0;
}
