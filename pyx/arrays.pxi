"""cf_span.h: arrays as pointers, checked for what views do not say.

A view has the right type and is contiguous, but it may lie at any byte, be empty, or share its
memory with another.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "cf_span.h" nogil:
    ctypedef struct cf_span:
        const void *at
        size_t n_bytes
    bint cf_spans_collide(const cf_span *spans, size_t n_written, size_t n)


cdef int _need(bint condition, str what) except -1:
    if not condition:
        raise ValueError(what)
    return 0


cdef int _refuse_alignment(size_t alignment) except -1 with gil:
    raise ValueError(f"arrays must be aligned to {alignment} bytes")


# The address of a view's first element; taking it of an empty view is an error, so those give NULL.
cdef inline const void *_aligned(const void *at, size_t alignment) except? NULL nogil:
    if <size_t>at % alignment != 0:
        _refuse_alignment(alignment)
    return at

cdef inline const float *_f32(const float[::1] view) except? NULL nogil:
    return <const float *>_aligned(&view[0], 4) if view is not None and view.shape[0] else NULL

cdef inline const uint32_t *_u32(const uint32_t[::1] view) except? NULL nogil:
    return <const uint32_t *>_aligned(&view[0], 4) if view is not None and view.shape[0] else NULL

cdef inline const int64_t *_i64(const int64_t[::1] view) except? NULL nogil:
    return <const int64_t *>_aligned(&view[0], 8) if view is not None and view.shape[0] else NULL

cdef inline const uint8_t *_u8(const uint8_t[::1] view) noexcept nogil:
    return &view[0] if view is not None and view.shape[0] else NULL

cdef inline float *_f32_out(float[::1] view) except? NULL nogil:
    return <float *>_aligned(&view[0], 4) if view is not None and view.shape[0] else NULL

cdef inline uint32_t *_u32_out(uint32_t[::1] view) except? NULL nogil:
    return <uint32_t *>_aligned(&view[0], 4) if view is not None and view.shape[0] else NULL

cdef inline int64_t *_i64_out(int64_t[::1] view) except? NULL nogil:
    return <int64_t *>_aligned(&view[0], 8) if view is not None and view.shape[0] else NULL

cdef inline uint64_t *_u64_out(uint64_t[::1] view) except? NULL nogil:
    return <uint64_t *>_aligned(&view[0], 8) if view is not None and view.shape[0] else NULL

cdef inline const float *_f32_pairs(const float[:, ::1] view) except? NULL nogil:
    if view is None or view.shape[0] == 0 or view.shape[1] == 0:
        return NULL
    return <const float *>_aligned(&view[0, 0], 4)


# The memory of a call: first what it writes, then what it reads.
cdef struct _Memory:
    cf_span spans[24]
    size_t n_written, n

cdef inline void _writes(_Memory *memory, const void *at, size_t n_bytes) noexcept:
    memory.spans[memory.n].at = at
    memory.spans[memory.n].n_bytes = n_bytes if at != NULL else 0
    memory.n += 1
    memory.n_written = memory.n

cdef inline void _reads(_Memory *memory, const void *at, size_t n_bytes) noexcept:
    memory.spans[memory.n].at = at
    memory.spans[memory.n].n_bytes = n_bytes if at != NULL else 0
    memory.n += 1

cdef int _need_apart(const _Memory *memory) except -1:
    return _need(not cf_spans_collide(memory.spans, memory.n_written, memory.n),
                 "an array that is written to shares memory with another")
