/* Models in keys, and answers about them. */
#include <stdarg.h>
#include <stdio.h>

#include "module.h"

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

bool open_model_bytes(open_key *open, int mode) {
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
    else if (open_model_bytes(open, mode)) {
        module.last_used_ms = redis.Milliseconds();
        return true;
    }
    close_model_key(open);
    return false;
}

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
