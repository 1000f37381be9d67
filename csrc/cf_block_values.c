#include "cf_block_values.h"

#include <assert.h>

/* Where a value is in own->values, counting from 1; 0 if it is not there. Each step from slot to
 * slot is taken off *steps, and at 0 NULL is the answer. */
static uint16_t *find_slot(cf_own_values *own, uint32_t bits, uint64_t *steps) {
    uint32_t s = (bits * 0x9e3779b1u) >> 17;
    static_assert(CF_OWN_SLOTS == 1 << 15, "a slot is named by 15 bits");
    while (own->slots[s] != 0 && own->values[own->slots[s] - 1] != bits) {
        if ((*steps)-- == 0)
            return NULL;
        s = (s + 1) % CF_OWN_SLOTS;
    }
    return &own->slots[s];
}

uint64_t cf_own_values_choose(cf_own_values *own, const float *data, const uint32_t *entries,
                              uint32_t n, cf_block_header *h) {
    uint32_t n_seen = 0;
    /* More steps than any values but ones made to meet need; those are written as they are. */
    uint64_t steps = ((uint64_t)1 << 20) + 64 * (uint64_t)n, enough = UINT64_MAX;
    memset(own->slots, 0, sizeof own->slots);
    /* The first so many distinct values are looked at: what is frequent is among them. */
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = cf_float_bits(data[entries[i]]);
        uint16_t *slot = find_slot(own, bits, &steps);
        if (slot == NULL) {
            h->plain_bits = 32;
            h->n_table = h->n_plain_second = 0;
            h->n_plain_raw = n;
            return 32 * (uint64_t)n;
        }
        if (*slot == 0) {
            if (n_seen == CF_OWN_VALUES)
                continue;
            own->counts[n_seen] = 0;
            own->values[n_seen] = bits;
            *slot = (uint16_t)++n_seen;
        }
        own->counts[*slot - 1]++;
    }
    for (uint32_t i = 0; i < n_seen; i++)
        own->ranked[i] = (uint64_t)(UINT32_MAX - own->counts[i]) << 32 | own->values[i];
    cf_sort_u64(own->ranked, own->sort, n_seen);
    memset(own->slots, 0, sizeof own->slots);
    for (uint32_t i = 0; i < n_seen; i++) {
        own->counts[i] = UINT32_MAX - (uint32_t)(own->ranked[i] >> 32);
        own->values[i] = (uint32_t)own->ranked[i];
    }
    const cf_value_code code = cf_value_code_choose(own->counts, n_seen, n, 1);
    for (uint32_t i = 0; i < code.n; i++)
        *find_slot(own, own->values[i], &enough) = (uint16_t)(i + 1);
    const uint32_t first = code.bits < 32 ? cf_value_code_limit(code.bits) : 0;
    uint32_t with_own = 0, coded = 0;
    for (uint32_t i = 0; i < code.n; i++) {
        coded += own->counts[i];
        with_own += i < first ? own->counts[i] : 0;
    }
    h->plain_bits = code.bits;
    h->n_table = code.n;
    h->n_plain_second = code.bits < 32 ? n - with_own : 0;
    h->n_plain_raw = n - coded;
    return code.total_bits;
}

void cf_own_values_write(cf_own_values *own, const float *data, const uint32_t *entries, uint32_t n,
                         const cf_block_header *h, uint8_t *codes, uint8_t *second, uint8_t *raw) {
    uint64_t enough = UINT64_MAX;
    const uint32_t limit = h->plain_bits < 32 ? cf_value_code_limit(h->plain_bits) : 0;
    unsigned pending = 0, n_pending = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = cf_float_bits(data[entries[i]]);
        const uint32_t found = h->plain_bits < 32 ? *find_slot(own, bits, &enough) : 0;
        const uint32_t place = found != 0 ? found - 1 : UINT32_MAX;
        if (place >= limit && h->plain_bits < 32) {
            cf_store_u16(second, found != 0 ? place - limit : (uint32_t)CF_WIDE_ESCAPE);
            second += 2;
        }
        if (found == 0) {
            cf_store_u32(raw, bits);
            raw += 4;
        }
        if (h->plain_bits == 0 || h->plain_bits == 32)
            continue;
        pending |= (place < limit ? place : limit) << n_pending;
        n_pending += h->plain_bits;
        if (n_pending == 8) {
            *codes++ = (uint8_t)pending;
            pending = n_pending = 0;
        }
    }
    if (n_pending != 0)
        *codes = (uint8_t)pending;
}
