/* Encoding a block: sort every entry into its stream, choose the cheapest way for each part, then
 * write. */
#include "cf_block_sort.h"
#include "cf_block_values.h"

enum {
    PLAIN_EVERY = 16 /* one row of so many is looked at for what it takes without dictionary */
};

/* The streams as they grow, of [nnz] each; the first of them are in `sorted`. */
typedef struct {
    cf_block_sorted sorted;
    uint8_t *narrow;
    uint16_t *wide, *second;
    uint32_t *raw;
    uint32_t *missing[2]; /* of the rows' entries with narrow and wide tables: which have no code */
    uint32_t *counts;     /* [n_rows][CF_BLOCK_COUNTS] */
    uint8_t *bitmaps;     /* [n_rows][bitmap_bytes] */
    cf_own_values *own;
} workspace;

/* Words for n items of so many bytes, and for what may be written behind them. */
static size_t room(size_t n, size_t item) { return ((n + CF_SORT_SLACK) * item + 7) / 8; }

/* Takes them off the front of *scratch. */
static void *take(uint64_t **scratch, size_t n, size_t item) {
    void *taken = *scratch;
    *scratch += room(n, item);
    return taken;
}

/* What follows takes fifteen lists of four bytes, four of two and two of one. */
static workspace carve(uint64_t *scratch, size_t n_rows, size_t nnz) {
    workspace w;
    w.own = take(&scratch, 1, sizeof *w.own);
    for (unsigned k = 0; k < CF_KINDS; k++)
        w.sorted.work[k] = take(&scratch, nnz, 4);
    for (unsigned k = 0; k < 2; k++) {
        w.sorted.tables[k] = take(&scratch, nnz, 4);
        w.sorted.values[k] = take(&scratch, nnz, 4);
        w.missing[k] = take(&scratch, nnz, 4);
    }
    w.sorted.outside = take(&scratch, nnz, 4);
    w.raw = take(&scratch, nnz, 4);
    w.sorted.twelve = take(&scratch, nnz, 2);
    w.sorted.sixteen = take(&scratch, nnz, 2);
    w.wide = take(&scratch, nnz, 2);
    w.second = take(&scratch, nnz, 2);
    w.sorted.eight = take(&scratch, nnz, 1);
    w.narrow = take(&scratch, nnz, 1);
    w.counts = take(&scratch, n_rows, 4 * CF_BLOCK_COUNTS);
    w.bitmaps = (uint8_t *)scratch;
    return w;
}

size_t cf_block_encode_scratch(const cf_dictionary_index *index, size_t n_rows, size_t nnz) {
    const size_t bitmap_bytes = index != NULL ? index->dictionary->bitmap_bytes : 0;
    return room(1, sizeof(cf_own_values)) + 15 * room(nnz, 4) + 4 * room(nnz, 2) +
           2 * room(nnz, 1) + room(n_rows, 4 * CF_BLOCK_COUNTS) + room(n_rows * bitmap_bytes, 1);
}

/* ---- labels ---- */

enum { MAX_LABELS = 255 };

/* Distinct labels by their bits; n is MAX_LABELS + 1 if there are more than can have codes. */
typedef struct {
    uint32_t values[MAX_LABELS];
    uint32_t n;
} label_table;

static uint32_t find_label(const label_table *labels, uint32_t bits) {
    if (labels->n == 2 && (bits == labels->values[0] || bits == labels->values[1]))
        return bits == labels->values[1]; /* the usual case, without a branch on which */
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
    const unsigned bits = labels.n <= 2 ? 1 : labels.n <= 4 ? 2 : labels.n <= 16 ? 4 : 8;
    const uint64_t coded = 32 * (uint64_t)labels.n + (uint64_t)rows->n_rows * bits;
    const int plain = labels.n > MAX_LABELS || coded > 32 * (uint64_t)rows->n_rows;
    h->label_bits = plain ? 32 : bits;
    h->n_labels = plain ? 0 : labels.n;
}

