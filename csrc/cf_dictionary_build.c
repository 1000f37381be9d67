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
 * mass[i] is how often the i most frequent ids occur together, raw_bits what an id outside takes.
 * *id_bits: what dictionary and sample then take for the ids. */
static tier_plan choose_tiers(const uint64_t *mass, uint32_t n, uint64_t total, uint64_t n_rows,
                              unsigned raw_bits, double *id_bits) {
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
    *id_bits = best_bits;
    return best;
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

enum { ONE_BITS = 0x3f800000, TYPICAL_BLOCK = 4096 };

/* The first of n sorted keys that is not below `key`. */
static size_t find_key(const uint64_t *keys, size_t n, uint64_t key) {
    size_t low = 0;
    while (n != 0) {
        const size_t half = n / 2;
        if (keys[low + half] < key) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

/* Scratch of everything that looks at values, and what values would take without tables. */
typedef struct {
    uint64_t *pairs; /* id << 32 | bits of the entries that are not 1.0, sorted */
    size_t n_pairs;
    uint64_t *prices; /* bits << 32 | bits it takes in the blocks' own tables, sorted */
    size_t n_prices;
    int mostly_ones; /* blocks will rather list the entries that are not 1.0, 64 bits each */
    uint64_t *ranked, *sort, *prefix;
    uint32_t *counts;
} value_work;

/* Turns n sorted values into (UINT32_MAX - count) << 32 | value, most frequent first, with their
 * counts apart. In place; returns how many are distinct. */
static size_t rank_values(value_work *w, uint64_t *values, size_t n) {
    size_t n_distinct = 0;
    for (size_t i = 0; i < n;) {
        const size_t start = i;
        const uint32_t bits = (uint32_t)values[start];
        while (i < n && (uint32_t)values[i] == bits)
            i++;
        values[n_distinct++] = (uint64_t)(UINT32_MAX - (uint32_t)(i - start)) << 32 | bits;
    }
    cf_sort_u64(values, w->sort, n_distinct);
    for (size_t i = 0; i < n_distinct; i++)
        w->counts[i] = UINT32_MAX - (uint32_t)(values[i] >> 32);
    return n_distinct;
}

/* Prices every value as the blocks' own tables would, all ids together. */
static void price_values(value_work *w, size_t n_entries, size_t n_rows) {
    for (size_t i = 0; i < w->n_pairs; i++)
        w->prices[i] = w->pairs[i] & UINT32_MAX;
    for (size_t i = w->n_pairs; i < n_entries; i++)
        w->prices[i] = ONE_BITS;
    cf_sort_u64(w->prices, w->sort, n_entries);
    w->n_prices = rank_values(w, w->prices, n_entries);
    const size_t n_blocks = 1 + n_rows / TYPICAL_BLOCK;
    cf_value_table table;
    const uint64_t bits = cf_value_table_choose(w->counts, w->n_prices, n_entries,
                                                (unsigned)(32 * n_blocks), w->prefix, &table);
    w->mostly_ones = 64 * (uint64_t)w->n_pairs < bits;
    for (size_t i = 0; i < w->n_prices; i++) {
        unsigned price = table.first_bits;
        if (i >= cf_code_limit(table.first_bits))
            price += (unsigned)table.second_bits + (i < table.n ? 0 : 32);
        w->prices[i] = w->prices[i] << 32 | price;
    }
    cf_sort_u64(w->prices, w->sort, w->n_prices);
}

/* Bits that the values of an id take without table. ranked: as from rank_values. */
static uint64_t price_without_table(const value_work *w, size_t n_pairs, const uint64_t *ranked,
                                    size_t n_distinct) {
    if (w->mostly_ones)
        return 64 * (uint64_t)n_pairs;
    uint64_t bits = 0;
    for (size_t i = 0; i < n_distinct; i++) {
        const uint64_t at = find_key(w->prices, w->n_prices, ranked[i] << 32);
        bits += w->counts[i] * (w->prices[at] & UINT32_MAX);
    }
    return bits;
}

/* Chooses the table of an id with `n_entries` entries, of which pairs[0, n_pairs) are not 1.0, and
 * leaves its values in w->ranked (low halves). Returns the bits it saves, 0 for no table. */
static uint64_t choose_table(value_work *w, const uint64_t *pairs, size_t n_pairs, size_t n_entries,
                             cf_value_table *table) {
    size_t n = 0, first_above = 0;
    while (first_above < n_pairs && (uint32_t)pairs[first_above] < ONE_BITS)
        w->ranked[n++] = pairs[first_above++];
    for (size_t i = n_pairs; i < n_entries; i++)
        w->ranked[n++] = ONE_BITS;
    for (size_t i = first_above; i < n_pairs; i++)
        w->ranked[n++] = pairs[i];
    const size_t n_distinct = rank_values(w, w->ranked, n);
    const uint64_t without = price_without_table(w, n_pairs, w->ranked, n_distinct);
    /* Where values repeat, those of the sample serve rows to come as well: half the price of a
     * float. Where they do not, storing them saves nothing. */
    const unsigned value_cost = 2 * n_distinct <= n_entries ? 16 : 32;
    const uint64_t with =
        64 + cf_value_table_choose(w->counts, n_distinct, n_entries, value_cost, w->prefix, table);
    return 10 * with < 9 * without ? without - with : 0;
}

/* Writes the tables of all ids that should have one; returns their end, and the bits they save.
 * ranked: id << 32 | count by rank. How many tables there will be is not known before: values are
 * written where they stand if every id has one, and moved down at the end. */
static uint8_t *write_tables(value_work *w, const uint64_t *ranked, uint32_t n_ids, uint8_t *header,
                             uint8_t *tables, uint64_t *saved) {
    uint8_t *const values = tables + 8 * (size_t)n_ids;
    uint32_t n_tables = 0, n_values = 0;
    *saved = 0;
    for (uint32_t rank = 0; rank < n_ids && w->n_pairs != 0; rank++) {
        const uint64_t id = ranked[rank] >> 32;
        const size_t first = find_key(w->pairs, w->n_pairs, id << 32);
        size_t last = first;
        while (last < w->n_pairs && w->pairs[last] >> 32 == id)
            last++;
        cf_value_table table;
        uint64_t saves = 0;
        if (first != last)
            saves = choose_table(w, w->pairs + first, last - first, (uint32_t)ranked[rank], &table);
        if (saves == 0)
            continue;
        *saved += saves;
        uint8_t *entry = tables + 8 * (size_t)n_tables++;
        cf_store_u32(entry, rank);
        cf_store_u16(entry + 4, table.n);
        entry[6] = table.first_bits;
        entry[7] = table.second_bits;
        for (uint32_t i = 0; i < table.n; i++)
            cf_store_u32(values + 4 * (size_t)n_values++, (uint32_t)w->ranked[i]);
    }
    memmove(tables + 8 * (size_t)n_tables, values, 4 * (size_t)n_values);
    cf_store_u32(header + 40, n_tables);
    cf_store_u32(header + 44, n_values);
    return tables + 8 * (size_t)n_tables + 4 * (size_t)n_values;
}

/* ---- the whole ---- */

size_t cf_dictionary_build_scratch(size_t nnz) { return 7 * nnz + 64; }

size_t cf_dictionary_bound(size_t nnz, uint32_t max_ids) {
    const size_t ids = nnz < max_ids ? nnz : max_ids;
    return CF_DICTIONARY_HEADER + 13 * ids + 4 * (nnz + ids) + CF_BITS_PAD + 8;
}

/* Sorts the ids of the sample into tiers: ranked[] becomes id << 32 | count by rank. */
static tier_plan rank_ids(uint64_t *ranked, uint64_t *sort, uint64_t *mass, size_t nnz,
                          size_t n_rows, uint32_t max_ids, double *id_bits) {
    cf_sort_u64(ranked, sort, nnz);
    const unsigned raw_bits = cf_bit_length(nnz != 0 ? (uint32_t)ranked[nnz - 1] | 1 : 1);
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
    const tier_plan plan = choose_tiers(mass, n_ids, nnz, n_rows, raw_bits, id_bits);
    uint32_t begin = 0;
    for (unsigned t = 0; t <= plan.n_tiers; t++) {
        for (uint32_t i = begin; i < begin + plan.size[t]; i++)
            ranked[i] = ranked[i] << 32 | (UINT32_MAX - (ranked[i] >> 32));
        cf_sort_u64(ranked + begin, sort, plan.size[t]);
        begin += plan.size[t];
    }
    return plan;
}

cf_status cf_dictionary_build(const cf_kernels *kernels, size_t n_rows, const int64_t *indptr,
                              const uint32_t *indices, const float *data, uint32_t max_ids,
                              uint64_t *scratch, uint8_t *out, size_t *n_out) {
    const int64_t begin = indptr[0], end = indptr[n_rows];
    if (begin < 0 || end < begin || end - begin >= UINT32_MAX)
        return cf_fail(CF_E_INDPTR, 0);
    for (size_t row = 0; row < n_rows; row++)
        if (indptr[row + 1] < indptr[row] || indptr[row + 1] > end)
            return cf_fail(CF_E_INDPTR, row);
    const size_t nnz = (size_t)(end - begin);
    if (max_ids > CF_MAX_DICTIONARY_IDS)
        max_ids = CF_MAX_DICTIONARY_IDS;
    uint64_t *const ranked = scratch, *const sort = ranked + nnz + 2;
    uint64_t *const mass = sort + nnz + 2;
    value_work w = {.pairs = mass + nnz + 2, .sort = sort, .ranked = mass};
    w.prices = w.pairs + nnz + 2;
    w.prefix = w.prices + nnz + 2;
    w.counts = (uint32_t *)(void *)(w.prefix + nnz + 2);
    for (int64_t e = begin; e < end; e++) {
        const uint32_t bits = cf_float_bits(data[e]);
        ranked[e - begin] = indices[e];
        w.pairs[w.n_pairs] = (uint64_t)indices[e] << 32 | bits;
        w.n_pairs += bits != ONE_BITS;
    }
    double id_bits;
    tier_plan plan = rank_ids(ranked, sort, mass, nnz, n_rows, max_ids, &id_bits);

    memset(out, 0, CF_DICTIONARY_HEADER);
    memcpy(out, "CFD1", 4);
    cf_store_u16(out + 12, CF_DICTIONARY_VERSION);
    uint32_t n_ids = 0;
    for (unsigned t = 0; t < CF_TIERS; t++)
        n_ids += plan.size[t];
    uint8_t *at = write_ids(out + CF_DICTIONARY_HEADER, out, ranked, &plan);
    cf_store_u32(out + 48, (uint32_t)(at - out - CF_DICTIONARY_HEADER));
    uint64_t saved = 0;
    if (w.n_pairs != 0) {
        cf_sort_u64(w.pairs, sort, w.n_pairs);
        price_values(&w, nnz, n_rows);
        at = write_tables(&w, ranked, n_ids, out, at, &saved);
    }
    if (id_bits - (double)saved >= 0.97 * (double)plain_bits(n_rows, indptr, indices)) {
        /* Not worth having: one without ids, which the blocks then do not name. */
        plan = (tier_plan){{0}, 0};
        at = write_ids(out + CF_DICTIONARY_HEADER, out, ranked, &plan);
        memset(out + 40, 0, 12);
    }
    for (unsigned t = 0; t < CF_TIERS; t++)
        cf_store_u32(out + 16 + 4 * t, plan.size[t]);
    out[52] = (uint8_t)plan.n_tiers;
    memset(at, 0, CF_BITS_PAD);
    *n_out = (size_t)(at - out) + CF_BITS_PAD;
    if (*n_out > UINT32_MAX)
        return cf_fail(CF_E_ROOM, 0);
    cf_store_u32(out + 8, (uint32_t)*n_out);
    cf_store_u32(out + 4, kernels->crc32c(0, out + 8, *n_out - 8));
    return cf_ok();
}
