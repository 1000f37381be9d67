/* What workers do: pull, push, join and leave. */
#include "module.h"

static bool from_elsewhere(redis_ctx *ctx) {
    return redis.GetContextFlags(ctx) & (REDIS_FROM_MASTER | REDIS_IS_LOADING);
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
        !open_model_bytes(open, REDIS_WRITE))
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
    if (redis.StringTruncate(open->key, whole) != REDIS_OK || !open_model_bytes(open, REDIS_WRITE))
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

/* Answers a pull when the others are as far, now or later. */
static int pull_when_ready(open_key *open, const waiting_pull *pull) {
    const int no_blocking =
        REDIS_IN_LUA | REDIS_IN_MULTI | REDIS_MAY_NOT_BLOCK | REDIS_FROM_MASTER | REDIS_IS_LOADING;
    if (!may_pull(&open->model, pull->worker)) {
        if (redis.GetContextFlags(open->ctx) & no_blocking)
            return answer_with_weights(open->ctx, &open->model, pull->worker, CF_ANSWER_WAIT, NULL,
                                       0);
        if (!drop_silent(open, pull->worker))
            return REDIS_OK;
        wake_pulls(open);
        if (!may_pull(&open->model, pull->worker))
            return block_pull(open, pull);
    }
    return answer_with_weights(open->ctx, &open->model, pull->worker, pull->status, pull->ids,
                               pull->n);
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
        } else if (verdict == PUSH_EARLY && kind == PUSH_AND_PULL) {
            /* A replica that took its master's place may have a round open that was complete
             * there: the push is asked for again when it is complete here too. */
            return pull_when_ready(open, &(waiting_pull){head->worker, CF_ANSWER_WAIT, NULL, 0});
        } else {
            return refuse_push(open, verdict, head->worker);
        }
        note_worker_seen(&open->model, head->worker, now_ms());
        if (open->model.config.consistency != MODEL_ASYNC)
            wake_pulls(open);
    }
    module.n_pulls += kind != ONLY_PUSH;
    const waiting_pull pull = {head->worker, status, request.pull_ids, head->n_pull};
    if (kind == PUSH_AND_PULL)
        return pull_when_ready(open, &pull);
    return answer_with_weights(open->ctx, &open->model, pull.worker, status, pull.ids, pull.n);
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

int pull_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return step_command(ctx, argv, argc, ONLY_PULL);
}

int push_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return step_command(ctx, argv, argc, ONLY_PUSH);
}

int push_and_pull_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return step_command(ctx, argv, argc, PUSH_AND_PULL);
}

/* CIRRUS.SNAPSHOT key [first n]: weights of coordinates, or of all */
int snapshot_command(redis_ctx *ctx, redis_string **argv, int argc) {
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
        awaited = is_word(argv[4], "AWAITED");
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
int join_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return place_command(ctx, argv, argc, true);
}

/* CIRRUS.LEAVE key worker generation: nobody waits for it any more */
int leave_command(redis_ctx *ctx, redis_string **argv, int argc) {
    return place_command(ctx, argv, argc, false);
}