static uint8_t *write_labels(const cf_block_input *rows, const cf_block_header *h, uint8_t *out) {
    if (h->label_bits == 32) {
        if (rows->n_rows != 0)
            memcpy(out, rows->labels, 4 * rows->n_rows);
        return out + 4 * rows->n_rows;
    }
    label_table labels;
    collect_labels(rows, &labels);
    memcpy(out, labels.values, 4 * (size_t)labels.n);
    out += 4 * (size_t)labels.n;
    unsigned n_pending = 0, pending = 0;
    for (size_t row = 0; row < rows->n_rows; row++) {
        pending |= find_label(&labels, cf_float_bits(rows->labels[row])) << n_pending;
        n_pending += h->label_bits;
        if (n_pending == 8) {
            *out++ = (uint8_t)pending;
            n_pending = pending = 0;
        }
    }
    if (n_pending != 0)
        *out++ = (uint8_t)pending;
    return out;
}

/* ---- entries ---- */

/* What is known so far of the block that is measured. */
typedef struct {
    const cf_block_input *rows;
    const cf_dictionary_index *index;
    workspace *w;
    cf_block_header *h;
    cf_block_columns *columns; /* or NULL */
    uint32_t n_valued_others;  /* values with a table that are not 1.0 */
    uint64_t gap_bits;         /* of all ids if there were no dictionary, as gaps; estimated */
    uint32_t largest;
} measure;

/* How many of n values, by their bits, are not 1.0. */
static uint32_t count_others(const uint32_t *values, uint32_t n) {
    uint32_t others = 0;
    for (uint32_t i = 0; i < n; i++)
        others += values[i] != CF_ONE_BITS;
    return others;
}

/* Asks for where the values of the rows at hand may be found. */
static void ask_for_values(const cf_dictionary_index *index, const cf_block_sorted *sorted) {
    for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_WIDE; k++) {
        const cf_value_hash hash = index->values[k];
        for (uint32_t i = 0; i < sorted->n_valued[k]; i++)
            __builtin_prefetch(cf_value_line(hash, sorted->tables[k][i], sorted->values[k][i]));
    }
}

/* Codes of the values of the rows at hand with narrow tables; returns how many have none. */
static uint32_t code_narrow(measure *m) {
    const workspace *w = m->w;
    const cf_value_hash hash = m->index->values[0];
    const uint32_t *tables = w->sorted.tables[0], *values = w->sorted.values[0];
    const uint32_t n = w->sorted.n_valued[0];
    uint32_t *const missing = w->missing[0];
    uint8_t *const codes = w->narrow + m->h->n_narrow;
    uint16_t *second = w->second + m->h->n_second;
    uint32_t n_missing = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t place = cf_value_find(hash, tables[i], values[i]);
        codes[i] = (uint8_t)place;
        if (__builtin_expect(place < CF_NARROW_ESCAPE, 1))
            continue;
        codes[i] = CF_NARROW_ESCAPE;
        *second++ = (uint16_t)(place == CF_NO_VALUE ? CF_WIDE_ESCAPE : place - CF_NARROW_ESCAPE);
        missing[n_missing] = i;
        n_missing += place == CF_NO_VALUE;
    }
    m->h->n_narrow += n;
    m->h->n_second = (uint32_t)(second - w->second);
    return n_missing;
}

/* The same for wide tables. */
static uint32_t code_wide(measure *m) {
    const workspace *w = m->w;
    const cf_value_hash hash = m->index->values[1];
    const uint32_t *tables = w->sorted.tables[1], *values = w->sorted.values[1];
    const uint32_t n = w->sorted.n_valued[1];
    uint32_t *const missing = w->missing[1];
    uint16_t *const codes = w->wide + m->h->n_wide;
    uint32_t n_missing = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t place = cf_value_find(hash, tables[i], values[i]);
        codes[i] = (uint16_t)(place == CF_NO_VALUE ? CF_WIDE_ESCAPE : place);
        missing[n_missing] = i;
        n_missing += place == CF_NO_VALUE;
    }
    m->h->n_wide += n;
    return n_missing;
}

/* Appends the values that have no code: of each row those with narrow tables, then the wide. */
static void list_missing(measure *m, size_t n_rows, uint32_t n_narrow, uint32_t n_wide) {
    const workspace *w = m->w;
    const uint32_t n[2] = {n_narrow, n_wide};
    uint32_t at[2] = {0, 0};
    uint32_t *raw = w->raw + m->h->n_raw;
    for (size_t i = 0; i < n_rows; i++)
        for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_WIDE; k++)
            while (at[k] < n[k] && w->missing[k][at[k]] < w->sorted.valued_ends[i][k])
                *raw++ = w->sorted.values[k][w->missing[k][at[k]++]];
    m->h->n_raw += n_narrow + n_wide;
}

