"""cf_csr.h: sparse rows. Every wrapper that takes rows builds its view here, checked."""

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
    rows.indptr = _i64(indptr)
    rows.indices = _u32(indices)
    rows.data = _f32(data)
    rows.weights = _f32(weights)
    return 0


cdef void _reads_rows(_Memory *memory, const cf_csr *rows) noexcept:
    _reads(memory, rows.labels, 4 * rows.n_rows)
    _reads(memory, rows.indptr, 8 * (rows.n_rows + 1))
    _reads(memory, rows.indices, 4 * rows.nnz)
    _reads(memory, rows.data, 4 * rows.nnz)
    _reads(memory, rows.weights, 4 * rows.n_rows)


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
    cdef _Memory memory
    cdef size_t n = <size_t>order.shape[0], room = <size_t>out_indices.shape[0]
    _csr(&rows, labels, indptr, indices, data, weights)
    _need(<size_t>out_labels.shape[0] == n, "out_labels must be as long as order")
    _need(<size_t>out_indptr.shape[0] == n + 1, "out_indptr must be one longer than order")
    _need(<size_t>out_data.shape[0] == room, "out_indices and out_data must match")
    if weights is not None:
        _need(out_weights is not None and <size_t>out_weights.shape[0] == n,
              "out_weights must be as long as order")
    cdef const uint32_t *chosen = _u32(order)
    cdef float *to_labels = _f32_out(out_labels)
    cdef int64_t *to_indptr = _i64_out(out_indptr)
    cdef uint32_t *to_indices = _u32_out(out_indices)
    cdef float *to_data = _f32_out(out_data)
    cdef float *to_weights = _f32_out(out_weights) if weights is not None else NULL
    memory.n = 0
    _writes(&memory, to_labels, 4 * n)
    _writes(&memory, to_indptr, 8 * (n + 1))
    _writes(&memory, to_indices, 4 * room)
    _writes(&memory, to_data, 4 * room)
    _writes(&memory, to_weights, 4 * n)
    _reads(&memory, chosen, 4 * n)
    _reads_rows(&memory, &rows)
    _need_apart(&memory)
    with nogil:
        status = cf_csr_take(&rows, chosen, n, to_labels, to_indptr, to_indices, to_data,
                             to_weights, room)
    if status.code != CF_OK:
        raise _array_error(status)
    return to_indptr[n]
