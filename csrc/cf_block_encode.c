/* Encoding a block: sort every entry into its stream, choose the cheapest way for each part, then
 * write. */
#include "cf_block.h"
#include "cf_block_values.h"

enum {
    GROUP = 8,       /* rows whose look-ups are begun before the first of them is needed */
    PLAIN_EVERY = 16 /* one row of so many is looked at for what it takes without dictionary */
};

/* The streams as they grow: numbers of members, or for kinds with tables the entry, for later. */
typedef struct {
    uint32_t *kind[CF_KINDS]; /* [nnz] each */
    uint32_t *places;         /* [nnz] of the rows at hand */
    uint32_t *counts;         /* [n_rows][CF_BLOCK_COUNTS] */
    uint8_t *bitmaps;         /* [n_rows][bitmap_bytes] */
    uint8_t *narrow;          /* [nnz] */
    uint16_t *wide, *second;  /* [nnz] */
    uint32_t *raw;            /* [nnz] */
    cf_own_values *own;
} workspace;

static size_t words_of(size_t bytes) { return (bytes + 7) / 8; }

static size_t kind_words(size_t nnz) { return words_of(4 * nnz); }

size_t cf_block_encode_scratch(const cf_dictionary_index *index, size_t n_rows, size_t nnz) {
    const size_t bitmap_bytes = index != NULL ? index->dictionary->bitmap_bytes : 0;
    return (CF_KINDS + 1) * kind_words(nnz) + words_of(4 * CF_BLOCK_COUNTS * n_rows) +
           words_of(n_rows * bitmap_bytes) + words_of(nnz) + 2 * words_of(2 * nnz) +
           words_of(4 * nnz) + words_of(sizeof(cf_own_values));
}

static workspace carve(uint64_t *scratch, size_t n_rows, size_t nnz) {
    workspace w;
    for (unsigned k = 0; k < CF_KINDS; k++, scratch += kind_words(nnz))
        w.kind[k] = (uint32_t *)(void *)scratch;
    w.places = (uint32_t *)(void *)scratch;
    scratch += kind_words(nnz);
    w.own = (cf_own_values *)(void *)scratch;
    scratch += words_of(sizeof(cf_own_values));
    w.counts = (uint32_t *)(void *)scratch;
    scratch += words_of(4 * CF_BLOCK_COUNTS * n_rows);
    w.narrow = (uint8_t *)scratch;
    scratch += words_of(nnz);
    w.wide = (uint16_t *)(void *)scratch;
    scratch += words_of(2 * nnz);
    w.second = (uint16_t *)(void *)scratch;
    scratch += words_of(2 * nnz);
    w.raw = (uint32_t *)(void *)scratch;
    scratch += words_of(4 * nnz);
    w.bitmaps = (uint8_t *)scratch;
    return w;
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
    workspace w;
    cf_block_header *h;
    uint32_t *end[CF_KINDS]; /* of what stands in each stream */
    uint32_t n_narrow, n_wide, n_second, n_raw;
    uint64_t n_ones;     /* values with a table that are 1.0 */
    uint64_t gap_bits;   /* of all ids if there were no dictionary, as gaps; estimated */
    uint32_t longest[2]; /* counts that do not fit four bits, a byte */
    uint32_t largest;
} measure;

/* Places of n increasing ids; 0 if they do not increase. */
static int find_places(const cf_dictionary_index *index, const uint32_t *ids, size_t n,
                       uint32_t *places) {
    int increasing = 1;
    for (size_t i = 1; i < n; i++)
        increasing &= ids[i] > ids[i - 1];
    if (index->direct == NULL) {
        for (size_t i = 0; i < n; i++)
            places[i] = cf_dictionary_place(index, ids[i]);
        return increasing;
    }
    const uint32_t *direct = index->direct;
    const uint32_t n_direct = index->n_direct;
    for (size_t i = 0; i < n; i++)
        places[i] = direct[ids[i] < n_direct ? ids[i] : n_direct];
    return increasing;
}

/* Codes of the values of narrow tables: the entries that stand in [from, end) of their stream;
 * places begin with the entry `begin`. */