/* Bits of a row's ids as gaps. */
static uint64_t gap_bits(const uint32_t *ids, int64_t n) {
    uint64_t bits = 0;
    uint32_t next = 0;
    for (int64_t i = 0; i < n; i++) {
        bits += 2 + 8 * cf_gap_bytes(ids[i] - next);
        next = ids[i] + 1;
    }
    return bits;
}

/* The first entry of rows [row, end) that is not above the one before it, if there is one. */
static cf_status find_fall(const cf_block_input *rows, size_t row, size_t end) {
    for (; row < end; row++)
        for (int64_t e = rows->indptr[row] + 1; e < rows->indptr[row + 1]; e++)
            if (rows->indices[e] <= rows->indices[e - 1])
                return cf_fail(CF_E_ORDER, (size_t)(e - rows->indptr[0]));
    return cf_ok();
}

/* Looks at all rows' ends, and at what is told from them. */
static cf_status survey_rows(measure *m) {
    const cf_block_input *rows = m->rows;
    const int64_t last = rows->indptr[rows->n_rows];
    for (size_t row = 0; row < rows->n_rows; row++) {
        const int64_t begin = rows->indptr[row], end = rows->indptr[row + 1];
        if (end < begin || end > last) { /* the first row that is wrong is told, whatever it has */
            const cf_status before = find_fall(rows, 0, row);
            return before.code != CF_OK ? before : cf_fail(CF_E_INDPTR, row);
        }
        if (begin != end && rows->indices[end - 1] > m->largest)
            m->largest = rows->indices[end - 1];
        if (end - begin > m->h->max_row)
            m->h->max_row = (uint32_t)(end - begin);
        if (row % PLAIN_EVERY == 0)
            m->gap_bits += PLAIN_EVERY * gap_bits(rows->indices + begin, end - begin);
    }
    return cf_ok();
}

static cf_status sort_rows(measure *m, cf_block_sort *sort) {
    const cf_block_input *rows = m->rows;
    const uint32_t bitmap_bytes = m->index->dictionary->bitmap_bytes;
    memset(m->w->sorted.n, 0, sizeof m->w->sorted.n);
    for (size_t row = 0; row < rows->n_rows; row += CF_SORTED_ROWS) {
        const size_t left = rows->n_rows - row, n = left < CF_SORTED_ROWS ? left : CF_SORTED_ROWS;
        if (!sort(rows, row, n, m->index, &m->w->sorted, m->w->bitmaps + row * bitmap_bytes,
                  m->w->counts + row * CF_BLOCK_COUNTS))
            return find_fall(rows, row, row + n);
        const cf_block_sorted *sorted = &m->w->sorted;
        ask_for_values(m->index, sorted);
        for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_WIDE; k++) {
            m->n_valued_others += count_others(sorted->values[k], sorted->n_valued[k]);
            if (m->columns != NULL &&
                !cf_block_columns_valued(m->columns, m->index->dictionary, sorted->tables[k],
                                         sorted->values[k], sorted->n_valued[k]))
                return cf_fail(CF_E_ROOM, row);
        }
        const uint32_t n_narrow = code_narrow(m), n_wide = code_wide(m);
        if (n_narrow + n_wide != 0)
            list_missing(m, n, n_narrow, n_wide);
    }
    memcpy(m->h->n_codes, m->w->sorted.n, sizeof m->h->n_codes);
    return cf_ok();
}

/* ---- choices ---- */

/* Bytes of the ids outside as gaps. */
static uint64_t outside_gap_bytes(const measure *m) {
    const uint32_t *ids = m->w->sorted.outside, n = m->h->n_codes[CF_OUTSIDE];
    uint64_t bytes = n != 0 ? cf_gap_bytes(ids[0]) : 0;
    for (uint32_t i = 1; i < n; i++)
        bytes += cf_gap_bytes(ids[i] - ids[i - 1] - 1);
    /* As if all were of one row; a row's first is a gap from 0, though. */
    for (uint32_t row = 0, i = 0; row < m->h->n_rows; row++) {
        const uint32_t n_here = m->w->counts[CF_BLOCK_COUNTS * (size_t)row + CF_OUTSIDE];
        if (i != 0 && n_here != 0)
            bytes += (uint64_t)cf_gap_bytes(ids[i]) - cf_gap_bytes(ids[i] - ids[i - 1] - 1);
        i += n_here;
    }
    return bytes;
}

