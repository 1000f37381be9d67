/* The parts of a block, and reading what is not worth a kernel. */
#include "cf_block_streams.h"

enum { N_PARTS = 20 };

/* In 64 bits nothing here can overflow: every factor is below 2^32. */
static void measure_parts(const cf_block_header *h, uint64_t sizes[N_PARTS]) {
    const int coded = !(h->flags & CF_BLOCK_ONES) && h->plain_bits != 32;
    const uint64_t n_plain = (uint64_t)h->nnz - h->n_narrow - h->n_wide, rows = h->n_rows;
    const int gaps = (h->flags & CF_BLOCK_GAPS) != 0;
    const uint64_t found[N_PARTS] = {
        4 * (uint64_t)h->n_labels,
        (rows * h->label_bits + 7) / 8,
        h->flags & CF_BLOCK_WEIGHTS ? 4 * rows : 0,
        4 * (uint64_t)h->n_table,
        8 * (uint64_t)h->n_exceptions,
        rows * h->bitmap_bytes,
        rows * (h->flags & CF_BLOCK_LONG_COUNTS ? 4 : 2),
        4 * (uint64_t)h->n_more,
        h->n_codes[0],
        (12 * (uint64_t)h->n_codes[1] + 7) / 8,
        2 * (uint64_t)h->n_codes[2],
        gaps ? ((uint64_t)h->n_codes[CF_OUTSIDE] + 3) / 4 : 0,
        h->outside_bytes,
        h->n_narrow,
        2 * (uint64_t)h->n_wide,
        2 * (uint64_t)h->n_second,
        4 * (uint64_t)h->n_raw,
        coded ? (n_plain * h->plain_bits + 7) / 8 : 0,
        2 * (uint64_t)h->n_plain_second,
        4 * (uint64_t)h->n_plain_raw,
    };
    memcpy(sizes, found, sizeof found);
}

uint64_t cf_block_length(const cf_block_header *h) {
    uint64_t sizes[N_PARTS], length = CF_BLOCK_HEADER + CF_BLOCK_PAD;
    measure_parts(h, sizes);
    for (unsigned i = 0; i < N_PARTS; i++)
        length += sizes[i];
    return length;
}

void cf_block_lay_out(const cf_block_header *h, const uint8_t *block, cf_block_streams *s) {
    uint64_t sizes[N_PARTS];
    const uint8_t **const parts[N_PARTS] = {
        &s->labels,   &s->label_codes, &s->weights,  &s->own_values,   &s->exceptions,
        &s->bitmaps,  &s->counts,      &s->more,     &s->codes[0],     &s->codes[1],
        &s->codes[2], &s->gap_lengths, &s->codes[3], &s->narrow,       &s->wide,
        &s->second,   &s->raw,         &s->plain,    &s->plain_second, &s->plain_raw,
    };
    measure_parts(h, sizes);
    const uint8_t *at = block + CF_BLOCK_HEADER;
    for (unsigned i = 0; i < N_PARTS; at += sizes[i], i++)
        *parts[i] = at;
    s->header = h;
    s->end = at;
}

static int is_code_width(unsigned bits) { return bits == 1 || bits == 2 || bits == 4 || bits == 8; }

