/* cf_dictionary.h -- what the blocks of one data set share: popular ids and their usual values.
 *
 * An id of the dictionary has a rank, and ranks are cut into tiers: the first holds the most
 * popular ids (a row has one bit for each), three more name a member by a number of 8, 12 or 16
 * bits. Ids outside are written as they are, so a dictionary made from a sample serves any rows.
 *
 * The first ids of the first tier have value tables: their usual values, most frequent first.
 * "Narrow" tables are read with codes of one byte, "wide" ones (many values, none frequent) with
 * two. A tier consists of runs in which ids increase; only the first tier has more than one:
 * narrow, wide, and those without table.
 *
 * The serialised form is described byte by byte in docs/shard-format.md. All functions read and
 * write only memory the caller hands in; what was parsed is never written to again, so any number
 * of threads may use it.
 */
#ifndef CF_DICTIONARY_H
#define CF_DICTIONARY_H

#include <stddef.h>
#include <stdint.h>

#include "cf_dispatch.h"
#include "cf_status.h"

enum {
    CF_DICTIONARY_VERSION = 1,
    CF_DICTIONARY_HEADER = 56,
    CF_TIERS = 4, /* the bitmap, then numbers of 8, 12 and 16 bits */
    CF_MAX_BITMAP = 4096,
    CF_MAX_TABLES = 256,
    CF_MAX_DICTIONARY_IDS = CF_MAX_BITMAP + 256 + 4096 + 65536,
    CF_NARROW_ESCAPE = 0xff, /* a code that means "see the next two bytes" */
    CF_WIDE_ESCAPE = 0xffff  /* two bytes that mean "see the next four: the value itself" */
};

/* How many members a tier may have. */
static inline uint32_t cf_tier_room(unsigned tier) {
    return tier == 0 ? CF_MAX_BITMAP : tier == 1 ? 256 : tier == 2 ? 4096 : 65536;
}

typedef struct {
    uint32_t begin, n; /* values[begin, begin + n) of the dictionary */
} cf_value_table;

/* Most values of a table. */
static inline uint32_t cf_value_table_room(int is_wide) {
    return (is_wide ? 0 : CF_NARROW_ESCAPE) + (uint32_t)CF_WIDE_ESCAPE;
}

typedef struct {
    uint64_t identity; /* hash of the contents, never 0 */
    uint32_t n_ids, n_values;
    uint32_t tier_begin[CF_TIERS]; /* first rank of each tier */
    uint32_t tier_size[CF_TIERS];
    uint32_t bitmap_bytes; /* of a row: a bit for each member of tier 0 */
    uint32_t n_narrow,
        n_wide;          /* ranks [0, n_narrow) have narrow tables, the next n_wide wide ones */
    const uint32_t *ids; /* [n_ids + CF_DICTIONARY_SLACK], by rank */
    const cf_value_table *tables; /* [n_narrow + n_wide], by rank */
    const uint32_t *values;       /* [n_values], bits of float32 */
    const float *narrow;          /* [n_narrow, to a multiple of 8][256]: value by code, 0 past n */
    const uint64_t *spread;       /* [256] of a byte, the places of its bits, a byte each */
} cf_dictionary;

/* Vectors read past the end of ids. */
enum { CF_DICTIONARY_SLACK = 16 };

/* How many 8-byte words cf_dictionary_parse needs, read from the header: at most 64 bytes for each
 * byte of the stream of ids, 260 for each byte of the tables, 1 for each byte of the values, and
 * 12 kB. On failure *n_words is untouched. */
cf_status cf_dictionary_measure(const uint8_t *data, size_t n, size_t *n_words);

/* Checks everything and fills `memory`, which begins with the cf_dictionary itself and must stay
 * where it is. CF_E_CHECKSUM is not reported when skip_checksum is set (for fuzzing only). */
cf_status cf_dictionary_parse(const cf_kernels *kernels, const uint8_t *data, size_t n,
                              int skip_checksum, uint64_t *memory, size_t n_words);

/* The dictionary of a block that has none. */
extern const cf_dictionary cf_no_dictionary;

/* Makes a serialised dictionary of the rows of a sample. `indices` of a row must increase.
 *
 * scratch: cf_dictionary_build_scratch(nnz) words. out: cf_dictionary_bound(nnz, max_ids) bytes.
 * Time is linear: ids are counted, and the values of the popular ones sorted by radix. Ids seen
 * once stay outside. */
size_t cf_dictionary_build_scratch(size_t nnz);
size_t cf_dictionary_bound(size_t nnz, uint32_t max_ids);
cf_status cf_dictionary_build(const cf_kernels *kernels, size_t n_rows, const int64_t *indptr,
                              const uint32_t *indices, const float *data, uint32_t max_ids,
                              uint64_t *scratch, uint8_t *out, size_t *n_out);

/* Sorts keys[0, n) upwards; scratch: n keys. */
void cf_sort_u64(uint64_t *keys, uint64_t *scratch, size_t n);

#endif
