/* Encoding a block: look at all rows, choose the cheapest way for each part, then write. */
#include "cf_block.h"

enum {
    OUTSIDE = CF_TIERS, /* the "tier" of ids outside the dictionary */
    RUNS = CF_TIERS + 1,
    OWN_VALUES = 4096, /* most values looked at for the block's own table */
    OWN_SLOTS = 4 * OWN_VALUES,
    LONG_COUNT = 1023, /* counts of this and above are not told apart */
    PLAIN_EVERY = 16,  /* one row of so many is looked at for what it takes without dictionary */
    MAX_LABELS = 255,
    ONE_BITS = 0x3f800000
};

/* The block's own value table, for values that no table of the dictionary covers. */
typedef struct {
    uint64_t ranked[OWN_VALUES], sort[OWN_VALUES], prefix[OWN_VALUES + 1];
    uint32_t values[OWN_VALUES], counts[OWN_VALUES];
    uint16_t slots[OWN_SLOTS]; /* hash: 1 + index into values, or 0 */
    uint32_t n;
    cf_value_table shape;
} own_table;

/* Entries are written in another order than they came in: i counts in the order of writing. A row
 * writes the members of tier 0, 1, ... and then the ids outside, each run by increasing id. */
typedef struct {
    own_table *own;
    uint32_t *order;  /* [nnz] which entry is the i-th written, counted from the block's first */
    uint32_t *rank;   /* [nnz] of the i-th written; of no meaning outside */
    uint32_t *place;  /* [nnz] of its value in the table of its id, if that has one */
    uint32_t *counts; /* [n_rows][RUNS] how long the row's runs are */
    uint32_t *slot;   /* [nnz] tier << 28 | rank of the entries as they came */
} workspace;

static size_t words_of(size_t bytes) { return (bytes + 7) / 8; }

size_t cf_block_encode_scratch(size_t n_rows, size_t nnz) {
    return words_of(sizeof(own_table)) + 4 * words_of(4 * nnz) + words_of(4 * RUNS * n_rows);
}

static uint32_t *take_u32(uint64_t **scratch, size_t n) {
    uint32_t *taken = (uint32_t *)(void *)*scratch;
    *scratch += words_of(4 * n);
    return taken;
}

static workspace carve(uint64_t *scratch, size_t n_rows, size_t nnz) {
    workspace w;
    w.own = (own_table *)(void *)scratch;
    scratch += words_of(sizeof(own_table));
    w.order = take_u32(&scratch, nnz);
    w.rank = take_u32(&scratch, nnz);
    w.place = take_u32(&scratch, nnz);
    w.slot = take_u32(&scratch, nnz);
    w.counts = take_u32(&scratch, RUNS * n_rows);
    return w;
}

/* ---- labels ---- */

/* Distinct labels by their bits; n is MAX_LABELS + 1 if there are more than can have codes. */
typedef struct {
    uint32_t values[MAX_LABELS];
    uint32_t n;
} label_table;

static uint32_t find_label(const label_table *labels, uint32_t bits) {
    uint32_t i = 0;
    while (i < labels->n && labels->values[i] != bits)
        i++;
    return i;
}

static void collect_labels(const cf_block_input *rows, label_table *labels) {
    labels->n = 0;
    for (size_t row = 0; row < rows->n_rows; row++) {
        const uint32_t bits = cf_float_bits(rows->labels[row]);
        if (find_label(labels, bits) < labels->n)
            continue;
        if (labels->n == MAX_LABELS) {
            labels->n = MAX_LABELS + 1;
            return;
        }
        labels->values[labels->n++] = bits;
    }
}

