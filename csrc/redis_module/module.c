/* module.c -- Redis as a parameter server: what the server is told when it loads this
 * (docs/redis-module.md).
 *
 * Redis runs one command at a time in one thread, so nothing here locks. What a command's bytes say
 * is checked by server_steps.c and cf_step.c before anything is changed. */
#include "module.h"

#include <stdio.h>
#include <strings.h>

module_state module;

enum { IN_USE_MS = 60000 };

bool is_word(const redis_string *argument, const char *word) {
    return strcasecmp(redis.StringPtrLen(argument, &(size_t){0}), word) == 0;
}

/* Which of `words` an argument is, or -1. */
int which_word(const redis_string *argument, const char *const *words) {
    for (int i = 0; words[i]; i++)
        if (is_word(argument, words[i]))
            return i;
    return -1;
}

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
