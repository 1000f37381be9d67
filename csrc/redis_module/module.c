/* module.c -- Redis as a parameter server: the commands (docs/redis-module.md).
 *
 * Redis runs one command at a time in one thread, so nothing here locks. What a command's bytes say
 * is checked by server_model.c and cf_step.c before anything is changed. */
#include "module.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

module_state module;

/* Redis's own limit to what a module may make of a string. */
enum { MOST_BYTES = 512 << 20 };
enum { DEFAULT_EXPIRY_MS = 60000, IN_USE_MS = 60000 };

int answer_error(redis_ctx *ctx, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++) /* what was sent may hold anything, an answer only one line */
        *c = *c < ' ' || *c > '~' ? '?' : *c;
    module.n_refused++;
    return redis.ReplyWithError(ctx, text);
}

static uint64_t now_ms(void) { return (uint64_t)redis.Milliseconds(); }

/* Keys */

static bool open_bytes(open_key *open, int mode) {
    redis_ctx *const ctx = open->ctx;
    size_t n = 0;
    uint8_t *const bytes = (uint8_t *)redis.StringDMA(open->key, &n, mode);
    switch (bytes ? open_model(bytes, n, &open->model) : MODEL_FOREIGN) {
    case MODEL_OK:
        return true;
    case MODEL_FOREIGN:
        answer_error(ctx, "CIRRUSNOMODEL the key holds something else than a model");
        break;
    case MODEL_OTHER_FORMAT:
        answer_error(ctx, "CIRRUSVERSION the model was made by another version of the module");
        break;
    case MODEL_DAMAGED:
        answer_error(ctx, "CIRRUSDAMAGED the model's head contradicts its length");
        break;
    }
    return false;
}

void close_model_key(open_key *open) { redis.CloseKey(open->key); }

bool open_model_key(redis_ctx *ctx, redis_string *name, int mode, open_key *open) {
    open->ctx = ctx;
    open->name = name;
    open->key = redis.OpenKey(ctx, name, mode);
    const int type = open->key ? redis.KeyType(open->key) : REDIS_KEY_EMPTY;
    if (type == REDIS_KEY_EMPTY)
        answer_error(ctx, "CIRRUSNOMODEL no model at this key");
    else if (type != REDIS_KEY_STRING)
        answer_error(ctx, "WRONGTYPE Operation against a key holding the wrong kind of value");
    else if (open_bytes(open, mode)) {
        module.last_used_ms = redis.Milliseconds();
        return true;
    }
    close_model_key(open);
    return false;
}

static bool from_elsewhere(redis_ctx *ctx) {
    return redis.GetContextFlags(ctx) & (REDIS_FROM_MASTER | REDIS_IS_LOADING);
}

/* Answers */

int answer_with_weights(redis_ctx *ctx, const server_model *model, uint32_t worker,
                        cf_answer_status status, const uint32_t *ids, size_t n) {
    const size_t n_bytes = CF_ANSWER_HEAD + 4 * n;
    uint8_t *const out = command_memory(FOR_ANSWER, n_bytes);
    const cf_step_answer answer = {
        .status = status,
        .intercept = model_intercept(model),
        .rows_seen = model_rows_seen(model),
        .n_updates = model_updates(model),
        .number = worker < model->config.n_workers ? get_worker(model, worker).number : 0,
    };
    cf_answer_write(&answer, out);
    pull_weights(model, ids, n, out + CF_ANSWER_HEAD);
    module.answer_bytes += n_bytes;
    return redis.ReplyWithStringBuffer(ctx, (const char *)out, n_bytes);
}

static int answer_diverged(redis_ctx *ctx) {
    return answer_error(ctx, "CIRRUSDIVERGED this copy of the model missed pushes: make it anew");
}

static int answer_malformed(redis_ctx *ctx, cf_status status) {
    return status.code == CF_E_NONFINITE
               ? answer_error(ctx, "CIRRUSBAD a number of the push is not finite")
               : answer_error(ctx, "CIRRUSBAD %s", cf_strerror(status.code));
}

/* Rounds of bsp */

