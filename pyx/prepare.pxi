"""cf_prepare.h: rows made ready for training."""

cdef extern from "cf_prepare.h" nogil:
    ctypedef struct cf_places:
        const uint32_t *of
        const float *divisors
        size_t n_ids, n_places, n_divisors
    cf_status cf_prepare(const cf_kernels *kernels, const cf_csr *rows, const uint32_t *order,
                         size_t n_order, const cf_places *places, size_t first_entry,
                         float *labels, int64_t *indptr, uint32_t *indices, float *data,
                         float *weights, size_t nnz_room)
    cf_status cf_prepare_entries(const cf_kernels *kernels, const cf_places *places,
                                 uint32_t *indices, float *data, size_t n)


cdef int _places(cf_places *where, const uint32_t[::1] places, size_t n_places,
                 const float[::1] divisors) except -1:
    where.n_ids = <size_t>places.shape[0]
    where.n_places = n_places
    where.n_divisors = <size_t>divisors.shape[0]
    _need(where.n_divisors <= n_places <= <size_t>UINT32_MAX + 1
          and (where.n_divisors > 0 or n_places == 0),
          "there must be a divisor, and no more than places")
    where.of = _u32(places)
    where.divisors = _f32(divisors)
    return 0


def prepare_rows(const float[::1] labels not None, const int64_t[::1] indptr not None,
                 const uint32_t[::1] indices not None, const float[::1] data not None,
                 const float[::1] weights, const uint32_t[::1] order not None,
                 const uint32_t[::1] places not None, size_t n_places,
                 const float[::1] divisors not None, size_t first_entry,
                 float[::1] out_labels not None, int64_t[::1] out_indptr not None,
                 uint32_t[::1] out_indices not None, float[::1] out_data not None,
                 float[::1] out_weights):
    """Copies the rows named by `order`, ids replaced by places and values divided, into the
    outputs, whose indptr counts from first_entry on; returns where it ends.

    places : uint32[n_ids]; those from n_places on, of ids that no row should have, are refused
    divisors : float32, by place; the last is that of all later places, too
    """
    cdef cf_csr rows
    cdef cf_places where
    cdef cf_status status
    cdef _Memory memory
    cdef size_t n = <size_t>order.shape[0], room = <size_t>out_indices.shape[0]
    _csr(&rows, labels, indptr, indices, data, weights)
    _need(<size_t>out_labels.shape[0] == n, "out_labels must be as long as order")
    _need(<size_t>out_indptr.shape[0] == n + 1, "out_indptr must be one longer than order")
    _need(<size_t>out_data.shape[0] == room, "out_indices and out_data must match")
    _need(first_entry <= <size_t>INT64_MAX - room, "first_entry must leave room for the entries")
    if weights is not None:
        _need(out_weights is not None and <size_t>out_weights.shape[0] == n,
              "out_weights must be as long as order")
    _places(&where, places, n_places, divisors)
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
    _reads(&memory, where.of, 4 * where.n_ids)
    _reads(&memory, where.divisors, 4 * where.n_divisors)
    _reads_rows(&memory, &rows)
    _need_apart(&memory)
    with nogil:
        status = cf_prepare(_kernels, &rows, chosen, n, &where, first_entry, to_labels, to_indptr,
                            to_indices, to_data, to_weights, room)
    if status.code != CF_OK:
        raise _array_error(status)
    return to_indptr[n]


def prepare_entries(uint32_t[::1] indices not None, float[::1] data not None,
                    const uint32_t[::1] places not None, size_t n_places,
                    const float[::1] divisors not None):
    """The same of the ids and values of entries, where they are."""
    cdef cf_places where
    cdef cf_status status
    cdef _Memory memory
    cdef size_t n = <size_t>indices.shape[0]
    _need(<size_t>data.shape[0] == n, "indices and data must match")
    _places(&where, places, n_places, divisors)
    cdef uint32_t *to_indices = _u32_out(indices)
    cdef float *to_data = _f32_out(data)
    memory.n = 0
    _writes(&memory, to_indices, 4 * n)
    _writes(&memory, to_data, 4 * n)
    _reads(&memory, where.of, 4 * where.n_ids)
    _reads(&memory, where.divisors, 4 * where.n_divisors)
    _need_apart(&memory)
    with nogil:
        status = cf_prepare_entries(_kernels, &where, to_indices, to_data, n)
    if status.code != CF_OK:
        raise _array_error(status)