/* How the ids outside the dictionary are written; returns their bits. */
static uint64_t choose_outside(measure *m) {
    cf_block_header *h = m->h;
    const uint32_t n = h->n_codes[CF_OUTSIDE];
    uint32_t largest = 1;
    for (uint32_t i = 0; i < n; i++)
        largest = m->w->sorted.outside[i] > largest ? m->w->sorted.outside[i] : largest;
    const uint64_t bytes = outside_gap_bytes(m);
    h->outside_width = (cf_bit_length(largest) + 7) / 8;
    const uint64_t plain = (uint64_t)h->outside_width * n, gaps = bytes + ((uint64_t)n + 3) / 4;
    h->outside_bytes = (uint32_t)plain;
    if (gaps < plain - plain / 8) { /* they take longer to read */
        h->flags |= CF_BLOCK_GAPS;
        h->outside_bytes = (uint32_t)bytes;
    }
    return 8 * (h->flags & CF_BLOCK_GAPS ? gaps : plain);
}

/* Everything about the ids; *id_bits: what they take, values with tables included. */
static void choose_ids(measure *m, uint64_t *id_bits) {
    cf_block_header *h = m->h;
    h->bitmap_bytes = m->index->dictionary->bitmap_bytes;
    const uint64_t rows = h->n_rows;
    uint32_t longest[2] = {0, 0}; /* counts that do not fit four bits, a byte */
    for (size_t i = 0; i < CF_BLOCK_COUNTS * rows; i++) {
        longest[0] += m->w->counts[i] >= 15;
        longest[1] += m->w->counts[i] >= 255;
    }
    const uint64_t short_counts = 16 * rows + 32 * (uint64_t)longest[0];
    const uint64_t long_counts = 32 * rows + 32 * (uint64_t)longest[1];
    h->n_more = longest[0];
    if (long_counts < short_counts) {
        h->flags |= CF_BLOCK_LONG_COUNTS;
        h->n_more = longest[1];
    }
    *id_bits = 8 * rows * h->bitmap_bytes +
               (long_counts < short_counts ? long_counts : short_counts) +
               8 * (uint64_t)h->n_codes[0] + 12 * (uint64_t)h->n_codes[1] +
               16 * (uint64_t)h->n_codes[2] + choose_outside(m);
}

/* ---- measure and fill ---- */

/* Rank numbers whose value has a table are below this. */
static int is_valued(const cf_dictionary_index *index, uint32_t id) {
    return cf_dictionary_place(index, id) >> CF_KIND_SHIFT <= CF_KIND_WIDE;
}

/* The values without a table, in the order of the tiers: which entries those are, and which they
 * are in the block. Both arrays have room for all entries. */
static uint32_t list_plain(const cf_block_input *rows, const cf_dictionary_index *index,
                           uint32_t *entries, uint32_t *places_in_block) {
    const int64_t first = rows->indptr[0];
    uint32_t n = 0;
    uint32_t stored = 0;
    for (size_t row = 0; row < rows->n_rows; row++) {
        const uint32_t begin = (uint32_t)(rows->indptr[row] - first);
        const uint32_t end = (uint32_t)(rows->indptr[row + 1] - first);
        uint32_t at[CF_KINDS + 1] = {0};
        for (uint32_t e = begin; e < end; e++)
            at[(cf_dictionary_place(index, rows->indices[first + e]) >> CF_KIND_SHIFT) + 1]++;
        const uint32_t n_valued = at[CF_KIND_NARROW + 1] + at[CF_KIND_WIDE + 1];
        for (unsigned k = 0; k < CF_KINDS; k++)
            at[k + 1] += at[k];
        for (uint32_t e = begin; e < end; e++) {
            const uint32_t id = rows->indices[first + e];
            const uint32_t kind = cf_dictionary_place(index, id) >> CF_KIND_SHIFT;
            const uint32_t place = at[kind]++;
            if (is_valued(index, id))
                continue;
            entries[n + place - n_valued] = e;
            places_in_block[n + place - n_valued] = stored + place;
        }
        n += end - begin - n_valued;
        stored += end - begin;
    }
    return n;
}