/* Makes the step of a complete round; the key's string is shorter afterwards. */
static bool finish_round(open_key *open) {
    if (open->model.config.consistency != MODEL_BSP || !round_complete(&open->model))
        return true;
    void *const scratch = command_memory(FOR_MERGE, merge_scratch_bytes(&open->model));
    const cf_status status = merge_round(&open->model, scratch);
    module.n_merges++;
    if (status.code != CF_OK)
        redis.Log(open->ctx, "warning", "a push was written over while its round was open");
    set_held_bytes(open->model.head, 0);
    const uint32_t *ids;
    const size_t n = merged_ids(scratch, &ids);
    if (redis.StringTruncate(open->key, open->model.fixed_bytes) != REDIS_OK ||
        !open_bytes(open, REDIS_WRITE))
        return false;
    replicate_ranges(open, ids, n, true, 0);
    return true;
}

/* Puts a checked push behind the model. */
static bool keep_for_round(open_key *open, const cf_step *step, const uint8_t *request, size_t n) {
    const size_t held = open->model.held_bytes + held_record_bytes(n);
    const size_t whole = open->model.fixed_bytes + held;
    if (whole > MOST_BYTES) {
        answer_error(open->ctx, "CIRRUSBAD the round's pushes are too large");
        return false;
    }
    set_held_bytes(open->model.head, held);
    if (redis.StringTruncate(open->key, whole) != REDIS_OK || !open_bytes(open, REDIS_WRITE))
        return false;
    hold_push(&open->model, &step->head, request, n);
    return true;
}

/* Gives up those that were silent for too long, as others wait for them. Replicas are told, since
 * their clocks do not decide this. */
static bool drop_silent(open_key *open, uint32_t waiting) {
    const uint32_t n_workers = open->model.config.n_workers;
    for (;;) {
        const uint32_t silent = find_silent(&open->model, waiting, now_ms());
        if (silent == n_workers)
            break;
        const uint32_t generation = get_worker(&open->model, silent).generation;
        leave_worker(&open->model, silent, generation);
        module.n_silent++;
        redis.Log(open->ctx, "warning", "worker %u was silent for too long: nobody waits for it",
                  (unsigned)silent);
        if (module.replication == REPLICATE_VERBATIM)
            redis.Replicate(open->ctx, "CIRRUS.LEAVE", "sll", open->name, (long long)silent,
                            (long long)generation);
    }
    return finish_round(open);
}

/* Steps */

typedef enum { ONLY_PULL, ONLY_PUSH, PUSH_AND_PULL } step_kind;

typedef struct {
    cf_step step;
    const uint8_t *bytes;
    size_t n_bytes;
    push_scratch push;
    uint32_t *pull_ids;
} step_request;

/* Finds and checks the parts that do not depend on who sends them. */
static bool read_request(open_key *open, redis_string *argument, step_kind kind,
                         step_request *request) {
    request->bytes = (const uint8_t *)redis.StringPtrLen(argument, &request->n_bytes);
    const cf_status status = cf_step_parse(request->bytes, request->n_bytes, &request->step);
    const cf_step_head *const head = &request->step.head;
    if (status.code != CF_OK) {
        answer_malformed(open->ctx, status);
        return false;
    }
    if (head->pushes != (kind != ONLY_PULL) || head->pulls != (kind != ONLY_PUSH)) {
        answer_error(open->ctx, "CIRRUSBAD the message is for another command");
        return false;
    }
    if (head->n_pull > open->model.config.n_ids || head->n_push > open->model.config.n_ids) {
        answer_error(open->ctx, "CIRRUSBAD more ids than the model has");
        return false;
    }
    const size_t n_push = head->n_push, n_pull = head->n_pull;
    uint32_t *const memory = command_memory(FOR_REQUEST, 4 * (2 * n_push + n_pull));
    request->push = (push_scratch){memory, (float *)(memory + n_push)};
    request->pull_ids = memory + 2 * n_push;
    const cf_status pulled =
        cf_step_pull_ids(&request->step, (size_t)open->model.config.n_ids, request->pull_ids);
    if (pulled.code != CF_OK) {
        answer_malformed(open->ctx, pulled);
        return false;
    }
    module.request_bytes += request->n_bytes;
    return true;
}

