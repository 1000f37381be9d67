/* Making a dictionary from a sample: which ids, in which tiers, with which values. */
#include "cf_dictionary.h"

#include "cf_bits.h"
#include "cf_value_code.h"

enum {
    TYPICAL_BLOCK = 4096,  /* rows */
    PRICED = 1 << 15,      /* values looked at for what they take without table */
    RAREST_TABLE = 64,     /* an id in fewer than one row of so many gets no table */
    RAREST_BIT = 8,        /* nor a bit: a number takes 8 bits in the rows that have it */
    MOST_CANDIDATES = 1024 /* ids looked at for a table */
};

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

typedef struct {
    size_t n_rows, nnz;
    const int64_t *indptr;
    const uint32_t *indices; /* of the first entry on */
    const float *data;
    uint32_t largest;
    uint64_t *ranked; /* count ^ UINT32_MAX << 32 | id: the most frequent first */
    size_t n_ranked;  /* ids seen twice or more, at most max_ids */
    uint64_t *sort, *pairs;
    uint32_t *counts;
    uint64_t ids_bits; /* what the ids of the sample take with the dictionary */
} sample;

/* ---- ids ---- */

static uint32_t count_of(uint64_t ranked) { return UINT32_MAX - (uint32_t)(ranked >> 32); }

/* Counts ids in a table of them, where that is no longer than the sample, else by sorting. */
static void rank_ids(sample *s, uint32_t max_ids) {
    size_t n = 0;
    if (s->largest < 2 * s->nnz) { /* the room of `pairs` */
        uint32_t *count = (uint32_t *)(void *)s->pairs;
        memset(count, 0, 4 * ((size_t)s->largest + 1));
        for (size_t e = 0; e < s->nnz; e++)
            count[s->indices[e]]++;
        for (size_t id = 0; s->nnz != 0 && id <= s->largest; id++)
            if (count[id] > 1)
                s->ranked[n++] = (uint64_t)(UINT32_MAX - count[id]) << 32 | id;
    } else {
        for (size_t e = 0; e < s->nnz; e++)
            s->ranked[e] = s->indices[e];
        cf_sort_u64(s->ranked, s->sort, s->nnz);
        for (size_t i = 0; i < s->nnz;) {
            const uint64_t id = s->ranked[i];
            const size_t start = i;
            while (i < s->nnz && s->ranked[i] == id)
                i++;
            if (i - start > 1)
                s->ranked[n++] = (UINT32_MAX - (uint64_t)(i - start)) << 32 | id;
        }
    }
    cf_sort_u64(s->ranked, s->sort, n);
    s->n_ranked = n < max_ids ? n : max_ids;
}

/* Bits an id outside the dictionary takes: whole bytes that hold the largest. */
static unsigned outside_bits(const sample *s) {
    return 8 * ((cf_bit_length(s->largest | 1) + 7) / 8);
}

/* What the ids take without dictionary: as they are, or as gaps with two bits for their length. */
static uint64_t plain_bits(const sample *s) {
    uint64_t gaps = 0;
    for (size_t row = 0; row < s->n_rows; row++) {
        uint32_t next = 0;
        for (int64_t e = s->indptr[row] - s->indptr[0]; e < s->indptr[row + 1] - s->indptr[0];
             e++) {
            gaps += 2 + 8 * cf_gap_bytes(s->indices[e] - next);
            next = s->indices[e] + 1;
        }
    }
    const uint64_t raw = (uint64_t)s->nnz * outside_bits(s);
    return gaps < raw ? gaps : raw;
}