/* How values without a table are written: as ones with exceptions, or in a code. */
static void choose_plain(measure *m) {
    cf_block_header *h = m->h;
    const float *data = m->rows->data + m->rows->indptr[0];
    const uint64_t n_valued = (uint64_t)h->n_narrow + h->n_wide;
    const uint64_t n_plain = h->nnz - n_valued;
    uint32_t n_others = 0; /* the only number that is 1 has the bits of 1.0 */
    for (uint32_t e = 0; e < h->nnz; e++)
        n_others += data[e] != 1.0f;
    n_others -= m->n_valued_others;
    const uint64_t listed = 64 * (uint64_t)n_others;
    h->flags |= CF_BLOCK_ONES;
    h->n_exceptions = n_others;
    if (listed <= n_plain) /* any code takes about a bit an entry or more */
        return;
    uint32_t *const entries = m->w->missing[0];
    const uint32_t n = list_plain(m->rows, m->index, entries, m->w->missing[1]);
    const uint64_t bits = cf_own_values_choose(m->w->own, data, entries, n, h);
    if (listed <= bits) {
        h->plain_bits = h->n_table = h->n_plain_second = h->n_plain_raw = 0;
        return;
    }
    h->flags &= ~(unsigned)CF_BLOCK_ONES;
    h->n_exceptions = 0;
}

/* Adds the entries without a table to the columns, after `choose_plain`. */
static bool count_plain(const measure *m) {
    const cf_block_header *h = m->h;
    const workspace *w = m->w;
    const uint32_t *ids = m->rows->indices + m->rows->indptr[0];
    const float *data = m->rows->data + m->rows->indptr[0];
    if (!(h->flags & CF_BLOCK_ONES)) /* it has listed them */
        return cf_block_columns_plain(m->columns, ids, data, w->missing[0],
                                      h->nnz - h->n_narrow - h->n_wide);
    cf_sorted_ones sorted = {
        .bitmaps = w->bitmaps,
        .eight = w->sorted.eight,
        .twelve = w->sorted.twelve,
        .sixteen = w->sorted.sixteen,
        .outside = w->sorted.outside,
        .n_rows = h->n_rows,
    };
    memcpy(sorted.n, h->n_codes, sizeof sorted.n);
    cf_block_columns_ones(m->columns, m->index->dictionary, &sorted);
    for (uint32_t e = 0; h->n_exceptions != 0 && e < h->nnz; e++)
        if (data[e] != 1.0f && !is_valued(m->index, ids[e]) &&
            !cf_block_columns_exception(m->columns, ids[e], data[e]))
            return false;
    return true;
}

/* Measures with this dictionary; *id_bits: what the ids take, *plain_bits: without one. The length
 * is returned in 64 bits, since it may not fit the header. */
static cf_status measure_with(const cf_kernels *kernels, const cf_block_input *rows,
                              const cf_dictionary_index *index, workspace *w, cf_block_header *h,
                              cf_block_columns *columns, uint64_t *n_bytes, uint64_t *id_bits,
                              uint64_t *plain_bits) {
    measure m = {.rows = rows, .index = index, .w = w, .h = h, .columns = columns};
    const cf_block_header start = {
        .n_rows = (uint32_t)rows->n_rows,
        .nnz = (uint32_t)(rows->indptr[rows->n_rows] - rows->indptr[0]),
        .version = CF_BLOCK_VERSION,
        .dictionary = index->dictionary->identity,
    };
    *h = start;
    cf_status status = survey_rows(&m);
    if (status.code == CF_OK && columns != NULL && m.largest >= columns->table->n_columns &&
        h->nnz != 0)
        status = cf_fail(CF_E_ID, 0);
    if (status.code == CF_OK)
        status = sort_rows(&m, kernels->block->sort);
    if (status.code != CF_OK)
        return status;
    choose_ids(&m, id_bits);
    choose_plain(&m);
    if (columns != NULL && !count_plain(&m))
        return cf_fail(CF_E_ROOM, 0);
    choose_labels(rows, h);
    if (h->dictionary != 0)
        h->flags |= CF_BLOCK_DICTIONARY;
    if (rows->weights != NULL)
        h->flags |= CF_BLOCK_WEIGHTS;
    *n_bytes = cf_block_length(h);
    h->n_bytes = (uint32_t)*n_bytes;
    const unsigned width = (cf_bit_length(m.largest | 1) + 7) / 8;
    const uint64_t raw = 8 * (uint64_t)width * h->nnz;
    *plain_bits = (raw < m.gap_bits ? raw : m.gap_bits) + 16 * (uint64_t)h->n_rows;
    return status;
}