static int refuse_push(open_key *open, push_verdict verdict, uint32_t worker) {
    if (verdict == PUSH_NOBODY)
        return answer_error(open->ctx, "CIRRUSBAD the model has no worker %u", (unsigned)worker);
    if (verdict == PUSH_FENCED)
        return answer_error(open->ctx, "CIRRUSFENCED another has the place of worker %u",
                            (unsigned)worker);
    if (from_elsewhere(open->ctx)) {
        mark_diverged(&open->model);
        module.n_diverged++;
        redis.Log(open->ctx, "warning",
                  "this copy of a model missed pushes of worker %u, and is of no use from now on: "
                  "was this server, or one it copies, without the module?",
                  (unsigned)worker);
        return answer_diverged(open->ctx);
    }
    return answer_error(
        open->ctx, "CIRRUSGAP the last push known of worker %u is %llu of generation %u",
        (unsigned)worker, (unsigned long long)get_worker(&open->model, worker).number,
        (unsigned)get_worker(&open->model, worker).generation);
}

/* Takes a push that is next. False: it was refused, and that was answered. */
static bool take_push(open_key *open, const step_request *request) {
    const cf_step *const step = &request->step;
    const bool in_rounds = open->model.config.consistency == MODEL_BSP;
    const cf_status status = in_rounds ? check_push(&open->model, step, &request->push)
                                       : apply_push(&open->model, step, &request->push);
    if (status.code != CF_OK) {
        answer_malformed(open->ctx, status);
        return false;
    }
    module.n_pushes++;
    if (in_rounds) {
        if (!keep_for_round(open, step, request->bytes, request->n_bytes))
            return false;
    } else {
        replicate_ranges(open, request->push.ids, step->head.n_push, false, step->head.worker);
    }
    replicate_command(open->ctx);
    return finish_round(open);
}

static int step_in_key(open_key *open, redis_string *argument, step_kind kind) {
    step_request request;
    if (!read_request(open, argument, kind, &request))
        return REDIS_OK;
    const cf_step_head *const head = &request.step.head;
    if (model_diverged(&open->model)) /* on a replica nobody reads the answer, and one is enough */
        return kind != ONLY_PULL && from_elsewhere(open->ctx)
                   ? redis.ReplyWithSimpleString(open->ctx, "DIVERGED")
                   : answer_diverged(open->ctx);
    cf_answer_status status = CF_ANSWER_DONE;
    if (kind != ONLY_PULL) {
        const push_verdict verdict = judge_push(&open->model, head);
        if (verdict == PUSH_NEXT) {
            if (!take_push(open, &request))
                return REDIS_OK;
        } else if (verdict == PUSH_DUPLICATE || verdict == PUSH_HELD) {
            status = CF_ANSWER_DUPLICATE;
            module.n_duplicates++;
        } else {
            return refuse_push(open, verdict, head->worker);
        }
        note_worker_seen(&open->model, head->worker, now_ms());
        if (open->model.config.consistency != MODEL_ASYNC)
            wake_pulls(open);
    }
    module.n_pulls += kind != ONLY_PUSH;
    if (kind == PUSH_AND_PULL && !may_pull(&open->model, head->worker)) {
        const int no_blocking = REDIS_IN_LUA | REDIS_IN_MULTI | REDIS_MAY_NOT_BLOCK |
                                REDIS_FROM_MASTER | REDIS_IS_LOADING;
        if (redis.GetContextFlags(open->ctx) & no_blocking)
            return answer_with_weights(open->ctx, &open->model, head->worker, CF_ANSWER_WAIT, NULL,
                                       0);
        if (!drop_silent(open, head->worker))
            return REDIS_OK;
        wake_pulls(open);
        if (!may_pull(&open->model, head->worker))
            return block_pull(
                open, &(waiting_pull){head->worker, status, request.pull_ids, head->n_pull});
    }
    return answer_with_weights(open->ctx, &open->model, head->worker, status, request.pull_ids,
                               head->n_pull);
}