/* Cuts the ids, most frequent first but with those that have tables in front, into tiers. */
static void choose_tiers(sample *s, uint32_t n_tables, uint32_t size[CF_TIERS]) {
    uint32_t bitmap = n_tables;
    while (bitmap < s->n_ranked && bitmap < CF_MAX_BITMAP &&
           (uint64_t)count_of(s->ranked[bitmap]) * RAREST_BIT > s->n_rows)
        bitmap++;
    while (bitmap % 8 != 0 && bitmap < s->n_ranked) /* bits that a row has in any case */
        bitmap++;
    size[0] = bitmap;
    s->ids_bits = (uint64_t)s->n_rows * (8 * ((bitmap + 7) / 8) + 16);
    uint64_t left = s->nnz;
    for (size_t i = 0; i < bitmap; i++)
        left -= count_of(s->ranked[i]);
    size_t at = bitmap;
    for (unsigned t = 1; t < CF_TIERS; t++) {
        const unsigned bits = t == 1 ? 8 : t == 2 ? 12 : 16;
        size[t] = 0;
        if (bits >= outside_bits(s))
            continue;
        const size_t room = cf_tier_room(t), rest = s->n_ranked - at;
        size[t] = (uint32_t)(rest < room ? rest : room);
        for (const size_t end = at + size[t]; at < end; at++) {
            left -= count_of(s->ranked[at]);
            s->ids_bits += (uint64_t)count_of(s->ranked[at]) * bits + 8;
        }
    }
    s->ids_bits += left * outside_bits(s);
}

static uint8_t *write_ids(const uint64_t *ranked, const uint32_t *runs, unsigned n_runs,
                          uint8_t *header, uint8_t *out) {
    uint64_t histogram[33] = {0};
    cf_bit_writer w = {out, 0, 0};
    cf_gap_code code = {0, {0}};
    for (int pass = 0; pass < 2; pass++) {
        const uint64_t *id = ranked;
        for (unsigned r = 0; r < n_runs; r++) {
            uint32_t next = 0;
            for (uint32_t i = 0; i < runs[r]; i++, id++) {
                const uint32_t gap = (uint32_t)*id - next;
                next = (uint32_t)*id + 1;
                if (pass == 0)
                    histogram[cf_bit_length(gap)]++;
                else
                    cf_gap_put(&w, code, gap);
            }
        }
        if (pass == 0)
            code = cf_gap_code_choose(histogram);
    }
    header[48] = code.class_bits;
    memcpy(header + 49, code.width, 4);
    return w.at + (w.n_pending != 0);
}

/* ---- values ---- */

/* What the blocks' own tables make of values. */
typedef struct {
    int mostly_ones; /* blocks will rather list what no table covers and is not 1.0, 64 bits each */
    uint64_t listed_bits, coded_bits;      /* what all values take listed so, and in own tables */
    unsigned bits, first, all;             /* of a code; values with one code, with any */
    uint64_t ranked[PRICED], sort[PRICED]; /* bits << 32 | place, by bits */
    uint32_t counts[PRICED];
    size_t n;
} prices;

/* Turns n sorted values (low halves) into (UINT32_MAX - count) << 32 | value, most frequent first,
 * and lists their counts. In place; returns how many are distinct. */
static size_t rank_values(uint64_t *values, uint64_t *sort, uint32_t *counts, size_t n) {
    size_t n_distinct = 0;
    for (size_t i = 0; i < n;) {
        const size_t start = i;
        const uint32_t bits = (uint32_t)values[start];
        while (i < n && (uint32_t)values[i] == bits)
            i++;
        values[n_distinct++] = (uint64_t)(UINT32_MAX - (uint32_t)(i - start)) << 32 | bits;
    }
    cf_sort_u64(values, sort, n_distinct);
    for (size_t i = 0; i < n_distinct; i++)
        counts[i] = UINT32_MAX - (uint32_t)(values[i] >> 32);
    return n_distinct;
}

static void price_values(const sample *s, prices *p) {
    const size_t step = 1 + s->nnz / PRICED;
    size_t n = 0, n_others = 0;
    for (size_t e = 0; e < s->nnz; e += step) {
        p->ranked[n] = cf_float_bits(s->data[e]);
        n_others += p->ranked[n++] != CF_ONE_BITS;
    }
    cf_sort_u64(p->ranked, p->sort, n);
    p->n = rank_values(p->ranked, p->sort, p->counts, n);
    const size_t n_blocks = 1 + s->n_rows / TYPICAL_BLOCK;
    const cf_value_code code = cf_value_code_choose(p->counts, p->n, n, n_blocks);
    p->listed_bits = 64 * (uint64_t)n_others * step;
    p->coded_bits = code.total_bits * step;
    p->bits = code.bits;
    p->first = code.bits < 32 ? cf_value_code_limit(code.bits) : 0;
    p->all = code.n;
    for (size_t i = 0; i < p->n; i++)
        p->ranked[i] = (uint64_t)(uint32_t)p->ranked[i] << 32 | i;
    cf_sort_u64(p->ranked, p->sort, p->n);
}

