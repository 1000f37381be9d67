"""cf_columns.h: per-column statistics and scaling."""

cdef extern from "cf_columns.h" nogil:
    ctypedef struct cf_column:
        uint64_t count
        float min
        float max
        double sum_squares
    ctypedef struct cf_column_table:
        uint32_t *ones
        cf_column *others
        uint32_t *met
        size_t n_columns
        size_t n_met
    cf_status cf_columns_scan(const uint32_t *indices, const float *data, size_t nnz,
                              cf_column_table *table)
    size_t cf_columns_merge(const uint32_t *a_ids, const cf_column *a, size_t n_a,
                            const uint32_t *b_ids, const cf_column *b, size_t n_b,
                            uint32_t *out_ids, cf_column *out)
    void cf_columns_scale(const uint32_t *indices, const float *data, size_t nnz,
                          const float *pairs, size_t n_columns, float *out)

COLUMN_BYTES = sizeof(cf_column)


cdef cf_column *_columns(const uint8_t[::1] view, size_t *n) except? NULL:
    """Columns come as bytes, since a limited-API module cannot name NumPy's structured types."""
    _need(<size_t>view.shape[0] % sizeof(cf_column) == 0, "columns must be whole records")
    n[0] = <size_t>view.shape[0] // sizeof(cf_column)
    if n[0] == 0:
        return NULL
    _need(<size_t>&view[0] % sizeof(uint64_t) == 0, "columns must be aligned to 8 bytes")
    return <cf_column *>&view[0]


cdef int _take_table(cf_column_table *table, uint32_t[::1] ones, uint8_t[::1] others,
                     uint32_t[::1] met, size_t n_met, _Memory *memory) except -1:
    cdef size_t n = 0
    _need(ones is not None and others is not None and met is not None,
          "ones, others and met belong together")
    table.others = _columns(others, &n)
    _need(<size_t>ones.shape[0] == n and <size_t>met.shape[0] == n,
          "ones, others and met must be equally long")
    _need(n_met <= n, "n_met must not be beyond met")
    table.ones = _u32_out(ones)
    table.met = _u32_out(met)
    table.n_columns = n
    table.n_met = n_met
    _writes(memory, table.ones, 4 * n)
    _writes(memory, table.others, sizeof(cf_column) * n)
    _writes(memory, table.met, 4 * n)
    return 0


def columns_scan(const uint32_t[::1] indices not None, const float[::1] data not None,
                 uint32_t[::1] ones not None, uint8_t[::1] others not None,
                 uint32_t[::1] met not None, size_t n_met):
    """Adds entries to a table of columns: how many are 1, and all about the others, whose columns
    are listed in `met` behind the first n_met; returns how many are then. `ones` and `others` start
    as zeros, and `ones` must be looked at before any column has had 2**32 entries."""
    cdef cf_column_table table
    cdef cf_status status
    cdef _Memory memory
    _need(indices.shape[0] == data.shape[0], "indices and data must be equally long")
    memory.n = 0
    _take_table(&table, ones, others, met, n_met, &memory)
    _reads(&memory, _u32(indices), 4 * <size_t>indices.shape[0])
    _reads(&memory, _f32(data), 4 * <size_t>data.shape[0])
    _need_apart(&memory)
    with nogil:
        status = cf_columns_scan(_u32(indices), _f32(data), <size_t>data.shape[0], &table)
    if status.code != CF_OK:
        raise _array_error(status)
    return table.n_met


def columns_merge(const uint32_t[::1] a_ids not None, const uint8_t[::1] a not None,
                  const uint32_t[::1] b_ids not None, const uint8_t[::1] b not None,
                  uint32_t[::1] out_ids not None, uint8_t[::1] out not None):
    """Merges two lists of columns with increasing ids; returns the merged list's length."""
    cdef size_t n_a = 0, n_b = 0, n_out = 0, written
    cdef const cf_column *a_columns = _columns(a, &n_a)
    cdef const cf_column *b_columns = _columns(b, &n_b)
    cdef cf_column *out_columns = _columns(out, &n_out)
    _need(<size_t>a_ids.shape[0] == n_a and <size_t>b_ids.shape[0] == n_b,
          "ids and columns must be equally long")
    _need(n_out >= n_a + n_b and <size_t>out_ids.shape[0] >= n_a + n_b,
          "the outputs must have room for both lists")
    with nogil:
        written = cf_columns_merge(_u32(a_ids), a_columns, n_a, _u32(b_ids), b_columns, n_b,
                                   _u32_out(out_ids), out_columns)
    return written


def columns_scale(const uint32_t[::1] indices not None, const float[::1] data not None,
                  const float[:, ::1] pairs not None, float[::1] out not None):
    """out = (data - shift) / divisor, with pairs[column] = (shift, divisor)."""
    cdef size_t n = <size_t>pairs.shape[0]
    cdef const float *first = _f32_pairs(pairs)
    _need(pairs.shape[1] == 2, "pairs must have two columns: shift and divisor")
    _need(indices.shape[0] == data.shape[0] == out.shape[0],
          "indices, data and out must be equally long")
    with nogil:
        cf_columns_scale(_u32(indices), _f32(data), <size_t>data.shape[0], first, n, _f32_out(out))