static int step_command(redis_ctx *ctx, redis_string **argv, int argc, step_kind kind) {
    open_key open;
    if (argc != 3)
        return redis.WrongArity(ctx);
    if (!open_model_key(ctx, argv[1], kind == ONLY_PULL ? REDIS_READ : REDIS_WRITE, &open))
        return REDIS_OK;
    const int result = step_in_key(&open, argv[2], kind);
    close_model_key(&open);
    return result;
}

static int pull_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return step_command(ctx, argv, argc, ONLY_PULL);
}

static int push_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return step_command(ctx, argv, argc, ONLY_PUSH);
}

static int push_and_pull_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return step_command(ctx, argv, argc, PUSH_AND_PULL);
}

/* CIRRUS.SNAPSHOT key [first n]: weights of coordinates, or of all */
static int snapshot_command(redis_ctx *ctx, redis_string **argv, int argc) {
    open_key open;
    long long first = 0, n = -1;
    if (argc != 2 && argc != 4)
        return redis.WrongArity(ctx);
    if (argc == 4 && (redis.StringToLongLong(argv[2], &first) != REDIS_OK ||
                      redis.StringToLongLong(argv[3], &n) != REDIS_OK || first < 0 || n < 0))
        return answer_error(ctx, "CIRRUSBAD first and number must be whole numbers from 0 on");
    if (!open_model_key(ctx, argv[1], REDIS_READ, &open))
        return REDIS_OK;
    const long long n_ids = (long long)open.model.config.n_ids;
    if (model_diverged(&open.model)) {
        answer_diverged(ctx);
    } else if (first > n_ids || n > n_ids - first) {
        answer_error(ctx, "CIRRUSBAD the model has %lld coordinates", n_ids);
    } else {
        const size_t count = (size_t)(n < 0 ? n_ids : n), n_bytes = CF_ANSWER_HEAD + 4 * count;
        uint8_t *const out = command_memory(FOR_ANSWER, n_bytes);
        cf_answer_write(&(cf_step_answer){.status = CF_ANSWER_DONE,
                                          .intercept = model_intercept(&open.model),
                                          .rows_seen = model_rows_seen(&open.model),
                                          .n_updates = model_updates(&open.model)},
                        out);
        snapshot_weights(&open.model, (uint64_t)first, count, out + CF_ANSWER_HEAD);
        redis.ReplyWithStringBuffer(ctx, (const char *)out, n_bytes);
    }
    close_model_key(&open);
    return REDIS_OK;
}

/* Workers */

static int place_command(redis_ctx *ctx, redis_string **argv, int argc, bool joins) {
    open_key open;
    long long worker, generation;
    bool awaited = false;
    if (argc != 4 && !(joins && argc == 5))
        return redis.WrongArity(ctx);
    if (argc == 5) {
        awaited = strcasecmp(redis.StringPtrLen(argv[4], &(size_t){0}), "AWAITED") == 0;
        if (!awaited)
            return answer_error(ctx, "CIRRUSBAD a worker joins, or is AWAITED");
    }
    if (redis.StringToLongLong(argv[2], &worker) != REDIS_OK ||
        redis.StringToLongLong(argv[3], &generation) != REDIS_OK || worker < 0 || generation < 0 ||
        generation > UINT32_MAX)
        return answer_error(ctx, "CIRRUSBAD worker and generation must be whole numbers from 0 on");
    if (!open_model_key(ctx, argv[1], REDIS_WRITE, &open))
        return REDIS_OK;
    const uint32_t place = (uint32_t)worker, later = (uint32_t)generation;
    if (worker >= open.model.config.n_workers) {
        answer_error(ctx, "CIRRUSBAD the model has no worker %lld", worker);
    } else if (joins ? !join_worker(&open.model, place, later,
                                    awaited ? WORKER_AWAITED : WORKER_ACTIVE, now_ms())
                     : !leave_worker(&open.model, place, later)) {
        answer_error(ctx, "CIRRUSFENCED another has the place of worker %lld", worker);
    } else {
        replicate_command(ctx);
        if (open.model.held_bytes == 0) /* else with the round */
            replicate_ranges(&open, NULL, 0, true, 0);
        if (finish_round(&open)) {
            wake_pulls(&open);
            redis.ReplyWithLongLong(ctx, (long long)get_worker(&open.model, place).number);
        }
    }
    close_model_key(&open);
    return REDIS_OK;
}