static void choose_labels(const cf_block_input *rows, cf_block_header *h) {
    label_table labels;
    collect_labels(rows, &labels);
    const unsigned bits = cf_bit_length((labels.n != 0 ? labels.n - 1 : 0) | 1);
    const uint64_t coded = 32 * (uint64_t)labels.n + (uint64_t)rows->n_rows * bits;
    const int plain = labels.n > MAX_LABELS || coded > 32 * (uint64_t)rows->n_rows;
    h->label_bits = plain ? 32 : bits;
    h->n_labels = plain ? 0 : labels.n;
}

/* ---- ids ---- */

typedef struct {
    uint64_t histogram[CF_TIERS][LONG_COUNT + 1]; /* rows by how many ids of a tier they have */
    uint32_t most[CF_TIERS];
    uint64_t plain_bits; /* of all ids, estimated, if there were no dictionary */
    uint32_t largest;
} id_statistics;

/* Puts the entries [begin, end) of a row, whose slots and counts are known, into runs. */
static void order_row(workspace w, uint32_t begin, uint32_t end, const uint32_t *counts) {
    uint32_t at[RUNS], to = begin;
    for (unsigned t = 0; t < RUNS; t++) {
        at[t] = to;
        to += counts[t];
    }
    for (uint32_t e = begin; e < end; e++) {
        const uint32_t i = at[w.slot[e] >> 28]++;
        w.order[i] = e;
        w.rank[i] = w.slot[e] & 0x0fffffff;
    }
}

/* Finds rank and tier of every id, and checks that the rows are rows. */
static cf_status classify_ids(const cf_block_input *rows, const cf_dictionary *dictionary,
                              workspace w, cf_block_header *h, id_statistics *s) {
    memset(s, 0, sizeof *s);
    uint64_t gaps[33] = {0};
    const int64_t first = rows->indptr[0], last = rows->indptr[rows->n_rows];
    for (size_t row = 0; row < rows->n_rows; row++) {
        /* Compared before they are subtracted, which could overflow. */
        if (rows->indptr[row + 1] < rows->indptr[row] || rows->indptr[row + 1] > last)
            return cf_fail(CF_E_INDPTR, row);
        const int64_t begin = rows->indptr[row] - first, end = rows->indptr[row + 1] - first;
        const uint32_t *ids = rows->indices + first;
        uint32_t *counts = w.counts + RUNS * row;
        memset(counts, 0, RUNS * sizeof *counts);
        for (int64_t e = begin; e < end; e++) {
            if (e != begin && ids[e] <= ids[e - 1])
                return cf_fail(CF_E_ORDER, (size_t)e);
            if (e + 16 < h->nnz) /* the hash is larger than the nearest cache */
                __builtin_prefetch(cf_dictionary_slot(dictionary, ids[e + 16]));
            const uint64_t slot = cf_dictionary_find(dictionary, ids[e]);
            const uint32_t tier = slot == CF_NO_SLOT ? OUTSIDE : (uint32_t)(slot >> 60);
            w.slot[e] = tier << 28 | ((uint32_t)(slot >> 32) & 0x0fffffff);
            counts[tier]++;
        }
        order_row(w, (uint32_t)begin, (uint32_t)end, counts);
        for (int64_t e = begin; row % PLAIN_EVERY == 0 && e < end; e++)
            gaps[cf_bit_length(e == begin ? ids[e] : ids[e] - ids[e - 1] - 1)]++;
        if (begin != end && ids[end - 1] > s->largest)
            s->largest = ids[end - 1];
        h->max_row = end - begin > h->max_row ? (uint32_t)(end - begin) : h->max_row;
        for (unsigned t = 1; t <= dictionary->n_tiers; t++) {
            s->histogram[t][counts[t] < LONG_COUNT ? counts[t] : LONG_COUNT]++;
            s->most[t] = counts[t] > s->most[t] ? counts[t] : s->most[t];
        }
    }
    s->plain_bits = PLAIN_EVERY * cf_gap_code_cost(cf_gap_code_choose(gaps), gaps) +
                    (uint64_t)h->n_rows * cf_bit_length(h->max_row);
    return cf_ok();
}

