#include "cf_claim.h"

#include <stdatomic.h>

size_t cf_claim(int64_t *words, const uint32_t *numbers, size_t n, int64_t from, int64_t to,
                uint8_t *claimed) {
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t there = from;
        const int changed =
            atomic_compare_exchange_strong((_Atomic int64_t *)&words[numbers[i]], &there, to);
        claimed[i] = (uint8_t)(changed || there == to);
        found += claimed[i];
    }
    return found;
}

int cf_claim_numbers_fit(const uint32_t *numbers, size_t n, size_t n_words) {
    for (size_t i = 0; i < n; i++)
        if (numbers[i] >= n_words)
            return 0;
    return 1;
}

void cf_claim_add(int64_t *word, int64_t amount) {
    atomic_fetch_add((_Atomic int64_t *)word, amount);
}