/* CIRRUS.JOIN key worker generation [AWAITED]: takes the worker's place, from older generations */
static int join_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return place_command(ctx, argv, argc, true);
}

/* CIRRUS.LEAVE key worker generation: nobody waits for it any more */
static int leave_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return place_command(ctx, argv, argc, false);
}

/* Creation */

typedef struct {
    model_config config;
    float intercept;
    long long ttl_ms;
} creation;

static bool is_word(const redis_string *argument, const char *word) {
    return strcasecmp(redis.StringPtrLen(argument, &(size_t){0}), word) == 0;
}

/* Which of `words` an argument is, or -1. */
static int which_word(const redis_string *argument, const char *const *words) {
    for (int i = 0; words[i]; i++)
        if (is_word(argument, words[i]))
            return i;
    return -1;
}

static bool whole_number(const redis_string *argument, long long low, long long high,
                         uint64_t *out) {
    long long value;
    if (redis.StringToLongLong(argument, &value) != REDIS_OK || value < low || value > high)
        return false;
    *out = (uint64_t)value;
    return true;
}

static bool real_number(const redis_string *argument, double low, double high, float *out) {
    double value;
    if (redis.StringToDouble(argument, &value) != REDIS_OK || !(value >= low && value <= high))
        return false;
    *out = (float)value;
    return true;
}

/* One pair of CREATE's arguments. */
static bool read_pair(const redis_string *name, const redis_string *value, creation *made) {
    static const char *const OPTIMIZERS[] = {"sgd", "adagrad", "ftrl", NULL};
    static const char *const CONSISTENCIES[] = {"async", "ssp", "bsp", NULL};
    const double smallest = 1e-30, largest = 1e30;
    model_config *const config = &made->config;
    uint64_t whole = 0;
    bool good = true;
    if (is_word(name, "IDS")) {
        good = whole_number(value, 0, UINT32_MAX - 1, &config->n_ids);
    } else if (is_word(name, "OPTIMIZER")) {
        const int kind = which_word(value, OPTIMIZERS);
        good = kind >= 0;
        config->optimizer.kind = (cf_optimizer_kind)(good ? kind : 0);
    } else if (is_word(name, "RATE")) {
        good = real_number(value, smallest, largest, &config->optimizer.learning_rate);
    } else if (is_word(name, "INITIAL")) {
        good = real_number(value, smallest, largest, &config->optimizer.initial);
    } else if (is_word(name, "INTERCEPT")) {
        good = real_number(value, -largest, largest, &made->intercept);
    } else if (is_word(name, "INTERCEPTRATE")) { /* 0: the intercept stays as it is */
        good = real_number(value, 0, largest, &config->intercept_rate);
        config->fit_intercept = config->intercept_rate > 0;
        config->intercept_rate = config->fit_intercept ? config->intercept_rate : 1.0f;
    } else if (is_word(name, "PENALTIES")) {
        good = whole_number(value, 0, 1, &whole);
        config->penalized = whole;
    } else if (is_word(name, "WORKERS")) {
        good = whole_number(value, 1, MOST_WORKERS, &whole);
        config->n_workers = (uint32_t)whole;
    } else if (is_word(name, "CONSISTENCY")) {
        const int kind = which_word(value, CONSISTENCIES);
        good = kind >= 0;
        config->consistency = (model_consistency)(good ? kind : 0);
    } else if (is_word(name, "STALENESS")) {
        good = whole_number(value, 0, LLONG_MAX, &config->staleness);
    } else if (is_word(name, "EXPIRY")) {
        good = whole_number(value, 0, LLONG_MAX, &config->expiry_ms);
    } else if (is_word(name, "TTL")) {
        good = whole_number(value, 0, LLONG_MAX / 4, &whole);
        made->ttl_ms = (long long)whole;
    } else {
        return false;
    }
    return good;
}