/* Fewer bits for the count of a tier make every row shorter; rows with more members than the count
 * can say then write the rest as if they were outside the dictionary. */
static void choose_count_bits(const cf_dictionary *dictionary, const id_statistics *s,
                              cf_block_header *h) {
    for (unsigned t = 1; t <= dictionary->n_tiers; t++) {
        const unsigned enough = cf_bit_length(s->most[t]);
        const unsigned outside_bits = cf_bit_length(s->largest | 1) + 1;
        const unsigned extra =
            outside_bits > dictionary->tier_bits[t] ? outside_bits - dictionary->tier_bits[t] : 1;
        uint64_t best = (uint64_t)enough * h->n_rows;
        h->count_bits[t] = (uint8_t)enough;
        if (s->most[t] >= LONG_COUNT)
            continue;
        for (unsigned bits = 0; bits < enough; bits++) {
            uint64_t cost = (uint64_t)bits * h->n_rows;
            for (uint32_t count = cf_code_limit(bits) + 1; count <= s->most[t]; count++)
                cost += s->histogram[t][count] * (count - cf_code_limit(bits)) * extra;
            if (cost < best) {
                best = cost;
                h->count_bits[t] = (uint8_t)bits;
            }
        }
    }
}

/* Makes a row whose tiers have more members than their counts can say fit. */
static void move_surplus_outside(const cf_block_header *h, workspace w, uint32_t begin,
                                 uint32_t end, uint32_t *counts) {
    uint32_t kept[RUNS] = {0};
    for (uint32_t e = begin; e < end; e++) {
        uint32_t tier = w.slot[e] >> 28;
        if (tier != 0 && tier != OUTSIDE && kept[tier] == cf_code_limit(h->count_bits[tier])) {
            tier = OUTSIDE;
            w.slot[e] = (uint32_t)OUTSIDE << 28;
        }
        kept[tier]++;
    }
    memcpy(counts, kept, sizeof kept);
    order_row(w, begin, end, counts);
}

/* Fixes the runs of every row; returns the bits of the id stream. */
static uint64_t fix_runs(const cf_block_input *rows, const cf_dictionary *dictionary, workspace w,
                         cf_block_header *h) {
    const uint32_t *ids = rows->indices + rows->indptr[0];
    uint64_t gaps[33] = {0}, member_bits = 0;
    uint32_t most_outside = 0, begin = 0;
    for (uint32_t row = 0; row < h->n_rows; row++) {
        const uint32_t end = (uint32_t)(rows->indptr[row + 1] - rows->indptr[0]);
        uint32_t *counts = w.counts + RUNS * (size_t)row;
        int surplus = 0;
        for (unsigned t = 1; t <= dictionary->n_tiers; t++)
            surplus |= counts[t] > cf_code_limit(h->count_bits[t]);
        if (surplus)
            move_surplus_outside(h, w, begin, end, counts);
        for (unsigned t = 1; t <= dictionary->n_tiers; t++)
            member_bits += (uint64_t)counts[t] * dictionary->tier_bits[t];
        uint32_t next = 0;
        for (uint32_t i = end - counts[OUTSIDE]; i < end; i++) {
            const uint32_t id = ids[w.order[i]];
            gaps[cf_bit_length(id - next)]++;
            next = id + 1;
        }
        most_outside = counts[OUTSIDE] > most_outside ? counts[OUTSIDE] : most_outside;
        begin = end;
    }
    h->count_bits[0] = (uint8_t)cf_bit_length(most_outside);
    h->gaps = cf_gap_code_choose(gaps);
    uint64_t row_bits = dictionary->tier_size[0];
    for (unsigned t = 0; t < CF_TIERS; t++)
        row_bits += h->count_bits[t];
    return h->n_rows * row_bits + member_bits + cf_gap_code_cost(h->gaps, gaps);
}

/* ---- values ---- */

