"""cf_csr.h: sparse rows. Every wrapper that takes rows builds its view here, checked."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from cirrus_fast import errors as _errors

cdef extern from "cf_csr.h" nogil:
    ctypedef struct cf_csr:
        const float *labels
        const int64_t *indptr
        const uint32_t *indices
        const float *data
        const float *weights
        size_t n_rows
        size_t nnz
    cf_status cf_csr_take(const cf_csr *rows, const uint32_t *order, size_t n_order,
                          float *out_labels, int64_t *out_indptr, uint32_t *out_indices,
                          float *out_data, float *out_weights, size_t nnz_room)


# The address of a view's first element; taking it of an empty view is an error, so those give NULL.
cdef inline const float *_f32(const float[::1] view) noexcept nogil:
    return &view[0] if view is not None and view.shape[0] else NULL

cdef inline const uint32_t *_u32(const uint32_t[::1] view) noexcept nogil:
    return &view[0] if view is not None and view.shape[0] else NULL

cdef inline float *_f32_out(float[::1] view) noexcept nogil:
    return &view[0] if view is not None and view.shape[0] else NULL

cdef inline uint32_t *_u32_out(uint32_t[::1] view) noexcept nogil:
    return &view[0] if view is not None and view.shape[0] else NULL


cdef int _need(bint condition, str what) except -1:
    if not condition:
        raise ValueError(what)
    return 0


cdef int _csr(cf_csr *rows, const float[::1] labels, const int64_t[::1] indptr,
              const uint32_t[::1] indices, const float[::1] data,
              const float[::1] weights) except -1:
    _need(indptr.shape[0] >= 1, "indptr must hold at least one number")
    rows.n_rows = <size_t>indptr.shape[0] - 1
    rows.nnz = <size_t>indices.shape[0]
    _need(data.shape[0] == indices.shape[0], "indices and data must be equally long")
    if labels is not None:
        _need(<size_t>labels.shape[0] == rows.n_rows, "labels must be one shorter than indptr")
    if weights is not None:
        _need(<size_t>weights.shape[0] == rows.n_rows, "weights must be one shorter than indptr")
    rows.labels = _f32(labels)
    rows.indptr = &indptr[0]
    rows.indices = _u32(indices)
    rows.data = _f32(data)
    rows.weights = _f32(weights)
    return 0


cdef object _array_error(cf_status status):
    """A status of an array kernel as the exception to raise."""
    return _errors.KernelError(_reason(status), entry=status.offset)


def csr_take(const float[::1] labels not None, const int64_t[::1] indptr not None,
             const uint32_t[::1] indices not None, const float[::1] data not None,
             const float[::1] weights, const uint32_t[::1] order not None,
             float[::1] out_labels not None, int64_t[::1] out_indptr not None,
             uint32_t[::1] out_indices not None, float[::1] out_data not None,
             float[::1] out_weights):
    """Copies the rows named by `order` into the outputs; returns their entries' number."""
    cdef cf_csr rows
    cdef cf_status status
    cdef size_t n = <size_t>order.shape[0]
    _csr(&rows, labels, indptr, indices, data, weights)
    _need(<size_t>out_labels.shape[0] == n, "out_labels must be as long as order")
    _need(<size_t>out_indptr.shape[0] == n + 1, "out_indptr must be one longer than order")
    _need(out_indices.shape[0] == out_data.shape[0], "out_indices and out_data must match")
    if weights is not None:
        _need(out_weights is not None and <size_t>out_weights.shape[0] == n,
              "out_weights must be as long as order")
    with nogil:
        status = cf_csr_take(&rows, _u32(order), n, _f32_out(out_labels), &out_indptr[0],
                             _u32_out(out_indices), _f32_out(out_data), _f32_out(out_weights),
                             <size_t>out_indices.shape[0])
    if status.code != CF_OK:
        raise _array_error(status)
    return out_indptr[n]
