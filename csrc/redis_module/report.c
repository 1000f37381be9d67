/* What the module tells of itself and of models. */
#include "module.h"

#include <string.h>

static void text(redis_ctx *ctx, const char *name, const char *value) {
    redis.ReplyWithStringBuffer(ctx, name, strlen(name));
    redis.ReplyWithStringBuffer(ctx, value, strlen(value));
}

static void number(redis_ctx *ctx, const char *name, uint64_t value) {
    redis.ReplyWithStringBuffer(ctx, name, strlen(name));
    redis.ReplyWithLongLong(ctx, (long long)value);
}

static void real(redis_ctx *ctx, const char *name, double value) {
    redis.ReplyWithStringBuffer(ctx, name, strlen(name));
    redis.ReplyWithDouble(ctx, value);
}

static void bytes(redis_ctx *ctx, const char *name, const uint8_t *at, size_t n) {
    redis.ReplyWithStringBuffer(ctx, name, strlen(name));
    redis.ReplyWithStringBuffer(ctx, (const char *)at, n);
}

static int report_module(redis_ctx *ctx) {
    redis.ReplyWithArray(ctx, 2 * 5);
    text(ctx, "version", CIRRUS_VERSION);
    number(ctx, "protocol", CF_STEP_VERSION);
    number(ctx, "format", MODEL_FORMAT);
    text(ctx, "replication", replication_name());
    number(ctx, "replicas", module.n_replicas);
    return REDIS_OK;
}

static void report_model(redis_ctx *ctx, const server_model *model) {
    static const char *const OPTIMIZERS[] = {"sgd", "adagrad", "ftrl"};
    static const char *const CONSISTENCIES[] = {"async", "ssp", "bsp"};
    const model_config *const config = &model->config;
    redis.ReplyWithArray(ctx, 2 * 19);
    text(ctx, "version", CIRRUS_VERSION);
    number(ctx, "protocol", CF_STEP_VERSION);
    number(ctx, "format", MODEL_FORMAT);
    text(ctx, "optimizer", OPTIMIZERS[config->optimizer.kind]);
    real(ctx, "rate", config->optimizer.learning_rate);
    number(ctx, "ids", config->n_ids);
    number(ctx, "workers", config->n_workers);
    text(ctx, "consistency", CONSISTENCIES[config->consistency]);
    number(ctx, "staleness", config->staleness);
    number(ctx, "expiry_ms", config->expiry_ms);
    number(ctx, "bytes", model->fixed_bytes + model->held_bytes);
    number(ctx, "held_bytes", model->held_bytes);
    number(ctx, "state_offset", coordinate_offset(model, 0));
    number(ctx, "penalties_offset",
           config->penalized ? (size_t)(model->penalties - model->head) : 0);
    number(ctx, "diverged", model_diverged(model));
    number(ctx, "updates", model_updates(model));
    real(ctx, "rows_seen", model_rows_seen(model));
    real(ctx, "intercept", model_intercept(model));
    bytes(ctx, "slots", model->slots, (size_t)config->n_workers * MODEL_SLOT);
}

/* CIRRUS.INFO [key]: names and values, of the module or of a model */
int info_command(redis_ctx *ctx, redis_string **argv, int argc) {
    open_key open;
    if (argc == 1)
        return report_module(ctx);
    if (argc != 2)
        return redis.WrongArity(ctx);
    if (!open_model_key(ctx, argv[1], REDIS_READ, &open))
        return REDIS_OK;
    report_model(ctx, &open.model);
    close_model_key(&open);
    return REDIS_OK;
}

void report_to_info(redis_info *info, int for_crash_report) {
    (void)for_crash_report;
    redis.InfoAddSection(info, "parameter_server");
    redis.InfoAddFieldCString(info, "version", CIRRUS_VERSION);
    redis.InfoAddFieldCString(info, "replication", replication_name());
    redis.InfoAddFieldULongLong(info, "protocol", CF_STEP_VERSION);
    redis.InfoAddFieldULongLong(info, "replicas", module.n_replicas);
    redis.InfoAddFieldULongLong(info, "pulls", module.n_pulls);
    redis.InfoAddFieldULongLong(info, "pushes", module.n_pushes);
    redis.InfoAddFieldULongLong(info, "duplicates", module.n_duplicates);
    redis.InfoAddFieldULongLong(info, "rounds", module.n_merges);
    redis.InfoAddFieldULongLong(info, "waits", module.n_waits);
    redis.InfoAddFieldULongLong(info, "waiting_clients", waiting_clients());
    redis.InfoAddFieldULongLong(info, "silent_workers", module.n_silent);
    redis.InfoAddFieldULongLong(info, "refused", module.n_refused);
    redis.InfoAddFieldULongLong(info, "diverged", module.n_diverged);
    redis.InfoAddFieldULongLong(info, "request_bytes", module.request_bytes);
    redis.InfoAddFieldULongLong(info, "answer_bytes", module.answer_bytes);
    redis.InfoAddFieldULongLong(info, "memory_bytes", command_memory_bytes() + waiting_bytes());
}