/* CIRRUS.CREATE key [name value]...: a model at weight 0 */
static int create_command(redis_ctx *ctx, redis_string **argv, int argc) {
    if (argc < 2 || argc % 2 != 0)
        return redis.WrongArity(ctx);
    creation made = {
        .config =
            {
                .optimizer = {CF_ADAGRAD, 0.1f, 1.0f},
                .n_workers = 1,
                .expiry_ms = DEFAULT_EXPIRY_MS,
                .fit_intercept = true,
                .intercept_rate = 1.0f,
            },
    };
    for (int i = 2; i < argc; i += 2)
        if (!read_pair(argv[i], argv[i + 1], &made))
            return answer_error(ctx, "CIRRUSBAD unknown option or value: %.40s %.40s",
                                redis.StringPtrLen(argv[i], &(size_t){0}),
                                redis.StringPtrLen(argv[i + 1], &(size_t){0}));
    const size_t n = model_bytes(&made.config, MOST_BYTES);
    if (n == 0)
        return answer_error(ctx, "CIRRUSBAD a model of this size is more than 512 MB: take more "
                                 "parameter servers, or hash to fewer ids");
    open_key open = {.ctx = ctx, .name = argv[1], .key = redis.OpenKey(ctx, argv[1], REDIS_WRITE)};
    size_t length = 0;
    uint8_t *bytes = NULL;
    if (redis.KeyType(open.key) != REDIS_KEY_EMPTY)
        answer_error(ctx, "CIRRUSEXISTS the key is taken");
    else if (redis.StringTruncate(open.key, n) != REDIS_OK ||
             !(bytes = (uint8_t *)redis.StringDMA(open.key, &length, REDIS_WRITE)) || length != n)
        answer_error(ctx, "CIRRUSBAD the server makes no string of this size");
    else {
        create_model(&made.config, made.intercept, now_ms(), bytes);
        if (made.ttl_ms > 0)
            redis.SetExpire(open.key, made.ttl_ms);
        if (open_bytes(&open, REDIS_WRITE)) {
            replicate_command(ctx);
            replicate_whole(&open, made.ttl_ms);
            redis.ReplyWithSimpleString(ctx, "OK");
        }
        module.last_used_ms = redis.Milliseconds();
    }
    close_model_key(&open);
    return REDIS_OK;
}

/* Loading */

static void on_replica_change(redis_ctx *ctx, redis_event event, uint64_t what, void *data) {
    (void)event, (void)data;
    if (what == REDIS_REPLICA_OFFLINE) {
        module.n_replicas -= module.n_replicas > 0;
        return;
    }
    module.n_replicas++;
    if (module.replication == REPLICATE_VERBATIM)
        redis.Log(ctx, "warning",
                  "a replica is attached: it must load this module too, or its models stand still "
                  "from now on (load the module with REPLICATION RANGES to spare it that)");
}

static bool read_load_arguments(redis_ctx *ctx, redis_string **argv, int argc) {
    static const char *const MODES[] = {"verbatim", "ranges", NULL};
    module.replication = REPLICATE_VERBATIM;
    if (argc == 0)
        return true;
    const int mode = argc == 2 && is_word(argv[0], "REPLICATION") ? which_word(argv[1], MODES) : -1;
    if (mode < 0)
        redis.Log(ctx, "warning", "arguments are: REPLICATION VERBATIM, or REPLICATION RANGES");
    module.replication = mode == 1 ? REPLICATE_RANGES : REPLICATE_VERBATIM;
    return mode >= 0;
}

typedef struct {
    const char *name;
    redis_call call;
    const char *flags;
    const char *categories; /* of ACL rules */
    int arity;              /* of the name and its arguments; negative: or more */
    uint64_t key_flags;
    const char *summary;
} command;

