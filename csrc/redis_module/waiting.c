/* Workers whose pull must wait for others: blocked clients, by key.
 *
 * None waits longer than LONGEST_WAIT_MS: it is then told to ask again, which is also when workers
 * that were silent for too long are found out (steps.c). */
#include <string.h>

#include "module.h"

enum { LONGEST_WAIT_MS = 1000 };

typedef struct waiter {
    struct waiter *next;
    redis_blocked *client;
    redis_string *key;
    int db;
    uint32_t worker;
    cf_answer_status status;
    size_t n;
    uint32_t ids[];
} waiter;

static waiter *waiters; /* the last to come first */
static size_t n_waiters, n_bytes;

static size_t size_of(const waiter *w) { return sizeof *w + w->n * sizeof *w->ids; }

static void free_waiter(redis_ctx *ctx, void *memory) {
    waiter *const w = memory;
    redis.FreeString(ctx, w->key);
    redis.Free(w);
}

/* Takes the waiter at *link off the list. */
static waiter *unlink_waiter(waiter **link) {
    waiter *const w = *link;
    *link = w->next;
    n_waiters--;
    n_bytes -= size_of(w);
    return w;
}

static waiter *take_waiter_of(const redis_blocked *client) {
    for (waiter **link = &waiters; *link; link = &(*link)->next)
        if ((*link)->client == client)
            return unlink_waiter(link);
    return NULL;
}

/* The wait is over. */
static int answer_pull(redis_ctx *ctx, redis_string **argv, int argc) {
    (void)argv, (void)argc;
    const waiter *const w = redis.GetBlockedClientPrivateData(ctx);
    open_key open;
    if (!open_model_key(ctx, w->key, REDIS_READ, &open))
        return REDIS_OK;
    /* Another model may have taken the key's place. */
    if (w->worker >= open.model.config.n_workers ||
        (w->n && w->ids[w->n - 1] >= open.model.config.n_ids))
        answer_error(ctx, "CIRRUSBAD the model was replaced while the worker waited");
    else
        answer_with_weights(ctx, &open.model, w->worker, w->status, w->ids, w->n);
    close_model_key(&open);
    return REDIS_OK;
}

static int answer_wait(redis_ctx *ctx, redis_string **argv, int argc) {
    (void)argv, (void)argc;
    waiter *const w = take_waiter_of(redis.GetBlockedClientHandle(ctx));
    open_key open;
    if (!w) /* cannot be */
        return answer_error(ctx, "CIRRUSBAD nobody waits");
    if (open_model_key(ctx, w->key, REDIS_READ, &open)) {
        answer_with_weights(ctx, &open.model, w->worker, CF_ANSWER_WAIT, NULL, 0);
        close_model_key(&open);
    }
    free_waiter(ctx, w);
    return REDIS_OK;
}

static void forget_client(redis_ctx *ctx, redis_blocked *client) {
    waiter *const w = take_waiter_of(client);
    if (w)
        free_waiter(ctx, w);
}

int block_pull(const open_key *open, const waiting_pull *pull) {
    waiter *const w = redis.Alloc(sizeof *w + pull->n * sizeof *w->ids);
    *w = (waiter){
        .next = waiters,
        .client =
            redis.BlockClient(open->ctx, answer_pull, answer_wait, free_waiter, LONGEST_WAIT_MS),
        .key = redis.CreateStringFromString(NULL, open->name),
        .db = redis.GetSelectedDb(open->ctx),
        .worker = pull->worker,
        .status = pull->status,
        .n = pull->n,
    };
    if (pull->n)
        memcpy(w->ids, pull->ids, pull->n * sizeof *w->ids);
    redis.SetDisconnectCallback(w->client, forget_client);
    waiters = w;
    n_waiters++;
    n_bytes += size_of(w);
    module.n_waits++;
    return REDIS_OK;
}

void wake_pulls(const open_key *open) {
    if (!waiters)
        return;
    const int db = redis.GetSelectedDb(open->ctx);
    for (waiter **link = &waiters; *link;) {
        const waiter *const w = *link;
        if (w->db == db && redis.StringCompare(w->key, open->name) == 0 &&
            may_pull(&open->model, w->worker)) {
            waiter *const woken = unlink_waiter(link);
            redis.UnblockClient(woken->client, woken);
        } else {
            link = &(*link)->next;
        }
    }
}

size_t waiting_clients(void) { return n_waiters; }
size_t waiting_bytes(void) { return n_bytes; }