static void code_narrow(measure *m, const uint32_t *from, const uint32_t *end, uint32_t begin) {
    const workspace *w = &m->w;
    const float *data = m->rows->data + m->rows->indptr[0];
    for (; from != end; from++) {
        const uint32_t bits = cf_float_bits(data[*from]);
        const uint32_t table = w->places[*from - begin] & 0xffff;
        const uint32_t place = cf_dictionary_find_value(m->index, table, bits);
        m->n_ones += bits == CF_ONE_BITS;
        w->narrow[m->n_narrow++] =
            (uint8_t)(place < CF_NARROW_ESCAPE ? place : (uint32_t)CF_NARROW_ESCAPE);
        if (place < CF_NARROW_ESCAPE)
            continue;
        w->second[m->n_second++] =
            (uint16_t)(place == CF_NO_VALUE ? CF_WIDE_ESCAPE : place - CF_NARROW_ESCAPE);
        if (place == CF_NO_VALUE)
            w->raw[m->n_raw++] = bits;
    }
}

/* The same for wide tables. */
static void code_wide(measure *m, const uint32_t *from, const uint32_t *end, uint32_t begin) {
    const workspace *w = &m->w;
    const float *data = m->rows->data + m->rows->indptr[0];
    for (; from != end; from++) {
        const uint32_t bits = cf_float_bits(data[*from]);
        const uint32_t table = w->places[*from - begin] & 0xffff;
        const uint32_t place = cf_dictionary_find_value(m->index, table, bits);
        m->n_ones += bits == CF_ONE_BITS;
        w->wide[m->n_wide++] = (uint16_t)(place == CF_NO_VALUE ? CF_WIDE_ESCAPE : place);
        if (place == CF_NO_VALUE)
            w->raw[m->n_raw++] = bits;
    }
}

/* Asks for what coding the values of these entries will look at. */
static void prefetch_values(const measure *m, const uint32_t *from, const uint32_t *end,
                            uint32_t begin) {
    const float *data = m->rows->data + m->rows->indptr[0];
    for (; from != end; from++)
        __builtin_prefetch(cf_dictionary_value_line(m->index, m->w.places[*from - begin] & 0xffff,
                                                    cf_float_bits(data[*from])));
}

/* Sets the bits of a row's members of the bitmap, which are listed from `from` on. */
static void set_bits(const measure *m, uint8_t *bitmap, uint32_t n_bytes,
                     uint32_t *const from[CF_KINDS], uint32_t begin) {
    const uint32_t *places = m->w.places;
    uint64_t word = 0; /* of the first eight bytes: mostly all there is */
    for (unsigned k = CF_KIND_NARROW; k <= CF_KIND_BIT; k++)
        for (const uint32_t *item = from[k]; item != m->end[k]; item++) {
            const uint32_t member = k == CF_KIND_BIT ? *item : places[*item - begin] & 0xffff;
            if (member < 64)
                word |= UINT64_C(1) << member;
            else
                bitmap[member >> 3] = (uint8_t)(bitmap[member >> 3] | 1u << (member & 7));
        }
    memcpy(bitmap, &word, n_bytes < 8 ? n_bytes : 8);
}

/* Sorts a row's n entries into the streams; places begin with the entry `first`. Returns 0 if ids
 * do not increase. */
static int sort_row(measure *m, uint32_t row, uint32_t begin, uint32_t n, uint32_t first) {
    const uint32_t *ids = m->rows->indices + m->rows->indptr[0] + begin;
    uint32_t *const places = m->w.places + (begin - first);
    if (!find_places(m->index, ids, n, places))
        return 0;
    uint32_t *from[CF_KINDS], *to[CF_KINDS];
    memcpy(from, m->end, sizeof from);
    memcpy(to, m->end, sizeof to);
    for (uint32_t i = 0; i < n; i++) {
        /* Which kind comes next is not predictable, so no branch asks. */
        const uint32_t kind = places[i] >> CF_KIND_SHIFT;
        uint32_t item = kind <= CF_KIND_WIDE ? begin + i : places[i] & 0xffff;
        item = kind == CF_KIND_OUTSIDE ? ids[i] : item;
        *to[kind]++ = item;
    }
    memcpy(m->end, to, sizeof to);
    uint32_t *counts = m->w.counts + CF_BLOCK_COUNTS * (size_t)row;
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++) {
        counts[t] = (uint32_t)(to[CF_KIND_8 + t] - from[CF_KIND_8 + t]);
        m->longest[0] += counts[t] >= 15;
        m->longest[1] += counts[t] >= 255;
    }
    const uint32_t n_bytes = m->index->dictionary->bitmap_bytes;
    if (n_bytes != 0)
        set_bits(m, m->w.bitmaps + (size_t)row * n_bytes, n_bytes, from, first);
    return 1;
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

