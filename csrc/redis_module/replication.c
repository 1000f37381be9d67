/* How changes reach replicas and the append-only file (docs/redis-module.md). */
#include "module.h"

/* Changes closer than this go as one: a SETRANGE costs some 60 bytes of its own. */
enum { NEAR_BYTES = 64 };

const char *replication_name(void) {
    return module.replication == REPLICATE_RANGES ? "ranges" : "verbatim";
}

void replicate_command(redis_ctx *ctx) {
    if (module.replication == REPLICATE_VERBATIM)
        redis.ReplicateVerbatim(ctx);
}

static void replicate_bytes(const open_key *open, size_t from, size_t to) {
    redis.Replicate(open->ctx, "SETRANGE", "slb", open->name, (long long)from,
                    (const char *)open->model.head + from, to - from);
}

void replicate_ranges(const open_key *open, const uint32_t *ids, size_t n, bool all_slots,
                      uint32_t worker) {
    if (module.replication != REPLICATE_RANGES)
        return;
    const server_model *const model = &open->model;
    const size_t width = coordinate_bytes(model);
    if (all_slots) {
        replicate_bytes(open, 0, slot_offset(model->config.n_workers));
    } else {
        replicate_bytes(open, 0, MODEL_HEAD);
        replicate_bytes(open, slot_offset(worker), slot_offset(worker) + MODEL_SLOT);
    }
    for (size_t i = 0; i < n;) {
        const size_t from = coordinate_offset(model, ids[i]);
        size_t to = from + width;
        for (i++; i < n && coordinate_offset(model, ids[i]) <= to + NEAR_BYTES; i++)
            to = coordinate_offset(model, ids[i]) + width;
        replicate_bytes(open, from, to);
    }
    const size_t intercept = coordinate_offset(model, model->config.n_ids);
    replicate_bytes(open, intercept, intercept + width);
}

void replicate_whole(const open_key *open, long long ttl_ms) {
    if (module.replication != REPLICATE_RANGES)
        return;
    redis.Replicate(open->ctx, "SET", "sb", open->name, (const char *)open->model.head,
                    open->model.fixed_bytes);
    if (ttl_ms > 0)
        redis.Replicate(open->ctx, "PEXPIRE", "sl", open->name, ttl_ms);
}
