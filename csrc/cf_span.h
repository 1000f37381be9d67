/* cf_span.h -- do arrays share memory?
 *
 * Kernels check what they are told and then rely on it, so nothing they write may change what they
 * have checked. Whoever takes arrays from strangers asks here first.
 */
#ifndef CF_SPAN_H
#define CF_SPAN_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const void *at;
    size_t n_bytes;
} cf_span;

/* Whether one of the first `n_written` spans shares a byte with any other of the n. */
bool cf_spans_collide(const cf_span *spans, size_t n_written, size_t n);

#endif