static unsigned price_of(const prices *p, uint32_t bits) {
    size_t low = 0, n = p->n;
    while (n != 0) {
        const size_t half = n / 2;
        if (p->ranked[low + half] >> 32 < bits) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    const int found = low < p->n && p->ranked[low] >> 32 == bits;
    const uint32_t place = found ? (uint32_t)p->ranked[low] : UINT32_MAX;
    if (p->bits == 32)
        return 32;
    return place < p->first ? p->bits : place < p->all ? p->bits + 16 : p->bits + 48;
}

/* An id that may get a table. */
typedef struct {
    uint32_t id, n_entries;
    size_t first, n_pairs; /* its pairs */
    uint32_t n_values;     /* of its table */
    int is_wide;
    uint64_t saves;
} candidate;

/* Lays the values of a candidate's entries out, ranked, at values[]; returns how many distinct. */
static size_t list_values(const sample *s, const candidate *c, uint64_t *values) {
    const uint64_t *pairs = s->pairs + c->first;
    size_t n = 0, i = 0;
    for (; i < c->n_pairs && (uint32_t)pairs[i] < CF_ONE_BITS; i++)
        values[n++] = (uint32_t)pairs[i];
    for (size_t ones = c->n_pairs; ones < c->n_entries; ones++)
        values[n++] = CF_ONE_BITS;
    for (; i < c->n_pairs; i++)
        values[n++] = (uint32_t)pairs[i];
    return rank_values(values, s->sort, s->counts, n);
}

/* Chooses the table of a candidate; saves stays 0 if none is worth having. */
static void choose_table(const sample *s, const prices *p, candidate *c, uint64_t *values) {
    const size_t n = list_values(s, c, values);
    const uint64_t total = c->n_entries;
    uint64_t without = 64 * (uint64_t)c->n_pairs;
    if (!p->mostly_ones) {
        without = 0;
        for (size_t i = 0; i < n; i++)
            without += (uint64_t)s->counts[i] * price_of(p, (uint32_t)values[i]);
    }
    /* Where values repeat, those of the sample serve rows to come as well: half the price of a
     * float. Where they do not, storing those seen once saves nothing. */
    const int repeat = 2 * n <= total;
    uint64_t best = without - without / 10;
    for (int is_wide = 0; is_wide < 2; is_wide++) {
        const size_t room = cf_value_table_room(is_wide);
        uint64_t coded = 0, first = 0;
        size_t kept = 0;
        for (; kept < n && kept < room && (repeat || s->counts[kept] > 1); kept++) {
            coded += s->counts[kept];
            first += kept < CF_NARROW_ESCAPE ? s->counts[kept] : 0;
        }
        const uint64_t with = 32 + kept * (uint64_t)(repeat ? 16 : 32) + 32 * (total - coded) +
                              (is_wide ? 16 * total : 8 * total + 16 * (total - first));
        if (with < best) {
            best = with;
            c->saves = without - with;
            c->is_wide = is_wide;
            c->n_values = (uint32_t)kept;
        }
    }
    /* A bit in every row, where it may have taken a byte in a few. */
    const uint64_t bit = s->n_rows > 8 * total ? s->n_rows - 8 * total : 0;
    c->saves = c->saves > bit ? c->saves - bit : 0;
}

/* Chooses the tables of all candidates; returns the bits they save. If with them so little is left
 * that it can be listed, the ones take nothing at all; if not, every value takes a code, and a
 * table must beat that. */
static uint64_t choose_tables(const sample *s, prices *p, candidate *candidates, size_t n,
                              uint64_t *values) {
    const uint64_t without = p->listed_bits < p->coded_bits ? p->listed_bits : p->coded_bits;
    for (p->mostly_ones = 1;; p->mostly_ones = 0) {
        uint64_t saved = 0;
        for (size_t i = 0; i < n; i++) {
            candidates[i].saves = 0;
            if (candidates[i].n_pairs != 0)
                choose_table(s, p, &candidates[i], values);
            saved += candidates[i].saves;
        }
        if (!p->mostly_ones)
            return saved;
        const uint64_t with = p->listed_bits > saved ? p->listed_bits - saved : 0;
        if (with <= p->coded_bits)
            return without - (with < without ? with : without);
    }
}

/* The ids that tables may serve, by id, with the pairs (number of the id << 32 | bits) of their
 * entries that are not 1.0, sorted. */
static size_t list_candidates(sample *s, candidate *candidates) {
    size_t n = 0;
    while (n < s->n_ranked && n < MOST_CANDIDATES &&
           (uint64_t)count_of(s->ranked[n]) * RAREST_TABLE > s->n_rows)
        n++;
    uint64_t by_id[MOST_CANDIDATES], sort[MOST_CANDIDATES];
    for (size_t i = 0; i < n; i++)
        by_id[i] = (s->ranked[i] & UINT32_MAX) << 32 | count_of(s->ranked[i]);
    cf_sort_u64(by_id, sort, n);
    for (size_t i = 0; i < n; i++)
        candidates[i] =
            (candidate){.id = (uint32_t)(by_id[i] >> 32), .n_entries = (uint32_t)by_id[i]};
    size_t n_pairs = 0;
    for (size_t row = 0; row < s->n_rows; row++) {
        /* Both increase with the id: one walk through both. */
        size_t c = 0;
        for (int64_t e = s->indptr[row] - s->indptr[0]; e < s->indptr[row + 1] - s->indptr[0];
             e++) {
            const uint32_t bits = cf_float_bits(s->data[e]);
            if (bits == CF_ONE_BITS)
                continue;
            while (c < n && candidates[c].id < s->indices[e])
                c++;
            if (c == n)
                break;
            if (candidates[c].id == s->indices[e])
                s->pairs[n_pairs++] = (uint64_t)c << 32 | bits;
        }
    }
    cf_sort_u64(s->pairs, s->sort, n_pairs);
    size_t at = 0;
    for (size_t c = 0; c < n; c++) {
        candidates[c].first = at;
        while (at < n_pairs && s->pairs[at] >> 32 == c)
            at++;
        candidates[c].n_pairs = at - candidates[c].first;
    }
    return n;
}

/* Keeps the candidates that save most, narrow ones first, each by id; returns how many. */
static uint32_t keep_best(candidate *candidates, size_t n, uint32_t *n_narrow) {
    uint64_t order[MOST_CANDIDATES], sort[MOST_CANDIDATES];
    size_t n_useful = 0;
    for (size_t i = 0; i < n; i++)
        if (candidates[i].saves != 0)
            order[n_useful++] = (UINT64_MAX - candidates[i].saves) << 10 | i;
    cf_sort_u64(order, sort, n_useful);
    const size_t n_kept = n_useful < CF_MAX_TABLES ? n_useful : CF_MAX_TABLES;
    for (size_t i = 0; i < n_kept; i++) {
        const candidate *c = &candidates[order[i] & (MOST_CANDIDATES - 1)];
        order[i] = (uint64_t)c->is_wide << 63 | (uint64_t)c->id << 10 | (order[i] & 1023);
    }
    cf_sort_u64(order, sort, n_kept);
    candidate kept[CF_MAX_TABLES];
    *n_narrow = 0;
    for (size_t i = 0; i < n_kept; i++) {
        kept[i] = candidates[order[i] & (MOST_CANDIDATES - 1)];
        *n_narrow += !kept[i].is_wide;
    }
    if (n_kept != 0)
        memcpy(candidates, kept, n_kept * sizeof *kept);
    return (uint32_t)n_kept;
}

/* ---- the whole ---- */

/* Ranked ids, sort, pairs, values: nnz words each; counts: half of that; the prices. */
size_t cf_dictionary_build_scratch(size_t nnz) {
    return 4 * (nnz + 2) + nnz / 2 + 2 + (sizeof(prices) + 7) / 8;
}

size_t cf_dictionary_bound(size_t nnz, uint32_t max_ids) {
    const size_t ids = nnz < max_ids ? nnz : max_ids;
    return CF_DICTIONARY_HEADER + 5 * ids + 4 * (size_t)CF_MAX_TABLES + 4 * nnz + CF_BITS_PAD + 8;
}

/* Puts the ids with tables in front of the others. */
static void move_to_front(sample *s, const candidate *kept, uint32_t n) {
    memcpy(s->sort, s->ranked, s->n_ranked * sizeof *s->ranked);
    size_t at = n;
    for (size_t i = 0; i < s->n_ranked; i++) {
        const uint32_t id = (uint32_t)s->sort[i];
        uint32_t k = 0;
        while (k < n && kept[k].id != id)
            k++;
        s->ranked[k < n ? k : at++] = s->sort[i];
    }
}

/* Orders a run of ids upwards. */
static void order_run(sample *s, size_t begin, uint32_t n) {
    for (size_t i = begin; i < begin + n; i++)
        s->ranked[i] &= UINT32_MAX;
    cf_sort_u64(s->ranked + begin, s->sort, n);
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
    sample s = {.n_rows = n_rows, .nnz = (size_t)(end - begin), .indptr = indptr};
    s.indices = indices + begin;
    s.data = data + begin;
    s.ranked = scratch;
    s.sort = s.ranked + s.nnz + 2;
    s.pairs = s.sort + s.nnz + 2;
    uint64_t *const values = s.pairs + s.nnz + 2;
    s.counts = (uint32_t *)(void *)(values + s.nnz + 2);
    prices *p = (prices *)(void *)(values + s.nnz + 2 + s.nnz / 2 + 2);
    for (size_t e = 0; e < s.nnz; e++)
        s.largest = s.indices[e] > s.largest ? s.indices[e] : s.largest;
    rank_ids(&s, max_ids < CF_MAX_DICTIONARY_IDS ? max_ids : CF_MAX_DICTIONARY_IDS);

    candidate candidates[MOST_CANDIDATES];
    const size_t n_candidates = list_candidates(&s, candidates);
    price_values(&s, p);
    const uint64_t saved = choose_tables(&s, p, candidates, n_candidates, values);
    uint32_t n_narrow, n_tables = keep_best(candidates, n_candidates, &n_narrow);
    move_to_front(&s, candidates, n_tables);
    uint32_t size[CF_TIERS];
    choose_tiers(&s, n_tables, size);
    if ((double)s.ids_bits - (double)saved >= 0.97 * (double)plain_bits(&s)) {
        /* Not worth having: one without ids, which the blocks then do not name. */
        memset(size, 0, sizeof size);
        n_tables = n_narrow = 0;
    }

    memset(out, 0, CF_DICTIONARY_HEADER);
    memcpy(out, "CFD1", 4);
    cf_store_u16(out + 12, CF_DICTIONARY_VERSION);
    for (unsigned t = 0; t < CF_TIERS; t++)
        cf_store_u32(out + 16 + 4 * t, size[t]);
    cf_store_u32(out + 32, n_narrow);
    cf_store_u32(out + 36, n_tables - n_narrow);
    const uint32_t runs[] = {n_narrow, n_tables - n_narrow, size[0] - n_tables, size[1], size[2],
                             size[3]};
    size_t at_rank = 0;
    for (unsigned r = 0; r < sizeof runs / sizeof *runs; at_rank += runs[r], r++)
        order_run(&s, at_rank, runs[r]);
    uint8_t *at =
        write_ids(s.ranked, runs, sizeof runs / sizeof *runs, out, out + CF_DICTIONARY_HEADER);
    cf_store_u32(out + 44, (uint32_t)(at - out - CF_DICTIONARY_HEADER));
    for (uint32_t i = 0; i < n_tables; i++, at += 4)
        cf_store_u32(at, candidates[i].n_values);
    uint32_t n_values = 0;
    for (uint32_t i = 0; i < n_tables; i++) {
        list_values(&s, &candidates[i], values);
        for (uint32_t v = 0; v < candidates[i].n_values; v++, at += 4)
            cf_store_u32(at, (uint32_t)values[v]);
        n_values += candidates[i].n_values;
    }
    cf_store_u32(out + 40, n_values);
    memset(at, 0, CF_BITS_PAD);
    *n_out = (size_t)(at - out) + CF_BITS_PAD;
    if (*n_out > UINT32_MAX)
        return cf_fail(CF_E_ROOM, 0);
    cf_store_u32(out + 8, (uint32_t)*n_out);
    cf_store_u32(out + 4, kernels->crc32c(0, out + 8, *n_out - 8));
    return cf_ok();
}
