#include <assert.h>
#include <math.h>

#include "cf_libsvm.h"
#include "cf_number.h"

static uint8_t *put_u32(uint32_t value, uint8_t *out) {
    uint8_t reversed[10];
    size_t n = 0;
    do {
        reversed[n++] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n > 0)
        *out++ = reversed[--n];
    return out;
}

cf_status cf_libsvm_write(const float *labels, const int64_t *indptr, const uint32_t *indices,
                          const float *data, const float *weights, size_t begin, size_t end,
                          uint32_t base, uint8_t *out, size_t *n_written) {
    static_assert(CF_LIBSVM_ROW_TEXT >= 2 * CF_NUMBER_TEXT + 2, "label, colon, weight, newline");
    static_assert(CF_LIBSVM_ENTRY_TEXT >= CF_NUMBER_TEXT + 12, "blank, ten digits, colon, value");
    uint8_t *p = out;
    for (size_t row = begin; row < end; row++) {
        if (indptr[row] > indptr[row + 1] || indptr[row + 1] > indptr[end])
            return cf_fail(CF_E_INDPTR, row);
        p += cf_number_format(labels[row], p);
        if (weights) {
            if (!(weights[row] >= 0) || isinf(weights[row]))
                return cf_fail(CF_E_WEIGHT, row);
            *p++ = ':';
            p += cf_number_format(weights[row], p);
        }
        for (int64_t i = indptr[row]; i < indptr[row + 1]; i++) {
            if (i > indptr[row] && indices[i] <= indices[i - 1])
                return cf_fail(CF_E_ORDER, (size_t)i);
            if (indices[i] > CF_LIBSVM_MAX_ID - base)
                return cf_fail(CF_E_INDEX_RANGE, (size_t)i);
            *p++ = ' ';
            p = put_u32(indices[i] + base, p);
            *p++ = ':';
            p += cf_number_format(data[i], p);
        }
        *p++ = '\n';
    }
    *n_written = (size_t)(p - out);
    return cf_ok();
}