cf_status cf_block_measure(const cf_kernels *kernels, const cf_block_input *rows,
                           const cf_dictionary_index *index, uint64_t *scratch,
                           cf_block_header *header, cf_block_columns *columns) {
    if (rows->indptr[0] < 0 || rows->indptr[rows->n_rows] < rows->indptr[0])
        return cf_fail(CF_E_INDPTR, rows->n_rows);
    const int64_t nnz = rows->indptr[rows->n_rows] - rows->indptr[0];
    if (rows->n_rows > CF_BLOCK_MAX_ENTRIES || nnz > CF_BLOCK_MAX_ENTRIES)
        return cf_fail(CF_E_ROOM, 0);
    workspace w = carve(scratch, rows->n_rows, (size_t)nnz);
    const cf_dictionary_index *without = &cf_no_index;
    if (index == NULL || index->dictionary->n_ids == 0)
        index = without;
    uint64_t n_bytes, id_bits, plain_bits;
    cf_status status =
        measure_with(kernels, rows, index, &w, header, columns, &n_bytes, &id_bits, &plain_bits);
    if (status.code == CF_OK && plain_bits < id_bits && index != without) {
        /* Rows unlike the sample: without the dictionary they may be shorter. */
        const uint64_t with_bytes = n_bytes;
        status =
            measure_with(kernels, rows, without, &w, header, NULL, &n_bytes, &id_bits, &plain_bits);
        if (status.code == CF_OK && with_bytes <= n_bytes) /* the workspace must be its again */
            status = measure_with(kernels, rows, index, &w, header, NULL, &n_bytes, &id_bits,
                                  &plain_bits);
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
    cf_store_u32(out + 36, h->n_more);
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        cf_store_u32(out + 40 + 4 * t, h->n_codes[t]);
    cf_store_u32(out + 56, h->outside_bytes);
    cf_store_u32(out + 60, h->n_narrow);
    cf_store_u32(out + 64, h->n_wide);
    cf_store_u32(out + 68, h->n_second);
    cf_store_u32(out + 72, h->n_raw);
    cf_store_u32(out + 76, h->n_table);
    cf_store_u32(out + 80, h->n_plain_second);
    cf_store_u32(out + 84, h->n_plain_raw);
    cf_store_u32(out + 88, h->n_exceptions);
    out[92] = (uint8_t)h->label_bits;
    out[93] = (uint8_t)h->n_labels;
    out[94] = (uint8_t)h->plain_bits;
    out[95] = (uint8_t)h->outside_width;
    cf_store_u16(out + 96, h->bitmap_bytes);
}

static void write_counts(const workspace *w, const cf_block_header *h, uint8_t *out,
                         uint8_t *more) {
    const int is_long = (h->flags & CF_BLOCK_LONG_COUNTS) != 0;
    const uint32_t limit = is_long ? 255 : 15;
    for (uint32_t row = 0; row < h->n_rows; row++) {
        const uint32_t *counts = w->counts + CF_BLOCK_COUNTS * (size_t)row;
        uint32_t packed = 0;
        for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
            const uint32_t shown = counts[t] < limit ? counts[t] : limit;
            packed |= shown << (is_long ? 8 : 4) * t;
            if (shown == limit) {
                cf_store_u32(more, counts[t] - limit);
                more += 4;
            }
        }
        if (is_long)
            cf_store_u32(out + 4 * (size_t)row, packed);
        else
            cf_store_u16(out + 2 * (size_t)row, packed);
    }
}

/* Two numbers of 12 bits to three bytes; up to 2 more are written behind the last. */
static void write_twelve(const uint16_t *twelve, uint32_t n, uint8_t *out) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4, out += 6) {
        uint64_t four;
        memcpy(&four, twelve + i, sizeof four);
        four = (four & UINT64_C(0x00000fff00000fff)) | (four >> 4 & UINT64_C(0x00fff00000fff000));
        cf_store_u64(out, (four & 0xffffff) | (four >> 8 & UINT64_C(0xffffff000000)));
    }
    for (; i + 2 <= n; i += 2, out += 3) {
        cf_store_u16(out, twelve[i] | (uint32_t)twelve[i + 1] << 12);
        out[2] = (uint8_t)(twelve[i + 1] >> 4);
    }
    if (i < n)
        cf_store_u16(out, twelve[i]);
}

