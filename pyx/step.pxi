"""cf_step.h, cf_pulled.h, cf_shard.h: a worker's steps on a model that parameter servers hold.

At a step nothing is made: rows are pinned for as long as they are taken from, mini-batches and
messages are used again and again, and only their memory grows.
"""

from cpython.bytes cimport PyBytes_AsString
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

cdef extern from "cf_step.h" nogil:
    size_t CF_FRAME_ROOM
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
    ctypedef enum cf_frame:
        CF_FRAME_WHOLE
        CF_FRAME_PART
        CF_FRAME_OTHER
    size_t cf_step_bound(const cf_step_head *head, bint has_touches, size_t set_bytes)
    size_t cf_step_write(const cf_step_head *head, cf_step_ids pushed, const float *gradient,
                         const float *touches, cf_step_ids pulled, uint8_t *out)
    cf_status cf_answer_read(const uint8_t *bytes, size_t n, size_t n_pull, cf_step_answer *answer,
                             const uint8_t **weights)
    uint8_t *cf_request_frame(const char *head, size_t n_head, size_t n_request, uint8_t *begin)
    cf_frame cf_answer_frame(const uint8_t *bytes, size_t n, const uint8_t **string,
                             size_t *n_string, size_t *n_whole)

cdef extern from "cf_id_set.h" nogil:
    bint cf_ids_increase(const uint32_t *ids, size_t n, size_t n_ids)
    size_t cf_id_set_bound(size_t n, size_t n_ids)
    size_t cf_id_set_write(const uint32_t *ids, size_t n, uint8_t *out)

cdef extern from "cf_shard.h" nogil:
    size_t cf_shard_ids(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                        uint32_t *out)
    void cf_shard_take(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                       const float *values, float *out)
    void cf_shard_put(const uint32_t *ids, size_t n, uint32_t n_shards, uint32_t shard,
                      const uint8_t *values, float *out)

cdef extern from "cf_pulled.h" nogil:
    ctypedef struct cf_minibatch:
        const cf_csr *rows
        const uint32_t *order
        size_t n
        const uint32_t *local
        float class_weight[2]
    ctypedef struct cf_pulled_scratch:
        uint64_t *bits
        uint32_t *before
        size_t n_ids
    size_t cf_pulled_words(size_t n_ids)
    cf_status cf_pulled_entries(const cf_csr *rows, const uint32_t *order, size_t n,
                                size_t *n_entries)
    cf_status cf_pulled_localize(const cf_kernels *kernels, const cf_csr *rows,
                                 const uint32_t *order, size_t n,
                                 const cf_pulled_scratch *scratch, uint32_t *local,
                                 size_t *n_distinct)
    size_t cf_pulled_write_set(const cf_pulled_scratch *scratch, size_t n_distinct, uint8_t *out)
    void cf_pulled_take_ids(const cf_pulled_scratch *scratch, size_t n_distinct, uint32_t *ids)
    cf_status cf_pulled_gradient(const cf_minibatch *batch, size_t n_entries, const float *w,
                                 size_t n_local, float intercept, float *gradient, float *touches,
                                 cf_gradient_total *total)

cdef enum:
    _MOST_SHARDS = 1 << 16


# Memory whose contents need not be kept when it grows.
cdef struct _Room:
    void *at
    size_t n_bytes

cdef int _grow(_Room *room, size_t n, size_t item) except -1:
    cdef size_t wanted
    if n > (<size_t>-1) // 2 // item:
        raise MemoryError()
    if n * item > room.n_bytes:
        wanted = n * item + n * item // 4 + 64
        free(room.at)
        room.n_bytes = 0
        room.at = malloc(wanted)
        if room.at == NULL:
            raise MemoryError()
        room.n_bytes = wanted
    return 0


cdef class StepRows:
    """Rows that mini-batches are taken of, and the order to take them in. The arrays must stay as
    they are meanwhile."""

    cdef const float[::1] _labels, _data, _weights
    cdef const int64_t[::1] _indptr
    cdef const uint32_t[::1] _indices, _order
    cdef cf_csr _c
    cdef const uint32_t *_first
    cdef readonly size_t n
    cdef float _class_weight[2]

    def __cinit__(self, const float[::1] labels not None, const int64_t[::1] indptr not None,
                  const uint32_t[::1] indices not None, const float[::1] data not None,
                  const float[::1] weights, const uint32_t[::1] order not None, *,
                  float negative_weight=1.0, float positive_weight=1.0):
        _csr(&self._c, labels, indptr, indices, data, weights)
        self._labels, self._indptr, self._indices = labels, indptr, indices
        self._data, self._weights, self._order = data, weights, order
        self._first = _u32(order)
        self.n = <size_t>order.shape[0]
        self._class_weight[0], self._class_weight[1] = negative_weight, positive_weight


