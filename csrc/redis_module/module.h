/* module.h -- what the files of the module share (internal). */
#ifndef MODULE_H
#define MODULE_H

#include "redis_api.h"
#include "server_model.h"

#ifndef CIRRUS_VERSION
#error "CIRRUS_VERSION is the package's version, from setup.py"
#endif

/* How a change reaches replicas and the append-only file. */
typedef enum {
    REPLICATE_VERBATIM, /* the command itself: they need the module */
    REPLICATE_RANGES    /* what it changed, by SETRANGE: they need not, at many times the bytes */
} replication_mode;

/* All that the module remembers between commands, but for waiting.c's list. */
typedef struct {
    replication_mode replication;
    long long last_used_ms;
    uint64_t n_pulls, n_pushes, n_duplicates, n_refused, n_waits, n_silent, n_diverged, n_merges;
    uint64_t request_bytes, answer_bytes;
    uint64_t n_replicas;
} module_state;
extern module_state module;

/* A model that is open in a key. */
typedef struct {
    redis_ctx *ctx;
    redis_string *name;
    redis_key *key;
    server_model model;
} open_key;

/* Opens it, or answers with an error and returns false. mode: REDIS_READ, REDIS_WRITE. */
bool open_model_key(redis_ctx *ctx, redis_string *name, int mode, open_key *open);
void close_model_key(open_key *open);
/* Opens its bytes again, where they may have moved. */
bool open_model_bytes(open_key *open, int mode);

/* Redis's own limit to what a module may make of a string. */
enum { MOST_BYTES = 512 << 20 };

static inline uint64_t now_ms(void) { return (uint64_t)redis.Milliseconds(); }

/* Answers with the model's standing and the weights of ids, all of which must be below n_ids. */
int answer_with_weights(redis_ctx *ctx, const server_model *model, uint32_t worker,
                        cf_answer_status status, const uint32_t *ids, size_t n);

int answer_error(redis_ctx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Memory that is good until the command ends. */
typedef enum { FOR_REQUEST, FOR_ANSWER, FOR_MERGE, N_PURPOSES } memory_purpose;
void *command_memory(memory_purpose purpose, size_t n);
size_t command_memory_bytes(void);

/* waiting.c: workers whose pull must wait for others. */
typedef struct {
    uint32_t worker;
    cf_answer_status status; /* to answer with in the end */
    const uint32_t *ids;
    size_t n;
} waiting_pull;
int block_pull(const open_key *open, const waiting_pull *pull);
/* Answers those that may pull by now. */
void wake_pulls(const open_key *open);
size_t waiting_clients(void);
size_t waiting_bytes(void);

/* Whether an argument is a word, in any case; which of `words` it is, or -1. */
bool is_word(const redis_string *argument, const char *word);
int which_word(const redis_string *argument, const char *const *words);

/* steps.c, creation.c: commands. */
int pull_command(redis_ctx *ctx, redis_string **argv, int argc);
int push_command(redis_ctx *ctx, redis_string **argv, int argc);
int push_and_pull_command(redis_ctx *ctx, redis_string **argv, int argc);
int snapshot_command(redis_ctx *ctx, redis_string **argv, int argc);
int join_command(redis_ctx *ctx, redis_string **argv, int argc);
int leave_command(redis_ctx *ctx, redis_string **argv, int argc);
int create_command(redis_ctx *ctx, redis_string **argv, int argc);

/* replication.c */
void replicate_command(redis_ctx *ctx);
void replicate_ranges(const open_key *open, const uint32_t *ids, size_t n, bool all_slots,
                      uint32_t worker);
void replicate_whole(const open_key *open, long long ttl_ms);

/* report.c: CIRRUS.INFO, and the section of Redis's own INFO. */
int info_command(redis_ctx *ctx, redis_string **argv, int argc);
void report_to_info(redis_info *info, int for_crash_report);
const char *replication_name(void);

#endif
