#include "cf_shard.h"

#include "cf_bits.h"

size_t cf_shard_ids(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                    uint32_t *out) {
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        if (ids[i] % n_shards == shard)
            out[found++] = ids[i] / n_shards;
    return found;
}

void cf_shard_take(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                   const float *values, float *out) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] % n_shards == shard)
            *out++ = values[i];
}

void cf_shard_put(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                  const uint8_t *values, float *out) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] % n_shards == shard) {
            out[i] = cf_load_f32(values);
            values += 4;
        }
}