cf_status cf_block_read_header(const uint8_t *block, size_t n, cf_block_header *h) {
    /* Magic, checksum, length and version keep their places in every version to come. */
    if (n < 16)
        return cf_fail(CF_E_TRUNCATED, n);
    if (memcmp(block, "CFB1", 4) != 0)
        return cf_fail(CF_E_MAGIC, 0);
    h->n_bytes = cf_load_u32(block + 8);
    h->version = cf_load_u16(block + 12);
    if (h->version > CF_BLOCK_VERSION)
        return cf_fail(CF_E_VERSION, 12);
    if (n < CF_BLOCK_HEADER)
        return cf_fail(CF_E_TRUNCATED, n);
    h->flags = cf_load_u16(block + 14);
    h->n_rows = cf_load_u32(block + 16);
    h->nnz = cf_load_u32(block + 20);
    h->dictionary = cf_load_u64(block + 24);
    h->max_row = cf_load_u32(block + 32);
    h->n_more = cf_load_u32(block + 36);
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        h->n_codes[t] = cf_load_u32(block + 40 + 4 * t);
    h->outside_bytes = cf_load_u32(block + 56);
    h->n_narrow = cf_load_u32(block + 60);
    h->n_wide = cf_load_u32(block + 64);
    h->n_second = cf_load_u32(block + 68);
    h->n_raw = cf_load_u32(block + 72);
    h->n_table = cf_load_u32(block + 76);
    h->n_plain_second = cf_load_u32(block + 80);
    h->n_plain_raw = cf_load_u32(block + 84);
    h->n_exceptions = cf_load_u32(block + 88);
    h->label_bits = block[92];
    h->n_labels = block[93];
    h->plain_bits = block[94];
    h->outside_width = block[95];
    h->bitmap_bytes = cf_load_u16(block + 96);

    if (h->version == 0)
        return cf_fail(CF_E_CORRUPT, 12);
    if (h->flags & ~(unsigned)CF_BLOCK_KNOWN_FLAGS)
        return cf_fail(CF_E_CORRUPT, 14);
    if (!(h->flags & CF_BLOCK_DICTIONARY) != (h->dictionary == 0))
        return cf_fail(CF_E_CORRUPT, 24);
    if (h->max_row > h->nnz)
        return cf_fail(CF_E_CORRUPT, 32);
    if (!is_code_width(h->label_bits) && h->label_bits != 32)
        return cf_fail(CF_E_CORRUPT, 92);
    if (h->label_bits == 32 ? h->n_labels != 0 : h->n_labels > 1u << h->label_bits)
        return cf_fail(CF_E_CORRUPT, 93);
    if (h->plain_bits != 0 && !is_code_width(h->plain_bits) && h->plain_bits != 32)
        return cf_fail(CF_E_CORRUPT, 94);
    if ((h->flags & CF_BLOCK_ONES || h->plain_bits == 32) && (h->n_table | h->n_plain_second) != 0)
        return cf_fail(CF_E_CORRUPT, 76);
    if (h->flags & CF_BLOCK_ONES && (h->plain_bits | h->n_plain_raw) != 0)
        return cf_fail(CF_E_CORRUPT, 84);
    if (h->outside_width == 0 || h->outside_width > 4)
        return cf_fail(CF_E_CORRUPT, 95);
    if (h->bitmap_bytes > CF_MAX_BITMAP / 8)
        return cf_fail(CF_E_CORRUPT, 96);
    for (unsigned i = 98; i < CF_BLOCK_HEADER; i++)
        if (block[i] != 0)
            return cf_fail(CF_E_CORRUPT, i);
    const uint64_t n_valued = (uint64_t)h->n_narrow + h->n_wide;
    if (n_valued > h->nnz)
        return cf_fail(CF_E_CORRUPT, 60);
    if (h->plain_bits == 32 && h->n_plain_raw != h->nnz - n_valued)
        return cf_fail(CF_E_CORRUPT, 84);
    if (!(h->flags & CF_BLOCK_GAPS) &&
        h->outside_bytes != (uint64_t)h->outside_width * h->n_codes[CF_OUTSIDE])
        return cf_fail(CF_E_CORRUPT, 56);
    if (cf_block_length(h) != h->n_bytes)
        return cf_fail(CF_E_CORRUPT, 8);
    /* Every entry is a bit of a bitmap or has a code. */
    uint64_t most = 8 * (uint64_t)h->bitmap_bytes * h->n_rows;
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        most += h->n_codes[t];
    if (h->nnz > most)
        return cf_fail(CF_E_CORRUPT, 20);
    if (h->n_exceptions > h->nnz)
        return cf_fail(CF_E_CORRUPT, 88);
    return cf_ok();
}

static cf_status read_labels(const uint8_t *block, const cf_block_streams *s, float *labels) {
    const cf_block_header *h = s->header;
    if (h->label_bits == 32) {
        if (h->n_rows != 0)
            memcpy(labels, s->label_codes, 4 * (size_t)h->n_rows);
        return cf_ok();
    }
    float table[256] = {0};
    memcpy(table, s->labels, 4 * (size_t)h->n_labels);
    const uint32_t mask = (1u << h->label_bits) - 1;
    uint32_t largest = 0;
    for (uint32_t i = 0; i < h->n_rows; i++) {
        const uint64_t bit = (uint64_t)i * h->label_bits;
        const uint32_t code = s->label_codes[bit >> 3] >> (bit & 7) & mask;
        largest = code > largest ? code : largest;
        labels[i] = table[code];
    }
    if (h->n_rows != 0 && largest >= h->n_labels)
        return cf_fail(CF_E_CORRUPT, (size_t)(s->label_codes - block));
    return cf_ok();
}

cf_status cf_block_open(const cf_kernels *kernels, const uint8_t *block, size_t n,
                        const cf_block_header *h, const cf_dictionary *dictionary,
                        int skip_checksum, cf_block_streams *s, float *labels, float *weights) {
    if (n < h->n_bytes)
        return cf_fail(CF_E_TRUNCATED, n);
    if (!skip_checksum && kernels->crc32c(0, block + 8, h->n_bytes - 8) != cf_load_u32(block + 4))
        return cf_fail(CF_E_CHECKSUM, 4);
    if (!(h->flags & CF_BLOCK_DICTIONARY))
        dictionary = &cf_no_dictionary;
    else if (dictionary == NULL || dictionary->identity != h->dictionary)
        return cf_fail(CF_E_DICTIONARY, 24);
    if (h->bitmap_bytes != dictionary->bitmap_bytes)
        return cf_fail(CF_E_CORRUPT, 96);
    cf_block_lay_out(h, block, s);
    s->dictionary = dictionary;
    if ((h->flags & CF_BLOCK_WEIGHTS) && weights != NULL && h->n_rows != 0)
        memcpy(weights, s->weights, 4 * (size_t)h->n_rows);
    return read_labels(block, s, labels);
}

