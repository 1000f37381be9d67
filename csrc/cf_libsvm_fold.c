#include "cf_libsvm_fold.h"

#include <math.h>
#include <string.h>

enum { RUN = 48 }; /* a click row has 20 to 40 entries */

static uint64_t packed(uint32_t index, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint64_t)index << 32 | bits;
}

static void unpack(const uint64_t *scratch, size_t n, uint32_t *indices, float *data) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)scratch[i];
        indices[i] = (uint32_t)(scratch[i] >> 32);
        memcpy(&data[i], &bits, sizeof bits);
    }
}

/* Every entry goes where the entries before it, counted, put it. Quadratic, but without a branch
 * that hashes could mislead, and the counting loops are vectors: half the time of insertion. */
static void sort_run(uint32_t *indices, float *data, size_t n, uint64_t *scratch) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t index = indices[i];
        uint32_t rank = 0;
        for (size_t j = 0; j < i; j++)
            rank += indices[j] <= index;
        for (size_t j = i + 1; j < n; j++)
            rank += indices[j] < index;
        scratch[rank] = packed(index, data[i]);
    }
    unpack(scratch, n, indices, data);
}

/* Merges the sorted [0, middle) and [middle, n); of equal indices those of the left come first. */
static void merge(uint32_t *indices, float *data, size_t middle, size_t n, uint64_t *scratch) {
    if (indices[middle - 1] <= indices[middle])
        return;
    for (size_t left = 0, right = middle, i = 0; i < n; i++) {
        const bool from_left = right == n || (left < middle && indices[left] <= indices[right]);
        const size_t taken = from_left ? left++ : right++;
        scratch[i] = packed(indices[taken], data[taken]);
    }
    unpack(scratch, n, indices, data);
}

bool cf_libsvm_fold(uint32_t *indices, float *data, size_t *n, uint64_t *scratch) {
    for (size_t i = 0; i < *n; i += RUN)
        sort_run(indices + i, data + i, *n - i < RUN ? *n - i : RUN, scratch);
    for (size_t width = RUN; width < *n; width *= 2)
        for (size_t i = 0; *n - i > width; i += 2 * width) {
            const size_t both = *n - i < 2 * width ? *n - i : 2 * width;
            merge(indices + i, data + i, width, both, scratch);
            if (*n - i <= 2 * width)
                break;
        }

    size_t last = 0;
    for (size_t i = 1; i < *n; i++) {
        if (indices[i] != indices[last]) {
            last++;
            indices[last] = indices[i];
            data[last] = data[i];
            continue;
        }
        const float sum = data[last] + data[i];
        if (isinf(sum) && isfinite(data[last]) && isfinite(data[i]))
            return false;
        data[last] = sum;
    }
    *n = last + 1;
    return true;
}