/* The next rows: everything about their ids, then their values with tables. */
static cf_status sort_group(measure *m, size_t row, size_t n_rows) {
    const cf_block_input *rows = m->rows;
    const int64_t first = rows->indptr[0], last = rows->indptr[rows->n_rows];
    const uint32_t *ids = rows->indices + first;
    const uint32_t group = (uint32_t)(rows->indptr[row] - first);
    const uint32_t *narrow[GROUP + 1], *wide[GROUP + 1];
    for (size_t i = 0; i < n_rows; i++, row++) {
        narrow[i] = m->end[CF_KIND_NARROW];
        wide[i] = m->end[CF_KIND_WIDE];
        /* Compared before they are subtracted, which could overflow. */
        if (rows->indptr[row + 1] < rows->indptr[row] || rows->indptr[row + 1] > last)
            return cf_fail(CF_E_INDPTR, row);
        const int64_t begin = rows->indptr[row] - first, end = rows->indptr[row + 1] - first;
        if (!sort_row(m, (uint32_t)row, (uint32_t)begin, (uint32_t)(end - begin), group)) {
            int64_t e = begin + 1;
            while (ids[e] > ids[e - 1])
                e++;
            return cf_fail(CF_E_ORDER, (size_t)e);
        }
        if (begin != end && ids[end - 1] > m->largest)
            m->largest = ids[end - 1];
        if (end - begin > m->h->max_row)
            m->h->max_row = (uint32_t)(end - begin);
        if (row % PLAIN_EVERY == 0)
            m->gap_bits += PLAIN_EVERY * gap_bits(ids + begin, end - begin);
    }
    narrow[n_rows] = m->end[CF_KIND_NARROW];
    wide[n_rows] = m->end[CF_KIND_WIDE];
    prefetch_values(m, narrow[0], narrow[n_rows], group);
    prefetch_values(m, wide[0], wide[n_rows], group);
    for (size_t i = 0; i < n_rows; i++) { /* row by row: they share what follows the codes */
        code_narrow(m, narrow[i], narrow[i + 1], group);
        code_wide(m, wide[i], wide[i + 1], group);
    }
    return cf_ok();
}

static cf_status sort_rows(measure *m) {
    const cf_block_input *rows = m->rows;
    const uint32_t *ids = rows->indices + rows->indptr[0];
    uint64_t asked = 0; /* entries whose places were prefetched */
    for (size_t row = 0; row < rows->n_rows; row += GROUP) {
        const size_t left = rows->n_rows - row;
        /* As many entries as the last rows had, twice over: the rows after these, about. */
        const uint64_t here = (uint64_t)(rows->indptr[row] - rows->indptr[0]);
        const uint64_t ahead = here + 2 * GROUP * (uint64_t)(here / (row + 1) + 1);
        for (; asked < ahead && asked < m->h->nnz; asked++)
            __builtin_prefetch(cf_dictionary_line(m->index, ids[asked]));
        const cf_status status = sort_group(m, row, left < GROUP ? left : GROUP);
        if (status.code != CF_OK)
            return status;
    }
    return cf_ok();
}

