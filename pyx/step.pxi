"""cf_step.h, cf_pulled.h: a worker's steps on a model that a parameter server holds."""

from libc.string cimport memcpy

cdef extern from "cf_step.h" nogil:
    ctypedef struct cf_step_head:
        bint pushes
        bint pulls
        uint32_t worker
        uint32_t generation
        uint32_t n_rows
        uint64_t number
        double loss_sum
        double weight_sum
        float rate
        float intercept_gradient
        uint32_t n_push
        uint32_t n_pull
    ctypedef struct cf_step_answer:
        int status
        float intercept
        double rows_seen
        uint64_t n_updates
        uint64_t number
    ctypedef struct cf_step_ids:
        const uint8_t *bytes
        size_t n_bytes
    size_t cf_step_bound(const cf_step_head *head, bint has_touches, size_t set_bytes)
    size_t cf_step_write(const cf_step_head *head, cf_step_ids pushed, const float *gradient,
                         const float *touches, cf_step_ids pulled, uint8_t *out)
    cf_status cf_answer_read(const uint8_t *bytes, size_t n, size_t n_pull, cf_step_answer *answer,
                             const uint8_t **weights)

cdef extern from "cf_id_set.h" nogil:
    bint cf_ids_increase(const uint32_t *ids, size_t n, size_t n_ids)
    size_t cf_id_set_bound(size_t n, size_t n_ids)
    size_t cf_id_set_write(const uint32_t *ids, size_t n, uint8_t *out)

cdef extern from "cf_pulled.h" nogil:
    ctypedef struct cf_minibatch:
        const cf_csr *rows
        const uint32_t *order
        size_t n
        const uint32_t *local
        float class_weight[2]
    ctypedef struct cf_pulled_scratch:
        uint32_t *table
        uint64_t *bits
        size_t n_ids
    size_t cf_pulled_words(size_t n_ids)
    cf_status cf_pulled_localize(const cf_csr *rows, const uint32_t *order, size_t n,
                                 const cf_pulled_scratch *scratch, uint32_t *local, uint32_t *ids,
                                 size_t room, size_t *n_entries, size_t *n_distinct)
    cf_status cf_pulled_gradient(const cf_minibatch *batch, size_t n_entries, const float *w,
                                 size_t n_local, float intercept, float *gradient, float *touches,
                                 cf_gradient_total *total)


def pulled_words(size_t n_ids):
    """Length of `bits` for `pulled_localize`."""
    return cf_pulled_words(n_ids)


def pulled_localize(const int64_t[::1] indptr not None, const uint32_t[::1] indices not None,
                    const float[::1] data not None, const uint32_t[::1] order not None,
                    uint32_t[::1] table not None, uint64_t[::1] bits not None,
                    uint32_t[::1] local not None, uint32_t[::1] ids not None):
    """Finds the distinct ids of the rows named by `order`, increasing.

    table : uint32[n_ids], any contents; bits : uint64[pulled_words(n_ids)], zeros, and so again
    local, ids : equally long, room for all entries
    Returns (entries, distinct ids).
    """
    cdef cf_csr rows
    cdef cf_pulled_scratch scratch
    cdef cf_status status
    cdef _Memory memory
    cdef size_t n = <size_t>order.shape[0], n_entries = 0, n_distinct = 0
    cdef size_t room = <size_t>local.shape[0]
    _csr(&rows, None, indptr, indices, data, None)
    scratch.table = _u32_out(table)
    scratch.bits = _u64_out(bits)
    scratch.n_ids = <size_t>table.shape[0]
    _need(<size_t>bits.shape[0] == cf_pulled_words(scratch.n_ids), "bits has another length")
    _need(<size_t>ids.shape[0] == room, "local and ids must be equally long")
    cdef const uint32_t *chosen = _u32(order)
    cdef uint32_t *to_local = _u32_out(local)
    cdef uint32_t *to_ids = _u32_out(ids)
    memory.n = 0
    _writes(&memory, scratch.table, 4 * scratch.n_ids)
    _writes(&memory, scratch.bits, 8 * <size_t>bits.shape[0])
    _writes(&memory, to_local, 4 * room)
    _writes(&memory, to_ids, 4 * room)
    _reads(&memory, chosen, 4 * n)
    _reads_rows(&memory, &rows)
    _need_apart(&memory)
    with nogil:
        status = cf_pulled_localize(&rows, chosen, n, &scratch, to_local, to_ids, room,
                                    &n_entries, &n_distinct)
    if status.code != CF_OK:
        raise _array_error(status)
    return n_entries, n_distinct