int cf_block_survey_rows(const cf_kernels *kernels, const cf_block_streams *s,
                         const cf_block_position *p, uint32_t n_rows, int64_t first, int64_t *ends,
                         cf_block_survey *found) {
    const cf_block_header *h = s->header;
    *found = kernels->block->survey(s, p, n_rows, first + p->entry, ends);
    int fits = found->stray_bits == 0 && found->n_entries <= h->nnz - p->entry &&
               found->max_row <= h->max_row && found->n_narrow <= h->n_narrow - p->narrow &&
               found->n_wide <= h->n_wide - p->wide;
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        fits &= found->n_codes[t] <= h->n_codes[t] - p->codes[t];
    return fits;
}

/* Gaps: two bits say how many bytes each has. */
static int read_gaps(const cf_block_streams *s, cf_block_position *p, uint32_t n_rows,
                     uint32_t *out) {
    uint32_t more = p->more, i = p->codes[CF_OUTSIDE];
    const uint32_t end = s->header->outside_bytes;
    for (uint32_t row = p->row; row < p->row + n_rows; row++) {
        uint32_t n[CF_BLOCK_COUNTS];
        cf_block_row_counts(s, row, &more, n);
        uint64_t next = 0; /* the smallest id that may follow */
        for (uint32_t k = 0; k < n[CF_OUTSIDE]; k++, i++) {
            const unsigned length = 1 + (s->gap_lengths[i >> 2] >> 2 * (i & 3) & 3);
            if (p->gap_bytes > end || length > end - p->gap_bytes)
                return 0;
            const uint32_t word = cf_load_u32(s->codes[CF_OUTSIDE] + p->gap_bytes);
            const uint64_t id = next + (word & (UINT32_MAX >> (32 - 8 * length)));
            if (id > UINT32_MAX)
                return 0;
            p->gap_bytes += length;
            next = id + 1;
            *out++ = (uint32_t)id;
        }
    }
    return 1;
}

int cf_block_expand_outside(const cf_kernels *kernels, const cf_block_streams *s,
                            cf_block_position *p, uint32_t n_rows, uint32_t n, uint32_t *out) {
    if (s->header->flags & CF_BLOCK_GAPS)
        return read_gaps(s, p, n_rows, out);
    const unsigned width = s->header->outside_width;
    kernels->block->expand_outside(s->codes[CF_OUTSIDE] + (size_t)width * p->codes[CF_OUTSIDE],
                                   width, n, out);
    return 1;
}

void cf_block_advance(cf_block_position *p, uint32_t n_rows, const cf_block_survey *found) {
    p->row += n_rows;
    p->entry += (uint32_t)found->n_entries;
    p->more += found->n_more;
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        p->codes[t] += (uint32_t)found->n_codes[t];
}

/* ---- values ---- */

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int raw_value(const cf_block_streams *s, cf_block_position *p, float *value) {
    if (p->raw == s->header->n_raw)
        return 0;
    memcpy(value, s->raw + 4 * (size_t)p->raw++, sizeof *value);
    return 1;
}

int cf_block_second_value(const cf_block_streams *s, cf_block_position *p, uint32_t table,
                          float *value) {
    if (p->second == s->header->n_second)
        return 0;
    const uint32_t code = cf_load_u16(s->second + 2 * (size_t)p->second++);
    if (code == CF_WIDE_ESCAPE)
        return raw_value(s, p, value);
    const cf_value_table t = s->dictionary->tables[table];
    if (code + CF_NARROW_ESCAPE >= t.n)
        return 0;
    *value = float_of(s->dictionary->values[t.begin + CF_NARROW_ESCAPE + code]);
    return 1;
}

int cf_block_wide_value(const cf_block_streams *s, cf_block_position *p, uint32_t table,
                        float *value) {
    const uint32_t code = cf_load_u16(s->wide + 2 * (size_t)p->wide++);
    if (code == CF_WIDE_ESCAPE)
        return raw_value(s, p, value);
    const cf_value_table t = s->dictionary->tables[table];
    if (code >= t.n)
        return 0;
    *value = float_of(s->dictionary->values[t.begin + code]);
    return 1;
}