/* How the ids outside the dictionary are written; returns their bits. */
static uint64_t choose_outside(measure *m) {
    cf_block_header *h = m->h;
    const uint32_t *ids = m->w.kind[CF_KIND_OUTSIDE];
    const uint32_t n = h->n_codes[CF_OUTSIDE];
    uint32_t largest = 1;
    uint64_t bytes = 0;
    for (uint32_t row = 0, i = 0; row < h->n_rows; row++) {
        uint32_t next = 0;
        for (const uint32_t end = i + m->w.counts[CF_BLOCK_COUNTS * (size_t)row + CF_OUTSIDE];
             i < end; i++) {
            bytes += cf_gap_bytes(ids[i] - next);
            next = ids[i] + 1;
            largest = ids[i] > largest ? ids[i] : largest;
        }
    }
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
    const cf_dictionary *d = m->index->dictionary;
    h->bitmap_bytes = d->bitmap_bytes;
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        h->n_codes[t] = (uint32_t)(m->end[CF_KIND_8 + t] - m->w.kind[CF_KIND_8 + t]);
    h->n_narrow = m->n_narrow;
    h->n_wide = m->n_wide;
    h->n_second = m->n_second;
    h->n_raw = m->n_raw;
    const uint64_t rows = h->n_rows;
    const uint64_t short_counts = 16 * rows + 32 * (uint64_t)m->longest[0];
    const uint64_t long_counts = 32 * rows + 32 * (uint64_t)m->longest[1];
    h->n_more = m->longest[0];
    if (long_counts < short_counts) {
        h->flags |= CF_BLOCK_LONG_COUNTS;
        h->n_more = m->longest[1];
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

/* The values without a table, in the order of the tiers: which entries those are. Kinds with tables
 * are free by now, and as long as all entries. */
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

static uint64_t count_others(const float *data, uint64_t n) {
    uint64_t others = 0;
    for (uint64_t e = 0; e < n; e++)
        others += cf_float_bits(data[e]) != CF_ONE_BITS;
    return others;
}

/* How values without a table are written: as ones with exceptions, or in a code. */
static void choose_plain(measure *m) {
    cf_block_header *h = m->h;
    const float *data = m->rows->data + m->rows->indptr[0];
    const uint64_t n_valued = (uint64_t)m->n_narrow + m->n_wide;
    const uint64_t n_plain = h->nnz - n_valued;
    const uint64_t n_others = count_others(data, h->nnz) - (n_valued - m->n_ones);
    const uint64_t listed = 64 * n_others;
    h->flags |= CF_BLOCK_ONES;
    h->n_exceptions = (uint32_t)n_others;
    if (listed <= n_plain) /* any code takes about a bit an entry or more */
        return;
    uint32_t *const entries = m->w.kind[CF_KIND_NARROW];
    const uint32_t n = list_plain(m->rows, m->index, entries, m->w.kind[CF_KIND_WIDE]);
    const uint64_t bits = cf_own_values_choose(m->w.own, data, entries, n, h);
    if (listed <= bits) {
        h->plain_bits = h->n_table = h->n_plain_second = h->n_plain_raw = 0;
        return;
    }
    h->flags &= ~(unsigned)CF_BLOCK_ONES;
    h->n_exceptions = 0;
}

/* Measures with this dictionary; *id_bits: what the ids take. The length is returned in 64 bits,
 * since it may not fit the header. */
static cf_status measure_with(measure *m, uint64_t *n_bytes, uint64_t *id_bits) {
    cf_block_header *h = m->h;
    const cf_block_input *rows = m->rows;
    const cf_dictionary *d = m->index->dictionary;
    if (d->bitmap_bytes != 0)
        memset(m->w.bitmaps, 0, rows->n_rows * d->bitmap_bytes);
    const cf_status status = sort_rows(m);
    if (status.code != CF_OK)
        return status;
    choose_ids(m, id_bits);
    choose_plain(m);
    choose_labels(rows, h);
    if (d->identity != 0)
        h->flags |= CF_BLOCK_DICTIONARY;
    if (rows->weights != NULL)
        h->flags |= CF_BLOCK_WEIGHTS;
    h->dictionary = d->identity;
    h->version = CF_BLOCK_VERSION;
    *n_bytes = cf_block_length(h);
    h->n_bytes = (uint32_t)*n_bytes;
    return cf_ok();
}

static cf_status measure_again(const cf_block_input *rows, const cf_dictionary_index *index,
                               workspace w, cf_block_header *h, uint64_t *n_bytes,
                               uint64_t *id_bits, uint64_t *plain_bits) {
    measure m = {.rows = rows, .index = index, .w = w, .h = h};
    memcpy(m.end, w.kind, sizeof m.end);
    const cf_block_header start = {
        .n_rows = (uint32_t)rows->n_rows,
        .nnz = (uint32_t)(rows->indptr[rows->n_rows] - rows->indptr[0]),
    };
    *h = start;
    const cf_status status = measure_with(&m, n_bytes, id_bits);
    const unsigned width = (cf_bit_length(m.largest | 1) + 7) / 8;
    const uint64_t raw = 8 * (uint64_t)width * h->nnz;
    *plain_bits = (raw < m.gap_bits ? raw : m.gap_bits) + 16 * (uint64_t)h->n_rows;
    return status;
}

cf_status cf_block_measure(const cf_block_input *rows, const cf_dictionary_index *index,
                           uint64_t *scratch, cf_block_header *header) {
    if (rows->indptr[0] < 0 || rows->indptr[rows->n_rows] < rows->indptr[0])
        return cf_fail(CF_E_INDPTR, rows->n_rows);
    const int64_t nnz = rows->indptr[rows->n_rows] - rows->indptr[0];
    if (rows->n_rows > CF_BLOCK_MAX_ENTRIES || nnz > CF_BLOCK_MAX_ENTRIES)
        return cf_fail(CF_E_ROOM, 0);
    const workspace w = carve(scratch, rows->n_rows, (size_t)nnz);
    if (index == NULL || index->dictionary->n_ids == 0)
        index = &cf_no_index;
    uint64_t n_bytes, id_bits, plain_bits;
    cf_status status = measure_again(rows, index, w, header, &n_bytes, &id_bits, &plain_bits);
    if (status.code == CF_OK && plain_bits < id_bits && index != &cf_no_index) {
        /* Rows unlike the sample: without the dictionary they may be shorter. */
        const uint64_t with_bytes = n_bytes;
        status = measure_again(rows, &cf_no_index, w, header, &n_bytes, &id_bits, &plain_bits);
        if (status.code == CF_OK && with_bytes <= n_bytes) /* the workspace must be its again */
            status = measure_again(rows, index, w, header, &n_bytes, &id_bits, &plain_bits);
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

static void write_counts(workspace w, const cf_block_header *h, uint8_t *out, uint8_t *more) {
    const int is_long = (h->flags & CF_BLOCK_LONG_COUNTS) != 0;
    const uint32_t limit = is_long ? 255 : 15;
    for (uint32_t row = 0; row < h->n_rows; row++) {
        const uint32_t *counts = w.counts + CF_BLOCK_COUNTS * (size_t)row;
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

static void write_tiers(workspace w, const cf_block_header *h, uint8_t *const codes[3]) {
    for (uint32_t i = 0; i < h->n_codes[0]; i++)
        codes[0][i] = (uint8_t)w.kind[CF_KIND_8][i];
    const uint32_t *twelve = w.kind[CF_KIND_12];
    uint8_t *out = codes[1];
    uint32_t i = 0;
    for (; i + 2 <= h->n_codes[1]; i += 2, out += 3) {
        const uint32_t both = twelve[i] | twelve[i + 1] << 12;
        out[0] = (uint8_t)both;
        out[1] = (uint8_t)(both >> 8);
        out[2] = (uint8_t)(both >> 16);
    }
    if (i < h->n_codes[1])
        cf_store_u16(out, twelve[i]);
    for (i = 0; i < h->n_codes[2]; i++)
        cf_store_u16(codes[2] + 2 * (size_t)i, w.kind[CF_KIND_16][i]);
}

static void write_outside(workspace w, const cf_block_header *h, uint8_t *lengths, uint8_t *out) {
    const uint32_t *ids = w.kind[CF_KIND_OUTSIDE];
    const uint32_t n = h->n_codes[CF_OUTSIDE];
    if (!(h->flags & CF_BLOCK_GAPS)) {
        for (uint32_t i = 0; i < n; i++)
            for (unsigned k = 0; k < h->outside_width; k++)
                *out++ = (uint8_t)(ids[i] >> 8 * k);
        return;
    }
    memset(lengths, 0, ((size_t)n + 3) / 4);
    for (uint32_t row = 0, i = 0; row < h->n_rows; row++) {
        uint32_t next = 0;
        for (const uint32_t end = i + w.counts[CF_BLOCK_COUNTS * (size_t)row + CF_OUTSIDE]; i < end;
             i++) {
            const uint32_t gap = ids[i] - next;
            const unsigned length = cf_gap_bytes(gap);
            next = ids[i] + 1;
            lengths[i >> 2] = (uint8_t)(lengths[i >> 2] | (length - 1) << 2 * (i & 3));
            for (unsigned k = 0; k < length; k++)
                *out++ = (uint8_t)(gap >> 8 * k);
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
    write_counts(w, h, TO(s.counts), TO(s.more));
    uint8_t *const codes[3] = {TO(s.codes[0]), TO(s.codes[1]), TO(s.codes[2])};
    write_tiers(w, h, codes);
    write_outside(w, h, TO(s.gap_lengths), TO(s.codes[CF_OUTSIDE]));
    copy(TO(s.narrow), w.narrow, h->n_narrow);
    copy(TO(s.wide), w.wide, 2 * (size_t)h->n_wide);
    copy(TO(s.second), w.second, 2 * (size_t)h->n_second);
    copy(TO(s.raw), w.raw, 4 * (size_t)h->n_raw);
    if (!(h->flags & CF_BLOCK_ONES) || h->n_exceptions != 0) {
        uint32_t *const entries = w.kind[CF_KIND_NARROW], *const stored = w.kind[CF_KIND_WIDE];
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