static unsigned value_bits(cf_value_table table, uint32_t place) {
    if (place < table.n && place < cf_code_limit(table.first_bits))
        return table.first_bits;
    return (unsigned)table.first_bits + table.second_bits + (place < table.n ? 0 : 32);
}

static void put_value(cf_bit_writer *w, cf_value_table table, uint32_t place, uint32_t bits) {
    const uint32_t first = cf_code_limit(table.first_bits);
    if (place < table.n && place < first) {
        cf_bits_put(w, place, table.first_bits);
        return;
    }
    cf_bits_put(w, first, table.first_bits);
    if (place < table.n) {
        cf_bits_put(w, place - first, table.second_bits);
        return;
    }
    cf_bits_put(w, cf_code_limit(table.second_bits), table.second_bits);
    cf_bits_put(w, bits, 32);
}

/* Place of a value of which the id has no table: no value of a table has it. */
#define NO_TABLE UINT32_MAX

/* The table of the i-th entry written, whose place is not NO_TABLE. */
static cf_value_table table_of(const cf_dictionary *dictionary, workspace w, uint32_t i) {
    return dictionary->tables[dictionary->table_of[w.rank[i]] - 1];
}

/* Index of a value in own->values, counting from 1; 0 if it is not there. */
static uint16_t *find_own_slot(own_table *own, uint32_t bits) {
    uint32_t s = (bits * 0x9e3779b1u) >> 18; /* 14 bits: OWN_SLOTS */
    while (own->slots[s] != 0 && own->values[own->slots[s] - 1] != bits)
        s = (s + 1) % OWN_SLOTS;
    return &own->slots[s];
}

static uint32_t own_place(own_table *own, uint32_t bits) {
    const uint32_t found = *find_own_slot(own, bits);
    return found != 0 ? found - 1 : UINT32_MAX;
}

/* Counts the values without a table in the dictionary and shapes the block's own table. The first
 * OWN_VALUES distinct values are looked at: what is frequent is among them. Returns its bits. */
static uint64_t build_own_table(const cf_block_input *rows, workspace w, uint32_t nnz) {
    const float *data = rows->data + rows->indptr[0];
    own_table *own = w.own;
    memset(own->slots, 0, sizeof own->slots);
    own->n = 0;
    uint64_t total = 0;
    for (uint32_t i = 0; i < nnz; i++) {
        if (w.place[i] != NO_TABLE)
            continue;
        total++;
        const uint32_t bits = cf_float_bits(data[w.order[i]]);
        uint16_t *slot = find_own_slot(own, bits);
        if (*slot == 0) {
            if (own->n == OWN_VALUES)
                continue;
            own->counts[own->n] = 0;
            own->values[own->n] = bits;
            *slot = (uint16_t)++own->n;
        }
        own->counts[*slot - 1]++;
    }
    for (uint32_t i = 0; i < own->n; i++)
        own->ranked[i] = (uint64_t)(UINT32_MAX - own->counts[i]) << 32 | own->values[i];
    cf_sort_u64(own->ranked, own->sort, own->n);
    memset(own->slots, 0, sizeof own->slots);
    for (uint32_t i = 0; i < own->n; i++) {
        own->counts[i] = UINT32_MAX - (uint32_t)(own->ranked[i] >> 32);
        own->values[i] = (uint32_t)own->ranked[i];
    }
    own->shape.begin = 0;
    const uint64_t bits =
        cf_value_table_choose(own->counts, own->n, total, 32, own->prefix, &own->shape);
    own->n = own->shape.n;
    for (uint32_t i = 0; i < own->n; i++)
        *find_own_slot(own, own->values[i]) = (uint16_t)(i + 1);
    return bits;
}

/* Finds the place of every value in its table and chooses what to do with values that have none;
 * returns the bits of the value stream. */
