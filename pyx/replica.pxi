"""cf_replica.h: a worker's copy of a model that is held elsewhere."""

cdef extern from "cf_replica.h" nogil:
    ctypedef struct cf_replica:
        cf_optimizer_kind kind
        size_t n
        size_t n_workers
        float *state
        int32_t *held
        uint32_t *sent
        float *residual
        uint32_t *count
        uint64_t *bits
    cf_status cf_replica_touch(const cf_replica *replica, const cf_csr *rows, const uint32_t *order,
                               size_t n_order, uint32_t *ids, uint32_t *counts, size_t room,
                               size_t *n_ids)
    void cf_replica_keep(const cf_replica *replica, const uint32_t *ids, size_t n, float *before)
    size_t cf_replica_take(const cf_replica *replica, const uint32_t *ids, const uint32_t *counts,
                           const float *before, size_t n, uint32_t *places, int32_t *amounts,
                           size_t *n_bounded)
    void cf_replica_settle(const cf_replica *replica, const uint32_t *ids, const int32_t *values,
                           const uint32_t *sent_then, size_t n)
    void cf_replica_settle_run(const cf_replica *replica, size_t first, size_t stride,
                               const int32_t *values, const uint32_t *sent_then, size_t n)
    void cf_replica_gradient(const int32_t *amounts, size_t n, float *gradient)
    size_t cf_replica_settle_weights(const cf_replica *replica, const uint32_t *ids,
                                     const float *weights, const uint32_t *sent_then, size_t n)
    size_t cf_replica_missing(const cf_replica *replica, const uint32_t *ids, size_t n,
                              const uint32_t *known, size_t n_known, size_t below,
                              uint32_t *missing)
    size_t cf_replica_dense(const cf_replica *replica, const uint32_t *ids, size_t n,
                            size_t bytes_alone)