int cf_block_plain_values(const cf_block_streams *s, cf_block_position *p, uint32_t n,
                          float *data) {
    const cf_block_header *h = s->header;
    if (n == 0)
        return 1;
    if (h->plain_bits == 32) {
        if (n > h->n_plain_raw - p->plain_raw)
            return 0;
        memcpy(data, s->plain_raw + 4 * (size_t)p->plain_raw, 4 * (size_t)n);
        p->plain_raw += n;
        return 1;
    }
    if (n > h->nnz - h->n_narrow - h->n_wide - p->plain)
        return 0;
    const uint32_t limit = (1u << h->plain_bits) - 1;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t bit = (uint64_t)p->plain++ * h->plain_bits;
        /* With no bits at all there may be no byte: the load is of the padding then. */
        uint32_t code = (uint32_t)s->plain[bit >> 3] >> (bit & 7) & limit;
        if (code == limit) {
            if (p->plain_second == h->n_plain_second)
                return 0;
            code = cf_load_u16(s->plain_second + 2 * (size_t)p->plain_second++);
            if (code == CF_WIDE_ESCAPE) {
                if (p->plain_raw == h->n_plain_raw)
                    return 0;
                memcpy(&data[i], s->plain_raw + 4 * (size_t)p->plain_raw++, sizeof *data);
                continue;
            }
            code += limit;
        }
        if (code >= h->n_table)
            return 0;
        memcpy(&data[i], s->own_values + 4 * (size_t)code, sizeof *data);
    }
    return 1;
}

/* Values with and without tables where the latter are not all 1.0: row by row. */
static int read_mixed_values(const cf_kernels *kernels, const cf_block_streams *s,
                             cf_block_position *p, uint32_t n_rows, int64_t first,
                             const int64_t *ends, float *data, size_t room) {
    const cf_dictionary *d = s->dictionary;
    const uint32_t n_tables = d->n_narrow + d->n_wide;
    int64_t begin = first + p->entry;
    for (uint32_t row = 0; row < n_rows; row++) {
        cf_block_position q = *p;
        q.row += row;
        q.entry = (uint32_t)(begin - first);
        uint32_t n_valued = 0;
        const uint8_t *bitmap = s->bitmaps + (size_t)q.row * d->bitmap_bytes;
        for (uint32_t i = 0; i < n_tables; i++)
            n_valued += bitmap[i >> 3] >> (i & 7) & 1;
        if (!kernels->block->place_values(s, &q, 1, first, ends + row, data, room) ||
            !cf_block_plain_values(s, &q, (uint32_t)(ends[row] - begin) - n_valued,
                                   data + q.entry + n_valued))
            return 0;
        begin = ends[row];
        q.row = p->row;
        q.entry = p->entry;
        *p = q;
    }
    return 1;
}

int cf_block_read_values(const cf_kernels *kernels, const cf_block_streams *s, cf_block_position *p,
                         uint32_t n_rows, int64_t first, const int64_t *ends, float *data,
                         size_t room) {
    if (s->header->flags & CF_BLOCK_ONES)
        return kernels->block->place_values(s, p, n_rows, first, ends, data, room);
    if (s->header->n_narrow + s->header->n_wide != 0)
        return read_mixed_values(kernels, s, p, n_rows, first, ends, data, room);
    const int64_t n = n_rows != 0 ? ends[n_rows - 1] - first - p->entry : 0;
    return cf_block_plain_values(s, p, (uint32_t)n, data + p->entry);
}

cf_status cf_block_finish(const cf_block_streams *s, const cf_block_position *p,
                          const uint8_t *block, float *data) {
    const cf_block_header *h = s->header;
    const int whole = p->row == h->n_rows && p->entry == h->nnz && p->more == h->n_more &&
                      p->narrow == h->n_narrow && p->wide == h->n_wide &&
                      p->second == h->n_second && p->raw == h->n_raw &&
                      p->plain_second == h->n_plain_second && p->plain_raw == h->n_plain_raw;
    if (!whole || (h->flags & CF_BLOCK_GAPS && p->gap_bytes != h->outside_bytes))
        return cf_fail(CF_E_CORRUPT, 20);
    for (unsigned t = 0; t < CF_BLOCK_COUNTS; t++)
        if (p->codes[t] != h->n_codes[t])
            return cf_fail(CF_E_CORRUPT, 40 + 4 * t);
    uint64_t next = 0;
    for (uint32_t i = 0; i < h->n_exceptions; i++) {
        const uint8_t *exception = s->exceptions + 8 * (size_t)i;
        const uint32_t entry = cf_load_u32(exception);
        if (entry < next || entry >= h->nnz)
            return cf_fail(CF_E_CORRUPT, (size_t)(exception - block));
        memcpy(&data[entry], exception + 4, sizeof *data);
        next = (uint64_t)entry + 1;
    }
    return cf_ok();
}