static uint64_t place_values(const cf_block_input *rows, const cf_dictionary *dictionary,
                             workspace w, cf_block_header *h) {
    const float *data = rows->data + rows->indptr[0];
    uint64_t coded_bits = 0;
    uint32_t n_plain = 0, n_others = 0; /* values without table; of them, those not 1.0 */
    uint32_t i = 0;
    for (uint32_t row = 0; row < h->n_rows; row++) {
        const uint32_t *counts = w.counts + RUNS * (size_t)row;
        for (unsigned t = 0; t < RUNS; t++) {
            const int has_tables = t != OUTSIDE && dictionary->tier_has_tables[t];
            for (const uint32_t end = i + counts[t]; i < end; i++) {
                const uint32_t bits = cf_float_bits(data[w.order[i]]);
                const uint32_t number = has_tables ? dictionary->table_of[w.rank[i]] : 0;
                if (number == 0) {
                    w.place[i] = NO_TABLE;
                    n_plain++;
                    n_others += bits != ONE_BITS;
                } else {
                    w.place[i] = cf_dictionary_find_value(dictionary, number - 1, bits);
                    coded_bits += value_bits(dictionary->tables[number - 1], w.place[i]);
                }
            }
        }
    }
    h->flags |= CF_BLOCK_ONES;
    h->n_exceptions = n_others;
    if (64 * (uint64_t)n_others <= n_plain) /* any table takes a bit an entry or more */
        return coded_bits;
    const uint64_t own_bits = build_own_table(rows, w, h->nnz);
    if (64 * (uint64_t)n_others <= own_bits)
        return coded_bits;
    h->flags &= ~(unsigned)CF_BLOCK_ONES;
    h->n_exceptions = 0;
    h->n_table = w.own->shape.n;
    h->first_bits = w.own->shape.first_bits;
    h->second_bits = w.own->shape.second_bits;
    return coded_bits + own_bits - 32 * (uint64_t)h->n_table;
}

/* ---- measure and fill ---- */

/* Measures with this dictionary; *id_bits: what the ids take, *plain_bits: what they would take
 * without dictionary. The length is returned in 64 bits, since it may not fit the header. */
static cf_status measure_with(const cf_block_input *rows, const cf_dictionary *dictionary,
                              workspace w, cf_block_header *h, uint64_t *n_bytes, uint64_t *id_bits,
                              uint64_t *plain_bits) {
    id_statistics statistics;
    cf_status status = classify_ids(rows, dictionary, w, h, &statistics);
    if (status.code != CF_OK)
        return status;
    choose_count_bits(dictionary, &statistics, h);
    *id_bits = fix_runs(rows, dictionary, w, h);
    *plain_bits = statistics.plain_bits;
    const uint64_t values_bits = place_values(rows, dictionary, w, h);
    choose_labels(rows, h);
    if (dictionary->identity != 0)
        h->flags |= CF_BLOCK_DICTIONARY;
    if (rows->weights != NULL)
        h->flags |= CF_BLOCK_WEIGHTS;
    h->dictionary = dictionary->identity;
    h->version = CF_BLOCK_VERSION;
    const uint64_t ids_bytes = (*id_bits + 7) / 8, values_bytes = (values_bits + 7) / 8;
    *n_bytes = CF_BLOCK_HEADER + 4 * (uint64_t)h->n_labels +
               ((uint64_t)h->n_rows * h->label_bits + 7) / 8 +
               (rows->weights != NULL ? 4 * (uint64_t)h->n_rows : 0) + 4 * (uint64_t)h->n_table +
               8 * (uint64_t)h->n_exceptions + ids_bytes + values_bytes + CF_BITS_PAD;
    h->ids_bytes = (uint32_t)ids_bytes;
    h->values_bytes = (uint32_t)values_bytes;
    h->n_bytes = (uint32_t)*n_bytes;
    return cf_ok();
}

