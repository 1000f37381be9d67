/* Fuzzes the dictionary parser alone; the checksum is skipped so that mutations get inside. What it
 * accepts must find every id and every value it says it has. Checksums agree in all kernels. */
#include "cf_crc32c.h"
#include "fuzz_rows.h"

size_t fuzz_seed(size_t i, uint8_t *out, size_t room) {
    static const uint32_t MAX_IDS[] = {1u << 16, 40, 2, 0};
    if (i >= 4 * N_ROW_KINDS)
        return 0;
    const fuzz_rows rows = make_fuzz_rows((int)(i % N_ROW_KINDS), 300, i);
    const size_t n = write_fuzz_dictionary(rows, MAX_IDS[i / N_ROW_KINDS], out, room);
    free_fuzz_rows(rows);
    return n;
}

static void check_ids(const cf_dictionary *d, const cf_dictionary_index *index) {
    static const unsigned KINDS[] = {CF_KIND_BIT, CF_KIND_8, CF_KIND_12, CF_KIND_16};
    const uint32_t n_tables = d->n_narrow + d->n_wide;
    uint32_t rank = 0;
    for (unsigned t = 0; t < CF_TIERS; t++) {
        CHECK(d->tier_begin[t] == rank && d->tier_size[t] <= cf_tier_room(t));
        for (uint32_t i = 0; i < d->tier_size[t]; i++, rank++) {
            unsigned kind = KINDS[t];
            if (rank < n_tables)
                kind = rank < d->n_narrow ? CF_KIND_NARROW : CF_KIND_WIDE;
            CHECK(cf_dictionary_place(index, d->ids[rank]) == (kind << CF_KIND_SHIFT | i));
        }
    }
    CHECK(rank == d->n_ids && n_tables <= d->tier_size[0]);
    CHECK(d->bitmap_bytes == (d->tier_size[0] + 7) / 8);
    for (uint32_t id = 0; id < 64; id++) {
        const uint32_t place = cf_dictionary_place(index, id), kind = place >> CF_KIND_SHIFT;
        if (kind == CF_KIND_OUTSIDE)
            continue;
        const unsigned tier = kind <= CF_KIND_BIT ? 0 : kind - CF_KIND_8 + 1;
        CHECK(d->ids[d->tier_begin[tier] + (place & 0xffff)] == id);
    }
}

static void check_values(const cf_dictionary *d, const cf_dictionary_index *index) {
    for (uint32_t i = 0; i < d->n_narrow + d->n_wide; i++) {
        const cf_value_table table = d->tables[i];
        CHECK((uint64_t)table.begin + table.n <= d->n_values);
        const uint32_t step = 1 + table.n / 64u; /* some 64 of each table are enough */
        for (uint32_t place = 0; place < table.n; place += step) {
            const uint32_t bits = d->values[table.begin + place];
            const uint32_t found = cf_value_find(index->values[i >= d->n_narrow], i, bits);
            CHECK(found < table.n && d->values[table.begin + found] == bits);
        }
        const uint32_t unlikely = cf_value_find(index->values[i >= d->n_narrow], i, 0x12345678);
        CHECK(unlikely == CF_NO_VALUE || unlikely < table.n);
    }
}

/* Three thirds side by side need a few kilobytes: the input again and again. */
static void check_checksums(const uint8_t *data, size_t n) {
    enum { LONG = 6144 + 77 };
    uint8_t *text = exactly(LONG);
    for (size_t at = 0; n != 0 && at < LONG; at += n)
        memcpy(text + at, data, LONG - at < n ? LONG - at : n);
    const size_t length = n == 0 ? 0 : LONG - n % 64, cut = n % (length + 1);
    const uint32_t expected = cf_crc32c_scalar(0, text, length);
    for (size_t i = 0; usable_kernels(i) != NULL; i++) {
        const cf_kernels *kernels = usable_kernels(i);
        CHECK(kernels->crc32c(0, text, length) == expected);
        CHECK(kernels->crc32c(kernels->crc32c(0, text, cut), text + cut, length - cut) == expected);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    uint64_t *memory = NULL;
    const cf_dictionary *d = parse_fuzz_dictionary(data, n, &memory);
    if (d != NULL) {
        uint64_t *index_memory = NULL;
        const cf_dictionary_index *index = make_fuzz_index(d, &index_memory);
        check_ids(d, index);
        check_values(d, index);
        free(index_memory);
    }
    free(memory);
    size_t n_words = 0;
    if (cf_dictionary_measure(data, n, &n_words).code == CF_OK) {
        memory = exactly(8 * (n_words - 1));
        CHECK(cf_dictionary_parse(scalar_kernels(), data, n, 1, memory, n_words - 1).code ==
              CF_E_ROOM);
        free(memory);
    }
    if (n % 16 == 0)
        check_checksums(data, n);
    return 0;
}
