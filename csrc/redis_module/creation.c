/* CIRRUS.CREATE */
#include <limits.h>

#include "module.h"

enum { DEFAULT_EXPIRY_MS = 60000 };

typedef struct {
    model_config config;
    float intercept;
    long long ttl_ms;
} creation;

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
int create_command(redis_ctx *ctx, redis_string **argv, int argc) {
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
        if (open_model_bytes(&open, REDIS_WRITE)) {
            replicate_command(ctx);
            replicate_whole(&open, made.ttl_ms);
            redis.ReplyWithSimpleString(ctx, "OK");
        }
        module.last_used_ms = redis.Milliseconds();
    }
    close_model_key(&open);
    return REDIS_OK;
}
