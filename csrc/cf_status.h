/* cf_status.h -- the outcome of a kernel.
 *
 * Kernels never print, allocate, exit or raise: they return a cf_status by value. `offset` is the
 * 0-based byte (for text and blocks) or the entry (for arrays) that the code speaks of, counted
 * from the start of the caller's buffer; it is 0 where a code needs none.
 */
#ifndef CF_STATUS_H
#define CF_STATUS_H

#include <stddef.h>

#define CF_STATUS_TABLE(X)                                                                         \
    X(CF_OK, "success")                                                                            \
    X(CF_E_ROOM, "output buffer too small")                                                        \
    /* text */                                                                                     \
    X(CF_E_LABEL, "label is not a number")                                                         \
    X(CF_E_LABEL_COLON, "label is missing, or is label:weight without label_weights=True")         \
    X(CF_E_WEIGHT, "sample weight is not a number >= 0")                                           \
    X(CF_E_COLON, "feature has no colon")                                                          \
    X(CF_E_INDEX, "feature index is not a whole number")                                           \
    X(CF_E_INDEX_ZERO, "feature index 0 in one-based data")                                        \
    X(CF_E_INDEX_RANGE, "feature index is too large")                                              \
    X(CF_E_ORDER, "feature indices must increase within a row")                                    \
    X(CF_E_VALUE_MISSING, "feature value is missing")                                              \
    X(CF_E_VALUE, "feature value is not a number")                                                 \
    X(CF_E_NONFINITE, "nan or infinity without allow_nonfinite=True")                              \
    X(CF_E_VALUE_RANGE, "number is outside the range of float32")                                  \
    X(CF_E_BYTE, "NUL byte or stray carriage return")                                              \
    X(CF_E_QID, "qid is not a whole number, or not directly after the label")                      \
    /* Criteo rows */                                                                              \
    X(CF_E_CRITEO_COLUMNS, "wrong number of columns")                                              \
    X(CF_E_CRITEO_LABEL, "label is not 0 or 1")                                                    \
    X(CF_E_CRITEO_NUMBER, "integer column is not a number")                                        \
    X(CF_E_CRITEO_QUOTE, "cell in quotes")                                                         \
    X(CF_E_CRITEO_HEADER, "header is not [Id,][Label,]I1,..,I13,C1,..,C26")                        \
    /* blocks */                                                                                   \
    X(CF_E_TRUNCATED, "block ends early")                                                          \
    X(CF_E_MAGIC, "not a cirrus_fast block")                                                       \
    X(CF_E_VERSION, "block was written by a newer format version")                                 \
    X(CF_E_CHECKSUM, "checksum mismatch: the block is damaged")                                    \
    X(CF_E_CORRUPT, "block contents contradict each other")                                        \
    X(CF_E_DICTIONARY, "block belongs to another dictionary")                                      \
    /* arrays */                                                                                   \
    X(CF_E_INDPTR, "indptr must start at 0, never decrease and end at nnz")                        \
    X(CF_E_ROW, "row number is outside the data")                                                  \
    X(CF_E_ID, "feature id is outside the model")                                                  \
    X(CF_E_DISTINCT, "mini-batch has too many distinct features")                                  \
    /* replies of a parameter store */                                                             \
    X(CF_E_REPLY, "not the reply of such a command")                                               \
    X(CF_E_REPLY_ERROR, "the server refuses the command")                                          \
    X(CF_E_MESSAGE, "message is malformed")

typedef enum {
#define CF_STATUS_ENUM(code, text) code,
    CF_STATUS_TABLE(CF_STATUS_ENUM)
#undef CF_STATUS_ENUM
        CF_N_CODES
} cf_code;

typedef struct {
    cf_code code;
    size_t offset;
} cf_status;

static inline cf_status cf_ok(void) {
    cf_status status = {CF_OK, 0};
    return status;
}

static inline cf_status cf_fail(cf_code code, size_t offset) {
    cf_status status = {code, offset};
    return status;
}

/* The sentence of a code, lower case, no full stop; never NULL. */
const char *cf_strerror(cf_code code);

#endif