cdef class Replica:
    """A worker's copy of a model that is held elsewhere (csrc/cf_replica.h).

    state : float32[n * width], which a TrainModel learns on; the last coordinate is the intercept's
    held : int32[n], what the holder has; sent : uint32[n]; residual : float32[n]
    count : uint32[n], zeros
    """

    cdef cf_replica _c
    cdef readonly object state, held, sent, residual, count

    def __cinit__(self, Optimizer optimizer not None, float[::1] state not None,
                  int32_t[::1] held not None, uint32_t[::1] sent not None,
                  float[::1] residual not None, uint32_t[::1] count not None, size_t n_workers):
        cdef size_t n = optimizer._coordinates(state)
        cdef _Memory memory
        _need(n > 0, "state must hold the intercept at least")
        _need(optimizer._c.kind != CF_FTRL, "ftrl's state does not add up as weights do")
        _need(<size_t>held.shape[0] == n and <size_t>sent.shape[0] == n
              and <size_t>residual.shape[0] == n and <size_t>count.shape[0] == n,
              "held, sent, residual and count must have an entry for each coordinate")
        _need(n_workers >= 1, "n_workers must be at least 1")
        self.state, self.held, self.sent = state, held, sent
        self.residual, self.count = residual, count
        self._c.kind = optimizer._c.kind
        self._c.n = n
        self._c.n_workers = n_workers
        self._c.state = _f32_out(state)
        self._c.held = _i32_out(held)
        self._c.sent = _u32_out(sent)
        self._c.residual = _f32_out(residual)
        self._c.count = _u32_out(count)
        memory.n = 0
        self._writes_all(&memory)
        _need_apart(&memory)
        self._c.bits = <uint64_t *>calloc(cf_pulled_words(n), sizeof(uint64_t))
        if self._c.bits == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self._c.bits)

    @property
    def n_workers(self):
        """That learn at the same time, and whose moves add up."""
        return self._c.n_workers

    @n_workers.setter
    def n_workers(self, size_t n_workers):
        _need(n_workers >= 1, "n_workers must be at least 1")
        self._c.n_workers = n_workers

    cdef void _writes_all(self, _Memory *memory) noexcept:
        _writes(memory, self._c.state, 4 * self._c.n * cf_optimizer_width(self._c.kind))
        _writes(memory, self._c.held, 4 * self._c.n)
        _writes(memory, self._c.sent, 4 * self._c.n)
        _writes(memory, self._c.residual, 4 * self._c.n)
        _writes(memory, self._c.count, 4 * self._c.n)

    cdef int _check_ids(self, const uint32_t[::1] ids) except -1:
        """Every id is used as a place, so each is looked at."""
        cdef const uint32_t *first = _u32(ids)
        cdef size_t i, n = <size_t>ids.shape[0]
        cdef uint32_t highest = 0
        with nogil:
            for i in range(n):
                highest = first[i] if first[i] > highest else highest
        return _need(n == 0 or highest < self._c.n, "an id is outside the model")

    def touch(self, const float[::1] labels not None, const int64_t[::1] indptr not None,
              const uint32_t[::1] indices not None, const float[::1] data not None,
              const uint32_t[::1] order not None, uint32_t[::1] ids not None,
              uint32_t[::1] counts not None):
        """The different ids of some rows, and how many of the rows have each; the intercept's is
        the last. Returns how many those are."""
        cdef cf_csr rows
        cdef _Memory memory
        cdef cf_status status
        cdef size_t n_order = <size_t>order.shape[0], room = <size_t>ids.shape[0], n_ids = 0
        cdef const uint32_t *chosen = _u32(order)
        cdef uint32_t *found = _u32_out(ids)
        cdef uint32_t *times = _u32_out(counts)
        _need(<size_t>counts.shape[0] == room, "counts must be as long as ids")
        _csr(&rows, labels, indptr, indices, data, None)
        memory.n = 0
        self._writes_all(&memory)
        _writes(&memory, found, 4 * room)
        _writes(&memory, times, 4 * room)
        _reads(&memory, chosen, 4 * n_order)
        _reads_rows(&memory, &rows)
        _need_apart(&memory)
        with nogil:
            status = cf_replica_touch(&self._c, &rows, chosen, n_order, found, times, room, &n_ids)
        if status.code != CF_OK:
            raise _array_error(status)
        return n_ids

    def keep(self, const uint32_t[::1] ids not None, float[::1] before not None):
        """Keeps the accumulators of ids, before they are learnt from."""
        cdef size_t n = <size_t>ids.shape[0]
        cdef const uint32_t *first = _u32(ids)
        cdef float *into = _f32_out(before)
        cdef _Memory memory
        _need(<size_t>before.shape[0] >= n, "before must be as long as ids")
        self._check_ids(ids)
        memory.n = 0
        self._writes_all(&memory)
        _writes(&memory, into, 4 * n)
        _reads(&memory, first, 4 * n)
        _need_apart(&memory)
        with nogil:
            cf_replica_keep(&self._c, first, n, into)

    def take(self, const uint32_t[::1] ids not None, const uint32_t[::1] counts not None,
             const float[::1] before not None, uint32_t[::1] places not None,
             int32_t[::1] amounts not None):
        """What to send after these ids were learnt from: (how many places, how many amounts were
        cut off at what a place can hold)."""
        cdef size_t n = <size_t>ids.shape[0], n_places, n_bounded = 0
        cdef _Memory memory
        cdef const uint32_t *first = _u32(ids)
        cdef const uint32_t *times = _u32(counts)
        cdef const float *kept = _f32(before)
        cdef uint32_t *into = _u32_out(places)
        cdef int32_t *by = _i32_out(amounts)
        _need(<size_t>counts.shape[0] >= n and <size_t>before.shape[0] >= n,
              "counts and before must be as long as ids")
        _need(<size_t>places.shape[0] > n and <size_t>amounts.shape[0] > n,
              "places and amounts must be longer than ids")
        self._check_ids(ids)
        memory.n = 0
        self._writes_all(&memory)
        _writes(&memory, into, 4 * (n + 1))
        _writes(&memory, by, 4 * (n + 1))
        _reads(&memory, first, 4 * n)
        _reads(&memory, times, 4 * n)
        _reads(&memory, kept, 4 * n)
        _need_apart(&memory)
        with nogil:
            n_places = cf_replica_take(&self._c, first, times, kept, n, into, by, &n_bounded)
        return n_places, n_bounded

    def settle(self, const uint32_t[::1] ids not None, const int32_t[::1] values not None,
               const uint32_t[::1] sent_then):
        """The holder's values of ids, as they were when sent[ids] was sent_then (None: as now)."""
        cdef size_t n = <size_t>ids.shape[0]
        cdef const uint32_t *first = _u32(ids)
        cdef const int32_t *given = _i32(values)
        cdef const uint32_t *then = _u32(sent_then)
        _need(<size_t>values.shape[0] == n, "values must be as long as ids")
        cdef _Memory memory
        _need(sent_then is None or <size_t>sent_then.shape[0] == n,
              "sent_then must be as long as ids")
        self._check_ids(ids)
        memory.n = 0
        self._writes_all(&memory)
        _reads(&memory, first, 4 * n)
        _reads(&memory, given, 4 * n)
        _reads(&memory, then, 4 * n)
        _need_apart(&memory)
        with nogil:
            cf_replica_settle(&self._c, first, given, then, n)

    def settle_run(self, size_t first, size_t stride, const int32_t[::1] values not None,
                   const uint32_t[::1] sent_then):
        """The same for coordinates first, first + stride, ..."""
        cdef size_t n = <size_t>values.shape[0]
        cdef const int32_t *given = _i32(values)
        cdef const uint32_t *then = _u32(sent_then)
        _need(stride >= 1 and (n == 0 or (first < self._c.n and
                                          (self._c.n - 1 - first) // stride >= n - 1)),
              "the run is longer than the model")
        cdef _Memory memory
        _need(sent_then is None or <size_t>sent_then.shape[0] == n,
              "sent_then must be as long as values")
        memory.n = 0
        self._writes_all(&memory)
        _reads(&memory, given, 4 * n)
        _reads(&memory, then, 4 * n)
        _need_apart(&memory)
        with nogil:
            cf_replica_settle_run(&self._c, first, stride, given, then, n)

    def give(self, StepBatch batch not None, const uint32_t[::1] places not None,
             const int32_t[::1] amounts not None, *, uint32_t n_rows=0, double loss=0.0,
             double weight=0.0):
        """What is to be sent, for the next message that pushes `batch`: to a model of sgd at rate
        1, which it is the gradient for.

        n_rows, loss, weight : that it was learnt from, and sums over them
        """
        cdef Stepper stepper = batch._stepper
        cdef size_t n = <size_t>places.shape[0]
        cdef const uint32_t *of = _u32(places)
        cdef const int32_t *by = _i32(amounts)
        cdef float intercept = 0.0
        _need(<size_t>amounts.shape[0] == n, "amounts must be as long as places")
        _need(stepper.n_ids + 1 == self._c.n, "the stepper is another model's")
        if n and of[n - 1] == stepper.n_ids:
            n -= 1
            cf_replica_gradient(by + n, 1, &intercept)
        batch.choose(places[:n])
        _grow(&stepper._gradient, n, sizeof(float))
        cdef float *into = <float *>stepper._gradient.at
        with nogil:
            cf_replica_gradient(by, n, into)
        stepper._total.intercept = intercept
        batch.n_rows, batch.loss, batch.weight = n_rows, loss, weight
        stepper._learnt = batch

    def take_over(self, StepBatch batch not None, const uint32_t[::1] sent_then):
        """The weights that came for the ids of `batch`, and the intercept, as they were when
        sent[] of those was sent_then (None: as now). Returns how many are out of bounds."""
        cdef size_t n = batch.n, n_bounded
        cdef const uint32_t *then = _u32(sent_then)
        cdef uint32_t last = <uint32_t>(self._c.n - 1)
        cdef float intercept = batch.intercept
        cdef _Memory memory
        _need(batch._stepper.n_ids + 1 == self._c.n, "the batch is another model's")
        _need(batch.whole and batch.n_rows == 0, "the batch has no weights of ids alone")
        _need(sent_then is None or <size_t>sent_then.shape[0] == n + 1,
              "sent_then must be longer by one than the ids")
        memory.n = 0
        self._writes_all(&memory)
        _reads(&memory, then, 4 * (n + 1) if then != NULL else 0)
        _need_apart(&memory)
        cdef const uint32_t *ids = <const uint32_t *>batch._ids.at
        cdef const float *weights = <const float *>batch._weights.at
        with nogil:
            n_bounded = cf_replica_settle_weights(&self._c, ids, weights, then, n)
            n_bounded += cf_replica_settle_weights(
                &self._c, &last, &intercept, then + n if then != NULL else NULL, 1)
        return n_bounded

    def missing(self, const uint32_t[::1] ids not None, const uint32_t[::1] known not None,
                size_t below, uint32_t[::1] out not None):
        """Those of ids that are neither under `below` nor in known; returns how many."""
        cdef size_t n = <size_t>ids.shape[0], n_known = <size_t>known.shape[0], n_missing
        cdef const uint32_t *first = _u32(ids)
        cdef const uint32_t *had = _u32(known)
        cdef uint32_t *into = _u32_out(out)
        cdef _Memory memory
        _need(<size_t>out.shape[0] >= n, "out must be as long as ids")
        self._check_ids(ids)
        self._check_ids(known)
        memory.n = 0
        self._writes_all(&memory)
        _writes(&memory, into, 4 * n)
        _reads(&memory, first, 4 * n)
        _reads(&memory, had, 4 * n_known)
        _need_apart(&memory)
        with nogil:
            n_missing = cf_replica_missing(&self._c, first, n, had, n_known, below, into)
        return n_missing

    def dense(self, const uint32_t[::1] ids not None, size_t bytes_alone):
        """Below which id all of the range is shorter to send than those of ids that lie in it."""
        cdef size_t n = <size_t>ids.shape[0], best
        cdef const uint32_t *first = _u32(ids)
        self._check_ids(ids)
        with nogil:
            best = cf_replica_dense(&self._c, first, n, bytes_alone)
        return best