static const command COMMANDS[] = {
    {"CIRRUS.CREATE", create_command, "write deny-oom", "write slow cirrus", -2, REDIS_KEY_IS_MADE,
     "Makes a model at weight 0."},
    {"CIRRUS.PULL", pull_command, "readonly", "read slow cirrus", 3, REDIS_KEY_IS_READ,
     "Weights of some ids."},
    {"CIRRUS.PUSH", push_command, "write", "write slow cirrus", 3, REDIS_KEY_IS_CHANGED,
     "An optimiser's step with a mini-batch's gradient."},
    {"CIRRUS.STEP", push_and_pull_command, "write", "write slow cirrus", 3, REDIS_KEY_IS_CHANGED,
     "A push, then a pull, which may have to wait for other workers."},
    {"CIRRUS.SNAPSHOT", snapshot_command, "readonly", "read slow cirrus", -2, REDIS_KEY_IS_READ,
     "All weights, or those of a run of ids."},
    {"CIRRUS.INFO", info_command, "readonly fast", "read fast cirrus", -1, REDIS_KEY_IS_READ,
     "Tells of the module, or of a model and its workers."},
    {"CIRRUS.JOIN", join_command, "write fast", "write fast cirrus", -4, REDIS_KEY_IS_CHANGED,
     "Gives a worker its place, which older generations lose."},
    {"CIRRUS.LEAVE", leave_command, "write fast", "write fast cirrus", 4, REDIS_KEY_IS_CHANGED,
     "Nobody waits for a worker any more."},
};

static bool describe_command(redis_ctx *ctx, const command *one) {
    const redis_key_rule rules[] = {{.flags = one->key_flags,
                                     .begin_kind = REDIS_BEGIN_AT_INDEX,
                                     .begin.index = 1,
                                     .find_kind = REDIS_FIND_BY_RANGE,
                                     .find_last = 0,
                                     .find_step = 1},
                                    {0}};
    const redis_command_sizes sizes = {1, 2 * sizeof(char *), sizeof *rules, 10 * sizeof(char *)};
    const redis_command_info info = {.sizes = &sizes,
                                     .summary = one->summary,
                                     .since = "0.1.0",
                                     .arity = one->arity,
                                     .key_rules = rules};
    if (!redis.GetCommand || !redis.SetCommandInfo)
        return true;
    void *const made = redis.GetCommand(ctx, one->name);
    if (!made || redis.SetCommandInfo(made, &info) != REDIS_OK)
        return false;
    return !redis.AddACLCategory || !redis.SetCommandACLCategories ||
           redis.SetCommandACLCategories(made, one->categories) == REDIS_OK;
}

static bool make_command(redis_ctx *ctx, const command *one) {
    return redis.CreateCommand(ctx, one->name, one->call, one->flags, 1, 1, 1) == REDIS_OK &&
           describe_command(ctx, one);
}

/* 10203 for "1.2.3", as servers show modules' versions. */
static int version_number(void) {
    int major = 0, minor = 0, patch = 0;
    sscanf(CIRRUS_VERSION, "%d.%d.%d", &major, &minor, &patch);
    return 10000 * major + 100 * minor + patch;
}

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int RedisModule_OnLoad(redis_ctx *ctx, redis_string **argv, int argc);
int RedisModule_OnLoad(redis_ctx *ctx, redis_string **argv, int argc) {
    if (!find_redis_api(ctx) || redis.IsModuleNameBusy("cirrus"))
        return REDIS_ERROR;
    redis.SetModuleAttribs(ctx, "cirrus", version_number(), REDIS_API_VERSION);
    module = (module_state){.replication = REPLICATE_VERBATIM};
    if (!read_load_arguments(ctx, argv, argc))
        return REDIS_ERROR;
    if (redis.AddACLCategory && redis.AddACLCategory(ctx, "cirrus") != REDIS_OK)
        return REDIS_ERROR;
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (!make_command(ctx, &COMMANDS[i]))
            return REDIS_ERROR;
    const redis_event replicas = {REDIS_EVENT_REPLICA_CHANGE, 1};
    redis.SubscribeToServerEvent(ctx, replicas, on_replica_change);
    redis.RegisterInfoFunc(ctx, report_to_info);
    redis.Log(ctx, "notice", "cirrus %s, replication %s", CIRRUS_VERSION, replication_name());
    return REDIS_OK;
}

/* Redis asks before it unloads; an error keeps the module. */
EXPORTED int RedisModule_OnUnload(redis_ctx *ctx);
int RedisModule_OnUnload(redis_ctx *ctx) {
    const bool used = module.last_used_ms && redis.Milliseconds() - module.last_used_ms < IN_USE_MS;
    if (used || waiting_clients())
        redis.Log(ctx, "warning", "cirrus stays loaded: a model was used less than a minute ago");
    return used || waiting_clients() ? REDIS_ERROR : REDIS_OK;
}
