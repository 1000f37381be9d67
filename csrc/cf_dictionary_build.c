/* Making a dictionary from a sample: which ids, in which tiers, with which values. */
#include "cf_dictionary.h"

#include "cf_bits.h"

/* Least significant digit first, 11 bits a pass; digits in which all keys agree are skipped, so
 * ids below 2^22 take two passes. Small arrays are sorted by insertion. */
void cf_sort_u64(uint64_t *keys, uint64_t *scratch, size_t n) {
    if (n < 64) {
        for (size_t i = 1; i < n; i++) {
            const uint64_t key = keys[i];
            size_t j = i;
            for (; j > 0 && keys[j - 1] > key; j--)
                keys[j] = keys[j - 1];
            keys[j] = key;
        }
        return;
    }
    uint64_t *from = keys, *to = scratch;
    for (unsigned shift = 0; shift < 64; shift += 11) {
        size_t begin[2048] = {0};
        for (size_t i = 0; i < n; i++)
            begin[from[i] >> shift & 2047]++;
        if (begin[from[0] >> shift & 2047] == n)
            continue;
        size_t at = 0;
        for (size_t digit = 0; digit < 2048; digit++) {
            const size_t count = begin[digit];
            begin[digit] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++)
            to[begin[from[i] >> shift & 2047]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys)
        memcpy(keys, from, n * sizeof *keys);
}

uint64_t cf_value_table_choose(const uint32_t *counts, size_t n, uint64_t total,
                               unsigned value_cost, uint64_t *prefix, cf_value_table *table) {
    prefix[0] = 0;
    for (size_t i = 0; i < n; i++)
        prefix[i + 1] = prefix[i] + counts[i];
    uint64_t best = 32 * total;
    table->n = 0;
    table->first_bits = table->second_bits = 0;
    for (unsigned a = 1; a <= CF_MAX_CODE_BITS; a++) {
        for (unsigned b = 0; b <= CF_MAX_CODE_BITS; b++) {
            const size_t first = cf_code_limit(a) < n ? cf_code_limit(a) : n;
            const size_t all = first + cf_code_limit(b) < n ? first + cf_code_limit(b) : n;
            const uint64_t bits = total * a + (total - prefix[first]) * b +
                                  (total - prefix[all]) * 32 + all * (uint64_t)value_cost;
            if (bits < best) {
                best = bits;
                table->n = (uint16_t)all;
                table->first_bits = (uint8_t)a;
                table->second_bits = (uint8_t)b;
            }
            if (all == n)
                break; /* more bits hold nothing more */
        }
        if (cf_code_limit(a) >= n)
            break;
    }
    return best;
}

/* ---- ids ---- */

/* Sizes of the tiers for ids that occur counts[i] times, most frequent first. */
typedef struct {
    uint32_t size[CF_TIERS];
    unsigned n_tiers;
} tier_plan;

/* Expected bits of a row's count of members, for a mean: room for about twice the mean. */
static double count_bits(double mean) { return (double)cf_bit_length((uint32_t)(2 * mean + 1)); }

/* Tries all sets of up to five widths (about 10,000) and keeps the one with the fewest bits. Each
 * id of the dictionary is charged a byte, its usual size there, so rare ids stay outside.
 *
 * mass[i] is how often the i most frequent ids occur together, raw_bits what an id outside takes,
 * plain_bits what all ids of the sample take without a dictionary. */
static tier_plan choose_tiers(const uint64_t *mass, uint32_t n, uint64_t total, uint64_t n_rows,
                              unsigned raw_bits, uint64_t plain_bits) {
    tier_plan best = {{0}, 0};
    const double rows = n_rows != 0 ? (double)n_rows : 1;
    /* A bit in every row beats a code of some 8 bits for ids in more than an eighth of the rows. */
    uint32_t bitmap = 0;
    while (bitmap < n && bitmap < CF_MAX_BITMAP && 8 * (mass[bitmap + 1] - mass[bitmap]) > n_rows)
        bitmap++;
    double best_bits = (double)(total - mass[bitmap]) * raw_bits;
    best.size[0] = bitmap;
    /* Bit k of a set stands for a tier of k + 1 bits: 2 to 16, never more than five of them. */
    for (uint32_t set = 1; set < 1u << 16; set++) {
        if (__builtin_popcount(set) >= CF_TIERS)
            continue;
        tier_plan plan = {{bitmap}, 0};
        uint32_t at = bitmap;
        double bits = 0;
        for (uint32_t rest = set; rest != 0 && at < n; rest &= rest - 1) {
            const uint32_t width = (uint32_t)__builtin_ctz(rest) + 1;
            const uint32_t size = n - at < 1u << width ? n - at : 1u << width;
            const double members = (double)(mass[at + size] - mass[at]);
            bits += members * width + 8.0 * size + rows * count_bits(members / rows);
            plan.size[++plan.n_tiers] = size;
            at += size;
        }
        bits += (double)(total - mass[at]) * raw_bits;
        if (bits < best_bits) {
            best_bits = bits;
            best = plan;
        }
    }
    const tier_plan none = {{0}, 0};
    return best_bits < 0.97 * (double)plain_bits ? best : none;
}

/* What the ids take as gaps. */
static uint64_t plain_bits(size_t n_rows, const int64_t *indptr, const uint32_t *indices) {
    uint64_t gaps[33] = {0};
    for (size_t row = 0; row < n_rows; row++) {
        uint32_t next = 0;
        for (int64_t e = indptr[row]; e < indptr[row + 1]; e++) {
            gaps[cf_bit_length(indices[e] - next)]++;
            next = indices[e] + 1;
        }
    }
    return cf_gap_code_cost(cf_gap_code_choose(gaps), gaps);
}

/* Distinct ids and how often each occurs: sorted[] becomes count << 32 | id in the order of ids. */
static size_t count_ids(uint64_t *sorted, size_t n) {
    size_t n_distinct = 0;
    for (size_t i = 0; i < n;) {
        const uint64_t id = sorted[i];
        const size_t start = i;
        while (i < n && sorted[i] == id)
            i++;
        sorted[n_distinct++] = (uint64_t)(i - start) << 32 | id;
    }
    return n_distinct;
}

static uint8_t *write_ids(uint8_t *out, uint8_t *header, const uint64_t *ranked,
                          const tier_plan *plan) {
    uint64_t histogram[33] = {0};
    cf_bit_writer w = {out, 0, 0};
    cf_gap_code code = {0, {0}};
    for (int pass = 0; pass < 2; pass++) {
        const uint64_t *id = ranked;
        for (unsigned t = 0; t <= plan->n_tiers; t++) {
            uint32_t next = 0;
            for (uint32_t i = 0; i < plan->size[t]; i++, id++) {
                const uint32_t gap = (uint32_t)(*id >> 32) - next;
                next = (uint32_t)(*id >> 32) + 1;
                if (pass == 0)
                    histogram[cf_bit_length(gap)]++;
                else
                    cf_gap_put(&w, code, gap);
            }
        }
        if (pass == 0)
            code = cf_gap_code_choose(histogram);
    }
    header[53] = code.class_bits;
    memcpy(header + 54, code.width, 4);
    return w.at + (w.n_pending != 0);
}

/* ---- values ---- */

enum { ONE_BITS = 0x3f800000 };

/* One id's entries other than 1.0, sorted: id << 32 | bits, pairs[0, n). */
typedef struct {
    const uint64_t *pairs;
    size_t n;
} value_group;

/* Room for one group: its distinct values with their counts, and what sorting and choosing takes.
 */
typedef struct {
    uint64_t *ranked, *sort, *prefix;
    uint32_t *counts;
} value_scratch;

/* Chooses the table of an id with `n_entries` entries in all, and leaves its values in s->ranked
 * (low halves). Returns 0 if the id had better be without one: values outside tables cost a block
 * 64 bits each if most entries are 1.0 (exceptions), and 32 bits an entry if not. */
static int choose_table(value_group group, uint64_t n_entries, int mostly_ones, value_scratch *s,
                        cf_value_table *table) {
    size_t n_distinct = 0;
    const uint64_t n_ones = n_entries - group.n;
    if (n_ones != 0)
        s->ranked[n_distinct++] = (uint64_t)(UINT32_MAX - (uint32_t)n_ones) << 32 | ONE_BITS;
    for (size_t i = 0; i < group.n;) {
        const size_t start = i;
        while (i < group.n && group.pairs[i] == group.pairs[start])
            i++;
        const uint32_t falling = UINT32_MAX - (uint32_t)(i - start);
        s->ranked[n_distinct++] = (uint64_t)falling << 32 | (uint32_t)group.pairs[start];
    }
    const uint64_t plain = 32 * n_entries, exceptions = 64 * (uint64_t)group.n;
    const uint64_t without = mostly_ones || exceptions < plain ? exceptions : plain;
    if (2 * n_distinct > n_entries && !mostly_ones)
        return 0; /* values hardly repeat: do not sort them for nothing */
    cf_sort_u64(s->ranked, s->sort, n_distinct);
    for (size_t i = 0; i < n_distinct; i++)
        s->counts[i] = UINT32_MAX - (uint32_t)(s->ranked[i] >> 32);
    /* The data set is taken to be at least twice the sample: half the price of a float. */
    const uint64_t with =
        cf_value_table_choose(s->counts, n_distinct, n_entries, 16, s->prefix, table);
    return 10 * (with + 64) < 9 * without;
}

static size_t find_pair(const uint64_t *pairs, size_t n, uint64_t key) {
    size_t low = 0;
    while (n != 0) {
        const size_t half = n / 2;
        if (pairs[low + half] < key) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

/* ---- the whole ---- */

size_t cf_dictionary_build_scratch(size_t nnz) { return 6 * nnz + 64; }

size_t cf_dictionary_bound(size_t nnz, uint32_t max_ids) {
    const size_t ids = nnz < max_ids ? nnz : max_ids;
    return CF_DICTIONARY_HEADER + 13 * ids + 4 * (nnz + ids) + CF_BITS_PAD + 8;
}

cf_status cf_dictionary_build(const cf_kernels *kernels, size_t n_rows, const int64_t *indptr,
                              const uint32_t *indices, const float *data, uint32_t max_ids,
                              uint64_t *scratch, uint8_t *out, size_t *n_out) {
    const size_t begin = (size_t)indptr[0], nnz = (size_t)(indptr[n_rows] - indptr[0]);
    if (indptr[0] < 0 || indptr[n_rows] < indptr[0] || nnz >= UINT32_MAX)
        return cf_fail(CF_E_INDPTR, 0);
    for (size_t row = 0; row < n_rows; row++)
        if (indptr[row + 1] < indptr[row] || indptr[row + 1] > indptr[n_rows])
            return cf_fail(CF_E_INDPTR, row);
    uint64_t *ranked = scratch, *pairs = ranked + nnz;
    uint64_t *sort = pairs + nnz + 1, *mass = sort + nnz + 2, *prefix = mass + nnz + 2;
    uint32_t *counts = (uint32_t *)(void *)(prefix + nnz + 2);
    if (max_ids > CF_MAX_DICTIONARY_IDS)
        max_ids = CF_MAX_DICTIONARY_IDS;

    uint32_t largest = 0;
    size_t n_pairs = 0;
    for (size_t e = begin; e < begin + nnz; e++) {
        ranked[e - begin] = indices[e];
        largest = indices[e] > largest ? indices[e] : largest;
        const uint32_t bits = cf_float_bits(data[e]);
        pairs[n_pairs] = (uint64_t)indices[e] << 32 | bits;
        n_pairs += bits != ONE_BITS;
    }
    cf_sort_u64(ranked, sort, nnz);
    const size_t n_distinct = count_ids(ranked, nnz);
    for (size_t i = 0; i < n_distinct; i++) /* the most frequent first, equals by id */
        ranked[i] ^= UINT64_C(0xffffffff00000000);
    cf_sort_u64(ranked, sort, n_distinct);
    uint32_t n_ids = 0;
    mass[0] = 0;
    while (n_ids < n_distinct && n_ids < max_ids) {
        const uint64_t count = UINT32_MAX - (ranked[n_ids] >> 32);
        if (count < 2)
            break;
        mass[n_ids + 1] = mass[n_ids] + count;
        n_ids++;
    }
    const tier_plan plan = choose_tiers(mass, n_ids, nnz, n_rows, cf_bit_length(largest | 1),
                                        plain_bits(n_rows, indptr, indices));
    n_ids = 0;
    for (unsigned t = 0; t <= plan.n_tiers; t++) { /* within a tier: id << 32 | count, by id */
        for (uint32_t i = n_ids; i < n_ids + plan.size[t]; i++)
            ranked[i] = ranked[i] << 32 | (UINT32_MAX - (ranked[i] >> 32));
        cf_sort_u64(ranked + n_ids, sort, plan.size[t]);
        n_ids += plan.size[t];
    }

    memset(out, 0, CF_DICTIONARY_HEADER);
    memcpy(out, "CFD1", 4);
    cf_store_u16(out + 12, CF_DICTIONARY_VERSION);
    for (unsigned t = 0; t < CF_TIERS; t++)
        cf_store_u32(out + 16 + 4 * t, plan.size[t]);
    out[52] = (uint8_t)plan.n_tiers;
    uint8_t *at = write_ids(out + CF_DICTIONARY_HEADER, out, ranked, &plan);
    cf_store_u32(out + 48, (uint32_t)(at - out - CF_DICTIONARY_HEADER));

    /* How many tables there will be is not known yet: values are written where they stand if every
     * id has one, and moved down at the end. */
    cf_sort_u64(pairs, sort, n_pairs);
    const int mostly_ones = 2 * n_pairs < nnz;
    value_scratch s = {mass, sort, prefix, counts};
    uint8_t *const tables = at, *const values = at + 8 * (size_t)n_ids;
    uint32_t n_tables = 0, n_values = 0;
    for (uint32_t rank = 0; rank < n_ids && n_pairs != 0; rank++) {
        const uint64_t id = ranked[rank] >> 32;
        const size_t first = find_pair(pairs, n_pairs, id << 32);
        size_t last = first;
        while (last < n_pairs && pairs[last] >> 32 == id)
            last++;
        cf_value_table table;
        const value_group group = {pairs + first, last - first};
        if (first == last || !choose_table(group, (uint32_t)ranked[rank], mostly_ones, &s, &table))
            continue;
        uint8_t *entry = tables + 8 * (size_t)n_tables++;
        cf_store_u32(entry, rank);
        cf_store_u16(entry + 4, table.n);
        entry[6] = table.first_bits;
        entry[7] = table.second_bits;
        for (uint32_t i = 0; i < table.n; i++)
            cf_store_u32(values + 4 * (size_t)n_values++, (uint32_t)s.ranked[i]);
    }
    memmove(tables + 8 * (size_t)n_tables, values, 4 * (size_t)n_values);
    at = tables + 8 * (size_t)n_tables + 4 * (size_t)n_values;
    memset(at, 0, CF_BITS_PAD);
    at += CF_BITS_PAD;

    *n_out = (size_t)(at - out);
    if (*n_out > UINT32_MAX)
        return cf_fail(CF_E_ROOM, 0);
    cf_store_u32(out + 40, n_tables);
    cf_store_u32(out + 44, n_values);
    cf_store_u32(out + 8, (uint32_t)*n_out);
    cf_store_u32(out + 4, kernels->crc32c(0, out + 8, *n_out - 8));
    return cf_ok();
}
