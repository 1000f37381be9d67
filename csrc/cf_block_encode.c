/* Encoding a block: look at all rows, choose the cheapest way for each part, then write. */
#include "cf_block.h"

enum {
    OUTSIDE = CF_TIERS, /* the "tier" of ids outside the dictionary */
    OWN_VALUES = 4096,  /* most values looked at for the block's own table */
    OWN_SLOTS = 4 * OWN_VALUES,
    LONG_COUNT = 1023, /* counts of this and above are not told apart */
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

typedef struct {
    own_table *own;
    uint32_t *rank;  /* [nnz] in the order of the rows given */
    uint32_t *place; /* [nnz] of the value in its table, where the id has one */
    uint32_t *order; /* [nnz] which entry is written when; entries are counted from 0 */
    uint8_t *tier;   /* [nnz] */
} workspace;

static size_t words_of(size_t bytes) { return (bytes + 7) / 8; }

size_t cf_block_encode_scratch(size_t n_rows, size_t nnz) {
    (void)n_rows;
    return words_of(sizeof(own_table)) + 3 * words_of(4 * nnz) + words_of(nnz);
}

static workspace carve(uint64_t *scratch, size_t nnz) {
    workspace w;
    w.own = (own_table *)(void *)scratch;
    scratch += words_of(sizeof(own_table));
    w.rank = (uint32_t *)(void *)scratch;
    scratch += words_of(4 * nnz);
    w.place = (uint32_t *)(void *)scratch;
    scratch += words_of(4 * nnz);
    w.order = (uint32_t *)(void *)scratch;
    scratch += words_of(4 * nnz);
    w.tier = (uint8_t *)scratch;
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
    uint64_t plain_gaps[33]; /* of all ids of a row, as a block without dictionary writes them */
    uint32_t largest;
} id_statistics;

/* Finds rank and tier of every id, and checks that the rows are rows. */
static cf_status classify_ids(const cf_block_input *rows, const cf_dictionary *dictionary,
                              workspace w, cf_block_header *h, id_statistics *s) {
    memset(s, 0, sizeof *s);
    const int64_t first = rows->indptr[0];
    for (size_t row = 0; row < rows->n_rows; row++) {
        const int64_t begin = rows->indptr[row] - first, end = rows->indptr[row + 1] - first;
        if (begin < 0 || end < begin || end > h->nnz)
            return cf_fail(CF_E_INDPTR, row);
        uint32_t count[CF_TIERS + 1] = {0};
        uint64_t next = 0;
        for (int64_t e = begin; e < end; e++) {
            const uint32_t id = rows->indices[first + e];
            if (id < next)
                return cf_fail(CF_E_ORDER, (size_t)e);
            s->plain_gaps[cf_bit_length(id - (uint32_t)next)]++;
            next = (uint64_t)id + 1;
            const uint64_t slot = cf_dictionary_find(dictionary, id);
            const uint8_t tier = slot == CF_NO_SLOT ? OUTSIDE : (uint8_t)(slot >> 60);
            w.tier[e] = tier;
            w.rank[e] = (uint32_t)(slot >> 32) & 0x0fffffff;
            count[tier]++;
        }
        s->largest = next > s->largest ? (uint32_t)(next - 1) : s->largest;
        h->max_row = end - begin > h->max_row ? (uint32_t)(end - begin) : h->max_row;
        for (unsigned t = 1; t <= dictionary->n_tiers; t++) {
            s->histogram[t][count[t] < LONG_COUNT ? count[t] : LONG_COUNT]++;
            s->most[t] = count[t] > s->most[t] ? count[t] : s->most[t];
        }
    }
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

/* Fixes the tier of every id and the order of writing; returns the bits of the id stream. */
static uint64_t order_ids(const cf_block_input *rows, const cf_dictionary *dictionary, workspace w,
                          cf_block_header *h) {
    uint64_t gaps[33] = {0}, member_bits = 0;
    uint32_t most_outside = 0;
    for (size_t row = 0; row < rows->n_rows; row++) {
        const uint32_t begin = (uint32_t)(rows->indptr[row] - rows->indptr[0]);
        const uint32_t end = (uint32_t)(rows->indptr[row + 1] - rows->indptr[0]);
        const uint32_t *ids = rows->indices + rows->indptr[0];
        uint32_t count[CF_TIERS + 1] = {0}, next = 0;
        for (uint32_t e = begin; e < end; e++) {
            unsigned t = w.tier[e];
            if (t != 0 && t != OUTSIDE && count[t] == cf_code_limit(h->count_bits[t]))
                t = w.tier[e] = OUTSIDE;
            if (t == OUTSIDE) {
                gaps[cf_bit_length(ids[e] - next)]++;
                next = ids[e] + 1;
            }
            count[t]++;
        }
        most_outside = count[OUTSIDE] > most_outside ? count[OUTSIDE] : most_outside;
        uint32_t at[CF_TIERS + 1], to = begin;
        for (unsigned t = 0; t <= OUTSIDE; t++) {
            at[t] = to;
            to += count[t];
            if (t != OUTSIDE)
                member_bits += (uint64_t)count[t] * dictionary->tier_bits[t];
        }
        for (uint32_t e = begin; e < end; e++)
            w.order[at[w.tier[e]]++] = e;
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

/* The table of an entry's id, or NULL. */
static const cf_value_table *table_of(const cf_dictionary *dictionary, workspace w, uint32_t e) {
    if (w.tier[e] == OUTSIDE || !dictionary->tier_has_tables[w.tier[e]])
        return NULL;
    const uint32_t number = dictionary->table_of[w.rank[e]];
    return number != 0 ? &dictionary->tables[number - 1] : NULL;
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
static uint64_t build_own_table(const cf_block_input *rows, const cf_dictionary *dictionary,
                                workspace w, uint32_t nnz) {
    own_table *own = w.own;
    memset(own->slots, 0, sizeof own->slots);
    own->n = 0;
    uint64_t total = 0;
    for (uint32_t e = 0; e < nnz; e++) {
        if (table_of(dictionary, w, e) != NULL)
            continue;
        total++;
        const uint32_t bits = cf_float_bits(rows->data[rows->indptr[0] + e]);
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
    for (uint32_t e = 0; e < h->nnz; e++) {
        const cf_value_table *table = table_of(dictionary, w, e);
        const uint32_t bits = cf_float_bits(data[e]);
        if (table == NULL) {
            n_plain++;
            n_others += bits != ONE_BITS;
        } else {
            const uint32_t number = (uint32_t)(table - dictionary->tables);
            w.place[e] = cf_dictionary_find_value(dictionary, number, bits);
            coded_bits += value_bits(*table, w.place[e]);
        }
    }
    h->flags |= CF_BLOCK_ONES;
    h->n_exceptions = n_others;
    if (64 * (uint64_t)n_others <= n_plain) /* any table takes a bit an entry or more */
        return coded_bits;
    const uint64_t own_bits = build_own_table(rows, dictionary, w, h->nnz);
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
    *id_bits = order_ids(rows, dictionary, w, h);
    *plain_bits =
        cf_gap_code_cost(cf_gap_code_choose(statistics.plain_gaps), statistics.plain_gaps) +
        (uint64_t)h->n_rows * cf_bit_length(h->max_row);
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
    const int64_t nnz = rows->indptr[rows->n_rows] - rows->indptr[0];
    if (rows->indptr[0] < 0 || nnz < 0)
        return cf_fail(CF_E_INDPTR, rows->n_rows);
    if (rows->n_rows > CF_BLOCK_MAX_ENTRIES || nnz > CF_BLOCK_MAX_ENTRIES)
        return cf_fail(CF_E_ROOM, 0);
    const workspace w = carve(scratch, (size_t)nnz);
    cf_block_header start = {0};
    start.n_rows = (uint32_t)rows->n_rows;
    start.nnz = (uint32_t)nnz;
    if (dictionary == NULL)
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

static uint8_t *write_exceptions(const cf_block_input *rows, const cf_dictionary *dictionary,
                                 workspace w, const cf_block_header *h, uint8_t *out) {
    for (uint32_t i = 0; h->n_exceptions != 0 && i < h->nnz; i++) {
        const uint32_t e = w.order[i];
        const uint32_t bits = cf_float_bits(rows->data[rows->indptr[0] + e]);
        if (bits == ONE_BITS || table_of(dictionary, w, e) != NULL)
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
    for (size_t row = 0; row < rows->n_rows; row++) {
        const uint32_t begin = (uint32_t)(rows->indptr[row] - rows->indptr[0]);
        const uint32_t end = (uint32_t)(rows->indptr[row + 1] - rows->indptr[0]);
        uint32_t count[CF_TIERS + 1] = {0};
        for (uint32_t e = begin; e < end; e++)
            count[w.tier[e]]++;
        cf_bits_put(&bits, count[OUTSIDE], h->count_bits[0]);
        for (unsigned t = 1; t <= dictionary->n_tiers; t++)
            cf_bits_put(&bits, count[t], h->count_bits[t]);
        const uint32_t *e = w.order + begin;
        const uint32_t *const bitmap_end = e + count[0];
        for (uint32_t first = 0; first < dictionary->tier_size[0]; first += 32) {
            const uint32_t left = dictionary->tier_size[0] - first;
            uint32_t members = 0;
            for (; e < bitmap_end && w.rank[*e] - first < 32; e++)
                members |= UINT32_C(1) << (w.rank[*e] - first);
            cf_bits_put(&bits, members, left < 32 ? left : 32);
        }
        for (unsigned t = 1; t <= dictionary->n_tiers; t++)
            for (uint32_t i = 0; i < count[t]; i++, e++)
                cf_bits_put(&bits, w.rank[*e] - dictionary->tier_begin[t],
                            dictionary->tier_bits[t]);
        uint32_t next = 0;
        for (uint32_t i = 0; i < count[OUTSIDE]; i++, e++) {
            cf_gap_put(&bits, h->gaps, ids[*e] - next);
            next = ids[*e] + 1;
        }
    }
    return end_of_stream(bits);
}

static uint8_t *write_values(const cf_block_input *rows, const cf_dictionary *dictionary,
                             workspace w, const cf_block_header *h, uint8_t *out) {
    cf_bit_writer writer = {out, 0, 0};
    for (uint32_t i = 0; i < h->nnz; i++) {
        const uint32_t e = w.order[i];
        const uint32_t bits = cf_float_bits(rows->data[rows->indptr[0] + e]);
        const cf_value_table *table = table_of(dictionary, w, e);
        if (table != NULL)
            put_value(&writer, *table, w.place[e], bits);
        else if (!(h->flags & CF_BLOCK_ONES))
            put_value(&writer, w.own->shape, own_place(w.own, bits), bits);
    }
    return end_of_stream(writer);
}

void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                   const cf_dictionary *dictionary, uint64_t *scratch, const cf_block_header *h,
                   uint8_t *out) {
    const workspace w = carve(scratch, h->nnz);
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
    at = write_exceptions(rows, dictionary, w, h, at);
    at = write_ids(rows, dictionary, w, h, at);
    at = write_values(rows, dictionary, w, h, at);
    memset(at, 0, CF_BITS_PAD);
    cf_store_u32(out + 4, kernels->crc32c(0, out + 8, h->n_bytes - 8));
}
