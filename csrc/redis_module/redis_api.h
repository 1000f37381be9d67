/* redis_api.h -- the part of Redis's module API that is used here, in Redis >= 6.2 and Valkey.
 *
 * A server hands a module one function, by which the others are asked for by name; their meaning is
 * in Redis's module API reference. Types are the server's own and never looked into.
 */
#ifndef REDIS_API_H
#define REDIS_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct RedisModuleCtx redis_ctx;
typedef struct RedisModuleKey redis_key;
typedef struct RedisModuleString redis_string;
typedef struct RedisModuleBlockedClient redis_blocked;
typedef struct RedisModuleInfoCtx redis_info;

typedef struct {
    uint64_t id, version;
} redis_event;

/* What a command is, for COMMAND INFO and for ACL rules by key; from Redis 7.0 on. Lists end with
 * an entry of zeros. */
typedef struct {
    const char *notes;
    uint64_t flags;
    int begin_kind;
    union {
        int index;
        struct {
            const char *word;
            int from;
        } keyword;
    } begin;
    int find_kind;
    int find_last, find_step, find_limit;
} redis_key_rule;

typedef struct {
    int version;
    size_t size_of_change, size_of_key_rule, size_of_argument;
} redis_command_sizes;

typedef struct {
    const redis_command_sizes *sizes;
    const char *summary, *complexity, *since;
    void *changes;
    const char *tips;
    int arity;
    const redis_key_rule *key_rules;
    void *arguments;
} redis_command_info;

typedef int (*redis_call)(redis_ctx *, redis_string **, int);
typedef void (*redis_free)(redis_ctx *, void *);
typedef void (*redis_gone)(redis_ctx *, redis_blocked *);
typedef void (*redis_event_call)(redis_ctx *, redis_event, uint64_t, void *);
typedef void (*redis_info_call)(redis_info *, int);

enum {
    REDIS_OK = 0,
    REDIS_ERROR = 1,
    REDIS_API_VERSION = 1,
    REDIS_READ = 1,
    REDIS_WRITE = 2,
    REDIS_KEY_EMPTY = 0,
    REDIS_KEY_STRING = 1,
    /* What GetContextFlags says */
    REDIS_IN_LUA = 1 << 0,
    REDIS_IN_MULTI = 1 << 1,
    REDIS_FROM_MASTER = 1 << 12,
    REDIS_IS_LOADING = 1 << 13,
    REDIS_MAY_NOT_BLOCK = 1 << 21,
    /* A server event */
    REDIS_EVENT_REPLICA_CHANGE = 6,
    REDIS_REPLICA_ONLINE = 0,
    REDIS_REPLICA_OFFLINE = 1,
    /* Key rules */
    REDIS_KEY_IS_READ = 1 << 0 | 1 << 4,             /* RO, access */
    REDIS_KEY_IS_CHANGED = 1 << 1 | 1 << 4 | 1 << 5, /* RW, access, update */
    REDIS_KEY_IS_MADE = 1 << 1 | 1 << 6,             /* RW, insert */
    REDIS_BEGIN_AT_INDEX = 2,
    REDIS_FIND_BY_RANGE = 2
};

#define REDIS_API_TABLE(X)                                                                         \
    X(void *, Alloc, (size_t))                                                                     \
    X(void, Free, (void *))                                                                        \
    X(void, SetModuleAttribs, (redis_ctx *, const char *, int, int))                               \
    X(int, IsModuleNameBusy, (const char *))                                                       \
    X(int, CreateCommand, (redis_ctx *, const char *, redis_call, const char *, int, int, int))    \
    X(int, WrongArity, (redis_ctx *))                                                              \
    X(int, ReplyWithError, (redis_ctx *, const char *))                                            \
    X(int, ReplyWithSimpleString, (redis_ctx *, const char *))                                     \
    X(int, ReplyWithDouble, (redis_ctx *, double))                                                 \
    X(int, ReplyWithStringBuffer, (redis_ctx *, const char *, size_t))                             \
    X(int, ReplyWithLongLong, (redis_ctx *, long long))                                            \
    X(int, ReplyWithArray, (redis_ctx *, long))                                                    \
    X(const char *, StringPtrLen, (const redis_string *, size_t *))                                \
    X(int, StringToLongLong, (const redis_string *, long long *))                                  \
    X(int, StringToDouble, (const redis_string *, double *))                                       \
    X(redis_string *, CreateStringFromString, (redis_ctx *, const redis_string *))                 \
    X(void, FreeString, (redis_ctx *, redis_string *))                                             \
    X(int, StringCompare, (const redis_string *, const redis_string *))                            \
    X(redis_key *, OpenKey, (redis_ctx *, redis_string *, int))                                    \
    X(void, CloseKey, (redis_key *))                                                               \
    X(int, KeyType, (redis_key *))                                                                 \
    X(char *, StringDMA, (redis_key *, size_t *, int))                                             \
    X(int, StringTruncate, (redis_key *, size_t))                                                  \
    X(int, SetExpire, (redis_key *, long long))                                                    \
    X(int, GetSelectedDb, (redis_ctx *))                                                           \
    X(int, GetContextFlags, (redis_ctx *))                                                         \
    X(int, Replicate, (redis_ctx *, const char *, const char *, ...))                              \
    X(int, ReplicateVerbatim, (redis_ctx *))                                                       \
    X(long long, Milliseconds, (void))                                                             \
    X(void, Log, (redis_ctx *, const char *, const char *, ...))                                   \
    X(redis_blocked *, BlockClient, (redis_ctx *, redis_call, redis_call, redis_free, long long))  \
    X(int, UnblockClient, (redis_blocked *, void *))                                               \
    X(void, SetDisconnectCallback, (redis_blocked *, redis_gone))                                  \
    X(void *, GetBlockedClientPrivateData, (redis_ctx *))                                          \
    X(redis_blocked *, GetBlockedClientHandle, (redis_ctx *))                                      \
    X(int, SubscribeToServerEvent, (redis_ctx *, redis_event, redis_event_call))                   \
    X(int, RegisterInfoFunc, (redis_ctx *, redis_info_call))                                       \
    X(int, InfoAddSection, (redis_info *, const char *))                                           \
    X(int, InfoAddFieldCString, (redis_info *, const char *, const char *))                        \
    X(int, InfoAddFieldULongLong, (redis_info *, const char *, unsigned long long))

/* What older servers may lack: NULL then. */
#define REDIS_LATER_API_TABLE(X)                                                                   \
    X(void *, GetCommand, (redis_ctx *, const char *))                                             \
    X(int, SetCommandInfo, (void *, const redis_command_info *))                                   \
    X(int, AddACLCategory, (redis_ctx *, const char *))                                            \
    X(int, SetCommandACLCategories, (void *, const char *))

typedef struct {
#define REDIS_API_FIELD(type, name, arguments) type(*name) arguments;
    REDIS_API_TABLE(REDIS_API_FIELD)
    REDIS_LATER_API_TABLE(REDIS_API_FIELD)
#undef REDIS_API_FIELD
} redis_api;

/* Filled when the module is loaded. */
extern redis_api redis;

/* False: the server lacks a function it needs. */
bool find_redis_api(redis_ctx *ctx);

#endif
