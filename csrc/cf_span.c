#include "cf_span.h"

#include <stdint.h>

static bool overlap(cf_span a, cf_span b) {
    const uintptr_t at_a = (uintptr_t)a.at, at_b = (uintptr_t)b.at;
    return a.n_bytes != 0 && b.n_bytes != 0 &&
           (at_a < at_b ? at_b - at_a < a.n_bytes : at_a - at_b < b.n_bytes);
}

bool cf_spans_collide(const cf_span *spans, size_t n_written, size_t n) {
    for (size_t i = 0; i < n_written; i++)
        for (size_t k = i + 1; k < n; k++)
            if (overlap(spans[i], spans[k]))
                return true;
    return false;
}
