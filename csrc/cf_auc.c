#include "cf_auc.h"

#include <string.h>

#include "cf_bits.h"

/* A row as a number: in the high half a key that rises with the score, below it the weight. */
static uint64_t keyed(float score, float weight) {
    const uint32_t bits = cf_float_bits(score + 0.0f); /* -0 ties with 0 */
    const uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)key << 32 | cf_float_bits(weight);
}

static uint32_t key_of(uint64_t row) { return (uint32_t)(row >> 32); }

static double weight_of(uint64_t row) {
    const uint32_t bits = (uint32_t)row;
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

/* Sorts by key, a byte at a time from the lowest; returns which of the two arrays holds them. */
static const uint64_t *sort(uint64_t *from, uint64_t *to, size_t n) {
    enum { DIGITS = 4, VALUES = 256 };
    size_t places[DIGITS][VALUES] = {{0}};
    for (size_t i = 0; i < n; i++)
        for (unsigned d = 0; d < DIGITS; d++)
            places[d][from[i] >> (32 + 8 * d) & 0xff]++;
    for (unsigned d = 0; d < DIGITS; d++) {
        size_t *const place = places[d], before = 0;
        for (size_t v = 0; v < VALUES; v++) {
            const size_t count = place[v];
            place[v] = before;
            before += count;
        }
        for (size_t i = 0; i < n; i++)
            to[place[from[i] >> (32 + 8 * d) & 0xff]++] = from[i];
        uint64_t *const sorted = to;
        to = from;
        from = sorted;
    }
    return from;
}

cf_auc_sums cf_auc(const float *scores, const float *labels, const float *weights, size_t n_rows,
                   uint64_t *scratch) {
    cf_auc_sums sums = {0, 0, 0};
    size_t n_positive = 0, n_negative = 0; /* from the front, and from the back */
    for (size_t i = 0; i < n_rows; i++) {
        const float weight = weights ? weights[i] : 1.0f;
        const size_t place = labels[i] > 0 ? n_positive++ : n_rows - ++n_negative;
        scratch[place] = keyed(scores[i], weight);
    }
    if (n_positive == 0 || n_negative == 0)
        return sums;
    const uint64_t *const positive = sort(scratch, scratch + n_rows, n_positive);
    const uint64_t *const negative =
        sort(scratch + n_positive, scratch + n_rows + n_positive, n_negative);

    double tied = 0;
    size_t next = 0, after_tied = 0; /* negative rows below the positive one; and those tied */
    for (size_t i = 0; i < n_positive; i++) {
        const uint32_t key = key_of(positive[i]);
        if (i == 0 || key != key_of(positive[i - 1])) {
            for (; next < n_negative && key_of(negative[next]) < key; next++)
                sums.negative += weight_of(negative[next]);
            tied = 0;
            for (after_tied = next; after_tied < n_negative; after_tied++) {
                if (key_of(negative[after_tied]) != key)
                    break;
                tied += weight_of(negative[after_tied]);
            }
        }
        sums.won += weight_of(positive[i]) * (sums.negative + tied / 2);
        sums.positive += weight_of(positive[i]);
    }
    for (; next < n_negative; next++)
        sums.negative += weight_of(negative[next]);
    return sums;
}
