/* cf_shard.h -- coordinates that are spread over the keys of a parameter store: coordinate i is
 * coordinate i / n_shards of key i % n_shards.
 */
#ifndef CF_SHARD_H
#define CF_SHARD_H

#include <stddef.h>
#include <stdint.h>

/* Those of ids[n] that are of a shard, as they are called there; returns how many. */
size_t cf_shard_ids(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                    uint32_t *out);

/* Of values[n] by id those that are of a shard, and the way back, from bytes. */
void cf_shard_take(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                   const float *values, float *out);
void cf_shard_put(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                  const uint8_t *values, float *out);

#endif