cf_status cf_block_measure(const cf_block_input *rows, const cf_dictionary *dictionary,
                           uint64_t *scratch, cf_block_header *header) {
    if (rows->indptr[0] < 0 || rows->indptr[rows->n_rows] < rows->indptr[0])
        return cf_fail(CF_E_INDPTR, rows->n_rows);
    const int64_t nnz = rows->indptr[rows->n_rows] - rows->indptr[0];
    if (rows->n_rows > CF_BLOCK_MAX_ENTRIES || nnz > CF_BLOCK_MAX_ENTRIES)
        return cf_fail(CF_E_ROOM, 0);
    const workspace w = carve(scratch, rows->n_rows, (size_t)nnz);
    cf_block_header start = {0};
    start.n_rows = (uint32_t)rows->n_rows;
    start.nnz = (uint32_t)nnz;
    if (dictionary == NULL || dictionary->n_ids == 0)
        dictionary = &cf_no_dictionary;
    uint64_t n_bytes, id_bits, plain_bits;
    *header = start;
    cf_status status = measure_with(rows, dictionary, w, header, &n_bytes, &id_bits, &plain_bits);
    if (status.code == CF_OK && plain_bits < id_bits && dictionary != &cf_no_dictionary) {
        /* Rows unlike the sample: without the dictionary they may be shorter. */
        const uint64_t with_bytes = n_bytes;
        *header = start;
        status = measure_with(rows, &cf_no_dictionary, w, header, &n_bytes, &id_bits, &plain_bits);
        if (status.code == CF_OK && with_bytes <= n_bytes) { /* the workspace must be its again */
            *header = start;
            status = measure_with(rows, dictionary, w, header, &n_bytes, &id_bits, &plain_bits);
        }
    }
    if (status.code == CF_OK && n_bytes > UINT32_MAX)
        return cf_fail(CF_E_ROOM, 0);
    return status;
}

static void write_header(const cf_block_header *h, uint8_t *out) {
    memset(out, 0, CF_BLOCK_HEADER);
    memcpy(out, "CFB1", 4);
    cf_store_u32(out + 8, h->n_bytes);
    cf_store_u16(out + 12, h->version);
    cf_store_u16(out + 14, h->flags);
    cf_store_u32(out + 16, h->n_rows);
    cf_store_u32(out + 20, h->nnz);
    cf_store_u64(out + 24, h->dictionary);
    cf_store_u32(out + 32, h->max_row);
    cf_store_u32(out + 36, h->ids_bytes);
    cf_store_u32(out + 40, h->values_bytes);
    cf_store_u32(out + 44, h->n_exceptions);
    cf_store_u32(out + 48, h->n_table);
    out[52] = (uint8_t)h->label_bits;
    out[53] = (uint8_t)h->n_labels;
    out[54] = (uint8_t)h->first_bits;
    out[55] = (uint8_t)h->second_bits;
    out[56] = h->gaps.class_bits;
    memcpy(out + 57, h->gaps.width, 4);
    memcpy(out + 61, h->count_bits, CF_TIERS);
}

static uint8_t *end_of_stream(cf_bit_writer w) { return w.at + (w.n_pending != 0); }

static uint8_t *write_labels(const cf_block_input *rows, const cf_block_header *h, uint8_t *out) {
    if (h->label_bits == 32) {
        memcpy(out, rows->labels, 4 * rows->n_rows);
        return out + 4 * rows->n_rows;
    }
    label_table labels;
    collect_labels(rows, &labels);
    memcpy(out, labels.values, 4 * (size_t)labels.n);
    cf_bit_writer w = {out + 4 * (size_t)labels.n, 0, 0};
    for (size_t row = 0; row < rows->n_rows; row++)
        cf_bits_put(&w, find_label(&labels, cf_float_bits(rows->labels[row])), h->label_bits);
    return end_of_stream(w);
}

