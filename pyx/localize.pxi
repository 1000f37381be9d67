"""cf_localize.h: a mini-batch's distinct ids."""

cdef extern from "cf_localize.h" nogil:
    cf_status cf_localize(const uint32_t *ids, size_t nnz, uint32_t *table, size_t n_ids,
                          uint32_t *local, uint32_t *distinct, size_t *n_distinct)


def localize(const uint32_t[::1] ids not None, uint32_t[::1] table not None,
             uint32_t[::1] local not None, uint32_t[::1] distinct not None):
    """Renumbers ids by their distinct values; returns how many those are.

    table : uint32[n_ids], scratch with any contents; distinct : uint32[len(ids) + 1]
    """
    cdef size_t n_distinct = 0
    cdef cf_status status
    _need(local.shape[0] == ids.shape[0], "local must be as long as ids")
    _need(distinct.shape[0] > ids.shape[0], "distinct must be longer than ids")
    with nogil:
        status = cf_localize(_u32(ids), <size_t>ids.shape[0], _u32_out(table),
                             <size_t>table.shape[0], _u32_out(local), _u32_out(distinct), &n_distinct)
    if status.code != CF_OK:
        raise _array_error(status)
    return n_distinct