def pulled_gradient(const float[::1] labels not None, const int64_t[::1] indptr not None,
                    const uint32_t[::1] indices not None, const float[::1] data not None,
                    const float[::1] weights, const uint32_t[::1] order not None,
                    const uint32_t[::1] local not None, const float[::1] w not None,
                    float intercept, float[::1] gradient not None, float[::1] touches, *,
                    float negative_weight=1.0, float positive_weight=1.0):
    """The gradient of rows that `pulled_localize` took, at the weights w of their distinct ids.

    local : theirs, exactly; touches : None, or as long as w and gradient
    Returns (intercept's gradient, loss sum, weight sum).
    """
    cdef cf_csr rows
    cdef cf_minibatch batch
    cdef cf_gradient_total total
    cdef _Memory memory
    cdef size_t n_local = <size_t>w.shape[0], n = <size_t>order.shape[0]
    _csr(&rows, labels, indptr, indices, data, weights)
    _need(<size_t>gradient.shape[0] == n_local, "gradient must be as long as w")
    _need(touches is None or <size_t>touches.shape[0] == n_local,
          "touches must be as long as w")
    cdef const uint32_t *places = _u32(local)
    cdef const float *values = _f32(w)
    batch.rows = &rows
    batch.order = _u32(order)
    batch.n = n
    batch.local = places
    batch.class_weight[0] = negative_weight
    batch.class_weight[1] = positive_weight
    cdef float *to_gradient = _f32_out(gradient)
    cdef float *to_touches = _f32_out(touches)
    memory.n = 0
    _writes(&memory, to_gradient, 4 * n_local)
    _writes(&memory, to_touches, 4 * n_local)
    _reads(&memory, places, 4 * <size_t>local.shape[0])
    _reads(&memory, values, 4 * n_local)
    _reads(&memory, batch.order, 4 * n)
    _reads_rows(&memory, &rows)
    _need_apart(&memory)
    cdef size_t n_entries = <size_t>local.shape[0]
    cdef cf_status status
    with nogil:
        status = cf_pulled_gradient(&batch, n_entries, values, n_local, intercept, to_gradient,
                                    to_touches, &total)
    if status.code != CF_OK:
        raise _array_error(status)
    return total.intercept, total.loss, total.weight


cdef class StepIds:
    """Ids as requests carry them; they must increase, and be below n_ids."""

    cdef bytearray _bytes
    cdef cf_step_ids _c
    cdef readonly uint32_t n

    def __cinit__(self, const uint32_t[::1] ids not None, size_t n_ids):
        cdef size_t n = <size_t>ids.shape[0]
        cdef const uint32_t *first = _u32(ids)
        _need(n <= 0xffffffff and cf_ids_increase(first, n, n_ids),
              "ids must increase, and be below n_ids")
        self._bytes = bytearray(cf_id_set_bound(n, <size_t>first[n - 1] + 1 if n else 0))
        self._c.bytes = <const uint8_t *><char *>self._bytes
        self._c.n_bytes = cf_id_set_write(first, n, <uint8_t *>self._c.bytes)
        self.n = <uint32_t>n


def step_request(*, uint32_t worker=0, uint32_t generation=0, uint64_t number=0,
                 uint32_t n_rows=0, double loss_sum=0.0, double weight_sum=0.0, float rate=1.0,
                 float intercept_gradient=0.0, StepIds push_ids=None,
                 const float[::1] gradient=None, const float[::1] touches=None,
                 StepIds pull_ids=None):
    """What a worker sends: a push where there are push_ids, a pull where there are pull_ids."""
    cdef cf_step_head head
    cdef cf_step_ids pushed, pulled
    pushed.n_bytes = pulled.n_bytes = 0
    head.pushes = push_ids is not None
    head.pulls = pull_ids is not None
    head.worker, head.generation, head.number = worker, generation, number
    head.n_rows, head.loss_sum, head.weight_sum = n_rows, loss_sum, weight_sum
    head.rate, head.intercept_gradient = rate, intercept_gradient
    head.n_push = head.n_pull = 0
    if push_ids is not None:
        pushed, head.n_push = push_ids._c, push_ids.n
        _need(gradient is not None and <size_t>gradient.shape[0] == head.n_push,
              "gradient must be as long as push_ids")
        _need(touches is None or <size_t>touches.shape[0] == head.n_push,
              "touches must be as long as push_ids")
    if pull_ids is not None:
        pulled, head.n_pull = pull_ids._c, pull_ids.n
    cdef const float *values = _f32(gradient)
    cdef const float *counts = _f32(touches)
    cdef bytearray out = bytearray(
        cf_step_bound(&head, touches is not None, pushed.n_bytes + pulled.n_bytes))
    cdef uint8_t *to = <uint8_t *><char *>out
    cdef size_t n
    with nogil:
        n = cf_step_write(&head, pushed, values, counts, pulled, to)
    return memoryview(out)[:n]


def step_answer(const uint8_t[::1] answer not None, float[::1] weights not None):
    """Reads an answer to a request that pulls as many ids as `weights` is long.

    Returns (status, intercept, rows seen, updates, number of the last push). status 0: done; 1: the
    push was a duplicate; 2: ask again later, and no weights came.
    """
    cdef cf_step_answer read
    cdef const uint8_t *values = NULL
    cdef cf_status status
    cdef size_t n = <size_t>weights.shape[0]
    cdef float *to = _f32_out(weights)
    with nogil:
        status = cf_answer_read(_u8(answer), <size_t>answer.shape[0], n, &read, &values)
        if status.code == CF_OK and values != NULL and n:
            memcpy(to, values, 4 * n)
    if status.code != CF_OK:
        raise _array_error(status)
    return read.status, read.intercept, read.rows_seen, read.n_updates, read.number