static uint8_t *write_exceptions(const cf_block_input *rows, workspace w, const cf_block_header *h,
                                 uint8_t *out) {
    const float *data = rows->data + rows->indptr[0];
    for (uint32_t i = 0; h->n_exceptions != 0 && i < h->nnz; i++) {
        const uint32_t bits = cf_float_bits(data[w.order[i]]);
        if (bits == ONE_BITS || w.place[i] != NO_TABLE)
            continue;
        cf_store_u32(out, i);
        cf_store_u32(out + 4, bits);
        out += 8;
    }
    return out;
}

static uint8_t *write_ids(const cf_block_input *rows, const cf_dictionary *dictionary, workspace w,
                          const cf_block_header *h, uint8_t *out) {
    const uint32_t *ids = rows->indices + rows->indptr[0];
    cf_bit_writer bits = {out, 0, 0};
    uint32_t i = 0;
    for (uint32_t row = 0; row < h->n_rows; row++) {
        const uint32_t *counts = w.counts + RUNS * (size_t)row;
        cf_bits_put(&bits, counts[OUTSIDE], h->count_bits[0]);
        for (unsigned t = 1; t <= dictionary->n_tiers; t++)
            cf_bits_put(&bits, counts[t], h->count_bits[t]);
        uint32_t end = i + counts[0];
        for (uint32_t first = 0; first < dictionary->tier_size[0]; first += 32) {
            const uint32_t left = dictionary->tier_size[0] - first;
            uint32_t members = 0;
            for (; i < end && w.rank[i] - first < 32; i++)
                members |= UINT32_C(1) << (w.rank[i] - first);
            cf_bits_put(&bits, members, left < 32 ? left : 32);
        }
        for (unsigned t = 1; t <= dictionary->n_tiers; t++) {
            const uint32_t begin = dictionary->tier_begin[t];
            for (end = i + counts[t]; i < end; i++)
                cf_bits_put(&bits, w.rank[i] - begin, dictionary->tier_bits[t]);
        }
        uint32_t next = 0;
        for (end = i + counts[OUTSIDE]; i < end; i++) {
            const uint32_t id = ids[w.order[i]];
            cf_gap_put(&bits, h->gaps, id - next);
            next = id + 1;
        }
    }
    return end_of_stream(bits);
}

static uint8_t *write_values(const cf_block_input *rows, const cf_dictionary *dictionary,
                             workspace w, const cf_block_header *h, uint8_t *out) {
    const float *data = rows->data + rows->indptr[0];
    cf_bit_writer writer = {out, 0, 0};
    for (uint32_t i = 0; i < h->nnz; i++) {
        if (w.place[i] != NO_TABLE) {
            put_value(&writer, table_of(dictionary, w, i), w.place[i],
                      cf_float_bits(data[w.order[i]]));
        } else if (!(h->flags & CF_BLOCK_ONES)) {
            const uint32_t bits = cf_float_bits(data[w.order[i]]);
            put_value(&writer, w.own->shape, own_place(w.own, bits), bits);
        }
    }
    return end_of_stream(writer);
}

void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                   const cf_dictionary *dictionary, uint64_t *scratch, const cf_block_header *h,
                   uint8_t *out) {
    const workspace w = carve(scratch, h->n_rows, h->nnz);
    if (!(h->flags & CF_BLOCK_DICTIONARY))
        dictionary = &cf_no_dictionary;
    write_header(h, out);
    uint8_t *at = write_labels(rows, h, out + CF_BLOCK_HEADER);
    if (rows->weights != NULL) {
        memcpy(at, rows->weights, 4 * rows->n_rows);
        at += 4 * rows->n_rows;
    }
    memcpy(at, w.own->values, 4 * (size_t)h->n_table);
    at += 4 * (size_t)h->n_table;
    at = write_exceptions(rows, w, h, at);
    at = write_ids(rows, dictionary, w, h, at);
    at = write_values(rows, dictionary, w, h, at);
    memset(at, 0, CF_BITS_PAD);
    cf_store_u32(out + 4, kernels->crc32c(0, out + 8, h->n_bytes - 8));
}