/* Up to 3 bytes more are written behind the last; out has lengths before it, with CF_BLOCK_GAPS. */
static void write_outside(const workspace *w, const cf_block_header *h, uint8_t *lengths,
                          uint8_t *out) {
    const uint32_t *ids = w->sorted.outside;
    const uint32_t n = h->n_codes[CF_OUTSIDE];
    if (!(h->flags & CF_BLOCK_GAPS)) {
        for (uint32_t i = 0; i < n; i++, out += h->outside_width)
            cf_store_u32(out, ids[i]);
        return;
    }
    memset(lengths, 0, ((size_t)n + 3) / 4);
    for (uint32_t row = 0, i = 0; row < h->n_rows; row++) {
        uint32_t next = 0;
        for (const uint32_t end = i + w->counts[CF_BLOCK_COUNTS * (size_t)row + CF_OUTSIDE];
             i < end; i++) {
            const uint32_t gap = ids[i] - next;
            const unsigned length = cf_gap_bytes(gap);
            next = ids[i] + 1;
            lengths[i >> 2] = (uint8_t)(lengths[i >> 2] | (length - 1) << 2 * (i & 3));
            cf_store_u32(out, gap);
            out += length;
        }
    }
}

static void copy(uint8_t *to, const void *from, size_t n) {
    if (n != 0)
        memcpy(to, from, n);
}

void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                   const cf_dictionary_index *index, uint64_t *scratch, const cf_block_header *h,
                   uint8_t *out) {
    const workspace w = carve(scratch, h->n_rows, h->nnz);
    if (!(h->flags & CF_BLOCK_DICTIONARY))
        index = &cf_no_index;
    const float *data = rows->data + rows->indptr[0];
    cf_block_streams s;
    cf_block_lay_out(h, out, &s);
    /* The same places, to be written to. */
#define TO(part) (out + ((part) - out))
    write_header(h, out);
    write_labels(rows, h, TO(s.labels));
    if (rows->weights != NULL)
        copy(TO(s.weights), rows->weights, 4 * rows->n_rows);
    copy(TO(s.own_values), w.own->values, 4 * (size_t)h->n_table);
    copy(TO(s.bitmaps), w.bitmaps, (size_t)h->n_rows * h->bitmap_bytes);
    write_counts(&w, h, TO(s.counts), TO(s.more));
    /* Each part may write a little beyond its end, so they are written in their order. */
    copy(TO(s.codes[0]), w.sorted.eight, h->n_codes[0]);
    write_twelve(w.sorted.twelve, h->n_codes[1], TO(s.codes[1]));
    copy(TO(s.codes[2]), w.sorted.sixteen, 2 * (size_t)h->n_codes[2]);
    write_outside(&w, h, TO(s.gap_lengths), TO(s.codes[CF_OUTSIDE]));
    copy(TO(s.narrow), w.narrow, h->n_narrow);
    copy(TO(s.wide), w.wide, 2 * (size_t)h->n_wide);
    copy(TO(s.second), w.second, 2 * (size_t)h->n_second);
    copy(TO(s.raw), w.raw, 4 * (size_t)h->n_raw);
    if (!(h->flags & CF_BLOCK_ONES) || h->n_exceptions != 0) {
        uint32_t *const entries = w.missing[0], *const stored = w.missing[1];
        const uint32_t n = list_plain(rows, index, entries, stored);
        uint8_t *exception = TO(s.exceptions);
        if (!(h->flags & CF_BLOCK_ONES))
            cf_own_values_write(w.own, data, entries, n, h, TO(s.plain), TO(s.plain_second),
                                TO(s.plain_raw));
        for (uint32_t i = 0; h->flags & CF_BLOCK_ONES && i < n; i++)
            if (cf_float_bits(data[entries[i]]) != CF_ONE_BITS) {
                cf_store_u32(exception, stored[i]);
                cf_store_u32(exception + 4, cf_float_bits(data[entries[i]]));
                exception += 8;
            }
    }
    memset(TO(s.end), 0, CF_BLOCK_PAD);
#undef TO
    cf_store_u32(out + 4, kernels->crc32c(0, out + 8, h->n_bytes - 8));
}
