#include "redis_api.h"

#include <string.h>

redis_api redis;

typedef int (*get_api)(const char *, void *);

bool find_redis_api(redis_ctx *ctx) {
    get_api get;
    memcpy(&get, ctx, sizeof get); /* a context begins with it */
    bool all = true;
#define FIND(type, name, arguments) all &= get("RedisModule_" #name, &redis.name) == REDIS_OK;
    REDIS_API_TABLE(FIND)
#undef FIND
#define FIND_LATER(type, name, arguments) (void)get("RedisModule_" #name, &redis.name);
    REDIS_LATER_API_TABLE(FIND_LATER)
#undef FIND_LATER
    return all;
}