cdef class Stepper:
    """What the mini-batches of one worker share."""

    cdef cf_pulled_scratch _c
    cdef readonly size_t n_ids
    cdef readonly uint32_t n_shards
    cdef bint _counts, _busy
    cdef StepBatch _learnt
    cdef cf_gradient_total _total
    cdef _Room _gradient, _touches, _part, _part_touches

    def __cinit__(self, size_t n_ids, uint32_t n_shards=1, *, bint counts_touches=False):
        """n_shards : keys that the model is spread over
        counts_touches : whether pushes say how many entries each id has
        """
        _need(n_ids < 0xffffffff, "n_ids must be below 2^32 - 1")
        _need(1 <= n_shards <= _MOST_SHARDS, f"n_shards must lie in 1 .. {_MOST_SHARDS}")
        self.n_ids = self._c.n_ids = n_ids
        self.n_shards = n_shards
        self._counts = counts_touches
        self._c.bits = <uint64_t *>calloc(cf_pulled_words(n_ids), sizeof(uint64_t))
        self._c.before = <uint32_t *>malloc((n_ids // 64 + 1) * sizeof(uint32_t))
        if self._c.bits == NULL or self._c.before == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self._c.bits)
        free(self._c.before)
        free(self._gradient.at)
        free(self._touches.at)
        free(self._part.at)
        free(self._part_touches.at)

    def locate(self, StepBatch batch not None, StepRows rows not None, size_t first, size_t n):
        """Makes `batch` that of the n rows from place `first` of the order on: finds their distinct
        ids. Its weights are to come."""
        cdef cf_status status
        cdef size_t n_entries = 0, n_distinct = 0
        _need(batch._stepper is self, "the mini-batch is another stepper's")
        _need(first <= rows.n and n <= rows.n - first, "there are not so many rows")
        _need(not self._busy, "the stepper is in use by another thread")
        batch._empty()
        cdef const uint32_t *order = rows._first + first if n else NULL
        status = cf_pulled_entries(&rows._c, order, n, &n_entries)
        if status.code != CF_OK:
            raise _array_error(status)
        _grow(&batch._local, 2 * n_entries + 1, sizeof(uint32_t))
        cdef uint32_t *local = <uint32_t *>batch._local.at
        self._busy = True
        try:
            with nogil:
                status = cf_pulled_localize(_kernels, &rows._c, order, n, &self._c, local,
                                            &n_distinct)
            if status.code != CF_OK:
                raise _array_error(status)
            batch._take_ids(n_distinct)
        finally:
            self._busy = False
        _grow(&batch._weights, n_distinct, sizeof(float))
        batch._rows, batch._order = rows, order
        batch.n_rows, batch._n_entries, batch.n = n, n_entries, n_distinct

    def learn(self, StepBatch batch not None):
        """The gradient at the weights that were read, for the next message that pushes the batch;
        returns the loss summed over its rows."""
        cdef cf_minibatch c
        cdef cf_status status
        _need(batch._stepper is self and batch.whole, "the mini-batch has no weights")
        _need(not self._busy, "the stepper is in use by another thread")
        self._learnt = None
        _grow(&self._gradient, batch.n, sizeof(float))
        if self._counts:
            _grow(&self._touches, batch.n, sizeof(float))
        c.rows, c.order, c.n = &batch._rows._c, batch._order, batch.n_rows
        c.local = <const uint32_t *>batch._local.at
        c.class_weight[0] = batch._rows._class_weight[0]
        c.class_weight[1] = batch._rows._class_weight[1]
        cdef const float *weights = <const float *>batch._weights.at
        cdef float *gradient = <float *>self._gradient.at
        cdef float *touches = <float *>self._touches.at if self._counts else NULL
        self._busy = True
        try:
            with nogil:
                status = cf_pulled_gradient(&c, batch._n_entries, weights, batch.n,
                                            batch.intercept, gradient, touches, &self._total)
        finally:
            self._busy = False
        if status.code != CF_OK:
            raise _array_error(status)
        batch.loss, batch.weight = self._total.loss, self._total.weight
        self._learnt = batch
        return batch.loss

    def give(self, StepBatch batch not None, size_t n_rows, const float[::1] gradient not None,
             const float[::1] touches):
        """Takes the gradient at a chosen batch's ids, and how many entries each has where they are
        counted, from a caller who has learnt from `n_rows` rows: for the next message, as learn."""
        cdef size_t n = batch.n
        _need(batch._stepper is self and batch.whole, "the mini-batch has no weights")
        _need(not self._busy, "the stepper is in use by another thread")
        _need(<size_t>gradient.shape[0] == n, "gradient must have a place for every id")
        _need(not self._counts or (touches is not None and <size_t>touches.shape[0] == n),
              "touches must have a place for every id")
        self._learnt = None
        _grow(&self._gradient, n, sizeof(float))
        memset(&self._total, 0, sizeof(self._total))
        if n:
            memcpy(self._gradient.at, _f32(gradient), n * sizeof(float))
        if self._counts:
            _grow(&self._touches, n, sizeof(float))
            if n:
                memcpy(self._touches.at, _f32(touches), n * sizeof(float))
        batch.n_rows = n_rows
        batch.loss = batch.weight = 0.0
        self._learnt = batch

    cdef const float *_of_shard(self, StepBatch batch, uint32_t shard, const _Room *values,
                                _Room *part) except? NULL:
        """Those of the values by id that are a shard's."""
        if self.n_shards == 1:
            return <const float *>values.at
        _grow(part, batch._set_counts[shard], sizeof(float))
        cf_shard_take(<const uint32_t *>batch._ids.at, batch.n, self.n_shards, shard,
                      <const float *>values.at, <float *>part.at)
        return <const float *>part.at


cdef class StepBatch:
    """A mini-batch, from the search for its ids to the request that pushes what was learnt.

    Attributes
    ----------
    n_rows, n : rows, distinct ids
    whole : whether all weights have come
    status : of the last answer read. 0: done; 1: its push was a duplicate; 2: to be asked again
    intercept, rows_seen, n_updates : that came with the weights; rows and updates of all workers
    loss, weight : sums over the rows, once they were learnt from
    """

    cdef Stepper _stepper
    cdef StepRows _rows
    cdef const uint32_t *_order
    cdef size_t _n_entries
    cdef readonly size_t n_rows, n
    cdef _Room _local, _weights, _ids, _part_ids, _sets
    cdef size_t *_set_begins
    cdef uint32_t *_set_counts
    cdef uint32_t _n_read
    cdef readonly int status
    cdef readonly float intercept
    cdef readonly double rows_seen, loss, weight
    cdef readonly uint64_t n_updates

    def __cinit__(self, Stepper stepper not None):
        self._stepper = stepper
        self._set_begins = <size_t *>calloc(stepper.n_shards + 1, sizeof(size_t))
        self._set_counts = <uint32_t *>calloc(stepper.n_shards, sizeof(uint32_t))
        if self._set_begins == NULL or self._set_counts == NULL:
            raise MemoryError()
        self._empty()

    def __dealloc__(self):
        free(self._set_begins)
        free(self._set_counts)
        free(self._local.at)
        free(self._weights.at)
        free(self._ids.at)
        free(self._part_ids.at)
        free(self._sets.at)

    @property
    def whole(self):
        return self._n_read == self._stepper.n_shards

    def clear(self):
        """No rows, and so no ids: what comes is an answer alone."""
        _need(not self._stepper._busy, "the stepper is in use by another thread")
        self._empty()

    cdef int _empty(self) except -1:
        if self._stepper._learnt is self:
            self._stepper._learnt = None
        self._rows, self._order = None, NULL
        self.n_rows = self._n_entries = self.n = 0
        self._n_read = 0
        self.status, self.intercept, self.rows_seen, self.n_updates = 0, 0.0, 0.0, 0
        self.loss = self.weight = 0.0
        cdef size_t shard, begin
        _grow(&self._sets, self._stepper.n_shards * cf_id_set_bound(0, 0), 1)
        for shard in range(self._stepper.n_shards):
            begin = self._set_begins[shard]
            self._set_counts[shard] = 0
            self._set_begins[shard + 1] = begin + cf_id_set_write(
                NULL, 0, <uint8_t *>self._sets.at + begin)
        return 0

    def choose(self, const uint32_t[::1] ids not None):
        """Makes it one of these ids, which increase, without rows; its weights are to come."""
        cdef size_t n = <size_t>ids.shape[0]
        cdef const uint32_t *first = _u32(ids)
        _need(not self._stepper._busy, "the stepper is in use by another thread")
        _need(cf_ids_increase(first, n, self._stepper.n_ids),
              "ids must increase and be the model's")
        self._empty()
        _grow(&self._ids, n, sizeof(uint32_t))
        if n:
            memcpy(self._ids.at, first, n * sizeof(uint32_t))
        self._write_sets(n)
        _grow(&self._weights, n, sizeof(float))
        self.n = n

    def take(self, float[::1] weights not None):
        """Copies its weights, by id, once all have come."""
        _need(self.whole, "the mini-batch has no weights")
        _need(<size_t>weights.shape[0] == self.n, "weights must have a place for every id")
        if self.n:
            memcpy(_f32_out(weights), self._weights.at, self.n * sizeof(float))

    cdef int _take_ids(self, size_t n) except -1:
        """The set that the stepper's scratch has, as it is sent to each shard."""
        cdef Stepper stepper = self._stepper
        if stepper.n_shards == 1:
            _grow(&self._sets, cf_id_set_bound(n, stepper.n_ids), 1)
            self._set_counts[0] = <uint32_t>n
            with nogil:
                self._set_begins[1] = cf_pulled_write_set(&stepper._c, n, <uint8_t *>self._sets.at)
            return 0
        _grow(&self._ids, n, sizeof(uint32_t))
        with nogil:
            cf_pulled_take_ids(&stepper._c, n, <uint32_t *>self._ids.at)
        return self._write_sets(n)

    cdef int _write_sets(self, size_t n) except -1:
        """Its ids, as they are sent to each shard."""
        cdef Stepper stepper = self._stepper
        cdef uint32_t shard
        cdef size_t begin, here
        cdef size_t bound = cf_id_set_bound(n, stepper.n_ids // stepper.n_shards + 1)
        _grow(&self._sets, stepper.n_shards * bound, 1)
        cdef const uint32_t *ids = <const uint32_t *>self._ids.at
        if stepper.n_shards == 1:
            self._set_counts[0] = <uint32_t>n
            with nogil:
                self._set_begins[1] = cf_id_set_write(ids, n, <uint8_t *>self._sets.at)
            return 0
        _grow(&self._part_ids, n, sizeof(uint32_t))
        cdef uint32_t *part = <uint32_t *>self._part_ids.at
        with nogil:
            for shard in range(stepper.n_shards):
                begin = self._set_begins[shard]
                here = cf_shard_ids(ids, n, stepper.n_shards, shard, part)
                self._set_counts[shard] = <uint32_t>here
                self._set_begins[shard + 1] = begin + cf_id_set_write(
                    part, here, <uint8_t *>self._sets.at + begin)
        return 0

    cdef cf_step_ids _set(self, uint32_t shard) noexcept:
        cdef cf_step_ids found
        cdef size_t begin = self._set_begins[shard]
        found.bytes = <const uint8_t *>self._sets.at + begin
        found.n_bytes = self._set_begins[shard + 1] - begin
        return found

    def read(self, uint32_t shard, const uint8_t[::1] buffer not None, size_t begin, size_t end):
        """Takes the answer of a shard, which must come in turn, from buffer[begin:end].

        Returns where it ends; 0: more bytes are needed; -1: it is an error, or something else.
        """
        cdef const uint8_t *string = NULL
        cdef const uint8_t *values = NULL
        cdef size_t n_string = 0, n_whole = 0
        cdef cf_step_answer answer
        cdef cf_status status
        cdef uint32_t n
        _need(begin <= end <= <size_t>buffer.shape[0], "there are not so many bytes")
        _need(not self._stepper._busy, "the stepper is in use by another thread")
        _need(shard == self._n_read and shard < self._stepper.n_shards, "it is another's turn")
        cdef const uint8_t *at = _u8(buffer)
        cdef cf_frame frame = cf_answer_frame(
            at + begin if begin < end else NULL, end - begin, &string, &n_string, &n_whole)
        if frame == CF_FRAME_PART:
            return 0
        if frame == CF_FRAME_OTHER:
            return -1
        n = self._set_counts[shard]
        status = cf_answer_read(string, n_string, n, &answer, &values)
        if status.code != CF_OK:
            raise _array_error(status)
        self.status = answer.status
        if values != NULL:
            self._n_read += 1
            if shard == 0:
                self.intercept, self.rows_seen = answer.intercept, answer.rows_seen
                self.n_updates = answer.n_updates
            if self._stepper.n_shards > 1:
                cf_shard_put(<const uint32_t *>self._ids.at, self.n, self._stepper.n_shards, shard,
                             values, <float *>self._weights.at)
            elif n:
                memcpy(self._weights.at, values, 4 * <size_t>n)
        return begin + n_whole


cdef class StepMessage:
    """A command of a worker to a shard, and the memory that it is written into."""

    cdef bytes _step, _push, _pull
    cdef bytearray _bytes
    cdef size_t _begin, _end
    cdef cf_step_head _c
    cdef uint32_t _shard

    def __cinit__(self, bytes key not None, uint32_t shard=0, *, uint32_t worker=0,
                  uint32_t generation=0):
        tail = b"\r\n$%d\r\n%s\r\n$" % (len(key), key)
        self._step = b"*3\r\n$11\r\nCIRRUS.STEP" + tail
        self._push = b"*3\r\n$11\r\nCIRRUS.PUSH" + tail
        self._pull = b"*3\r\n$11\r\nCIRRUS.PULL" + tail
        self._bytes = bytearray()
        self._shard = shard
        self._c.worker, self._c.generation = worker, generation

    @property
    def pushes(self):
        return self._c.pushes

    @property
    def number(self):
        """Of the push."""
        return self._c.number

    @property
    def view(self):
        """The command's bytes, good until the next is written."""
        return memoryview(self._bytes)[self._begin:self._end]

    def write(self, Stepper stepper not None, StepBatch pushed, StepBatch pulled, *,
              uint64_t number=0, float rate=1.0):
        """A push of the batch last learnt from, or of an empty one, a pull of another's weights,
        or both.

        number : of the push
        """
        cdef cf_step_head *head = &self._c
        cdef cf_step_ids push_set, pull_set
        cdef const float *gradient = NULL
        cdef const float *touches = NULL
        cdef uint32_t shard = self._shard, n_shards = stepper.n_shards
        _need(shard < n_shards, "there is no such shard")
        cdef bint learnt = pushed is not None and pushed is stepper._learnt
        _need(pushed is None or learnt or (
            pushed._stepper is stepper and pushed.n_rows == 0 and pushed.n == 0),
              "it was not the last learnt from")
        _need(pulled is None or pulled._stepper is stepper, "the mini-batch is another stepper's")
        _need(not stepper._busy, "the stepper is in use by another thread")
        push_set.bytes = pull_set.bytes = NULL
        push_set.n_bytes = pull_set.n_bytes = 0
        head.pushes, head.pulls = pushed is not None, pulled is not None
        head.number, head.rate = number, rate
        head.n_rows = head.n_push = head.n_pull = 0
        head.loss_sum = head.weight_sum = 0.0
        head.intercept_gradient = 0.0
        if pulled is not None:
            pull_set, head.n_pull = pulled._set(shard), pulled._set_counts[shard]
        if pushed is not None:
            push_set, head.n_push = pushed._set(shard), pushed._set_counts[shard]
            head.n_rows = <uint32_t>pushed.n_rows
            head.loss_sum, head.weight_sum = pushed.loss, pushed.weight
        if learnt:
            head.intercept_gradient = stepper._total.intercept
            gradient = stepper._of_shard(pushed, shard, &stepper._gradient, &stepper._part)
            if stepper._counts:
                touches = stepper._of_shard(pushed, shard, &stepper._touches,
                                            &stepper._part_touches)
        cdef bytes name = self._pull if pushed is None else (
            self._push if pulled is None else self._step)
        cdef size_t n_head = <size_t>len(name)
        cdef size_t front = n_head + CF_FRAME_ROOM
        cdef size_t most = front + 2 + cf_step_bound(head, stepper._counts,
                                                     push_set.n_bytes + pull_set.n_bytes)
        if most > <size_t>len(self._bytes):
            self._bytes = bytearray(most + most // 4)
        cdef uint8_t *start = <uint8_t *><char *>self._bytes
        cdef size_t n = cf_step_write(head, push_set, gradient, touches, pull_set, start + front)
        start[front + n], start[front + n + 1] = 13, 10
        self._end = front + n + 2
        self._begin = cf_request_frame(PyBytes_AsString(name), n_head, n, start + front) - start


def step_answer(const uint8_t[::1] answer not None, float[::1] weights not None):
    """Reads an answer to a request that pulls as many ids as `weights` is long.

    Returns (status, intercept, rows seen, updates, number of the last push); status as StepBatch's.
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
