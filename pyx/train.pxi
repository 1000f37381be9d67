"""cf_train.h: mini-batch steps on a model in memory."""

cdef extern from "cf_hot.h" nogil:
    ctypedef struct cf_hot:
        size_t n
        size_t every
        size_t n_threads
        size_t thread
        float *published
        float *own
        float *seen

cdef extern from "cf_train.h" nogil:
    ctypedef struct cf_train_model:
        cf_optimizer optimizer
        float *state
        size_t n_ids
        cf_penalties penalties
        bint fit_intercept
        float intercept_rate
        float class_weight[2]
        double rows_seen
        const cf_hot *hot
    ctypedef struct cf_train_scratch:
        uint32_t *table
        uint32_t *local
        uint32_t *distinct
        float *weights
        float *gradient
        float *touches
        size_t room
    ctypedef struct cf_train_total:
        size_t n_rows
        size_t n_updates
        double loss_sum
        double weight_sum
    cf_status cf_train(const cf_kernels *kernels, const cf_train_model *model, const cf_csr *rows,
                       const uint32_t *order, size_t n_order, size_t minibatch_size,
                       const cf_train_scratch *scratch, cf_train_total *total)
    cf_status cf_train_gradient(const cf_train_model *model, const cf_csr *rows,
                                const uint32_t *order, size_t n_order,
                                const cf_train_scratch *scratch, size_t *n_distinct,
                                float *intercept_gradient, cf_train_total *total)
    cf_status cf_train_apply(const cf_train_model *model, const uint32_t *ids,
                             const float *gradient, const float *touches, size_t n,
                             float intercept_gradient, const cf_train_scratch *scratch)


cdef class TrainScratch:
    """Memory one thread needs for mini-batches of up to `room` entries.

    table : uint32[n_ids]; local : uint32[room]; distinct : uint32[room + 1]
    weights, gradient, touches : float32[room]
    """

    cdef cf_train_scratch _c
    cdef size_t _n_ids
    cdef bint _in_use
    cdef readonly object table, local, distinct, weights, gradient, touches

    def __cinit__(self, uint32_t[::1] table not None, uint32_t[::1] local not None,
                  uint32_t[::1] distinct not None, float[::1] weights not None,
                  float[::1] gradient not None, float[::1] touches not None):
        cdef _Memory memory
        cdef size_t room = <size_t>local.shape[0]
        _need(<size_t>distinct.shape[0] == room + 1, "distinct must be one longer than local")
        _need(<size_t>weights.shape[0] == room and <size_t>gradient.shape[0] == room
              and <size_t>touches.shape[0] == room,
              "weights, gradient and touches must be as long as local")
        # The views keep the memory alive.
        self.table, self.local, self.distinct = table, local, distinct
        self.weights, self.gradient, self.touches = weights, gradient, touches
        self._c.table = _u32_out(table)
        self._c.local = _u32_out(local)
        self._c.distinct = _u32_out(distinct)
        self._c.weights = _f32_out(weights)
        self._c.gradient = _f32_out(gradient)
        self._c.touches = _f32_out(touches)
        self._c.room = room
        self._n_ids = <size_t>table.shape[0]
        memory.n = 0
        self._writes_all(&memory)
        _need_apart(&memory)

    cdef void _writes_all(self, _Memory *memory) noexcept:
        _writes(memory, self._c.table, 4 * self._n_ids)
        _writes(memory, self._c.local, 4 * self._c.room)
        _writes(memory, self._c.distinct, 4 * (self._c.room + 1))
        _writes(memory, self._c.weights, 4 * self._c.room)
        _writes(memory, self._c.gradient, 4 * self._c.room)
        _writes(memory, self._c.touches, 4 * self._c.room)

    @property
    def room(self):
        return self._c.room


cdef class HotCopies:
    """One thread's own copies of the coordinates that every row touches (csrc/cf_hot.h).

    published : float32[n_threads, (n + 1) * width], zeros at first, shared by all threads
    thread : whose copies these are
    own : float32[2 * (n + 1) * width], this thread's alone
    every : rows between exchanges
    """

    cdef cf_hot _c
    cdef size_t _width
    cdef bint _in_use
    cdef readonly object published, own

    def __cinit__(self, Optimizer optimizer not None, float[:, ::1] published not None,
                  size_t thread, float[::1] own not None, size_t every):
        cdef size_t n_threads = <size_t>published.shape[0], size = <size_t>published.shape[1]
        self._width = cf_optimizer_width(optimizer._c.kind)
        _need(thread < n_threads, "thread must be below the number of threads")
        _need(size > 0 and size % self._width == 0, "published must hold whole coordinates")
        _need(<size_t>own.shape[0] == 2 * size, "own must be twice as long as a thread's part")
        _need(every >= 1, "every must be at least 1")
        self.published, self.own = published, own
        self._c.n = size // self._width - 1
        self._c.every = every
        self._c.n_threads = n_threads
        self._c.thread = thread
        self._c.published = <float *>_aligned(&published[0, 0], 4)
        self._c.own = _f32_out(own)
        self._c.seen = self._c.own + size

    cdef void _writes_all(self, _Memory *memory) noexcept:
        cdef size_t size = (self._c.n + 1) * self._width
        _writes(memory, self._c.published, 4 * self._c.n_threads * size)
        _writes(memory, self._c.own, 8 * size)


cdef class TrainModel:
    """A model in memory as the kernels see it; several threads may train it at once.

    state : float32[(n_ids + 1) * optimizer.width], the last coordinate the intercept's
    penalties : float32[n, 2], n <= n_ids, charges of l1 and l2 (csrc/cf_optimizer.h), the last pair
        of all later ids as well; or None
    intercept_rate : multiplies the intercept's gradient in steps of several rows
    hot : the calling thread's, where several train in mini-batches of one row, or None
    """

    cdef cf_train_model _c
    cdef readonly Optimizer optimizer
    cdef readonly object state, penalties
    cdef readonly HotCopies hot

    def __cinit__(self, Optimizer optimizer not None, float[::1] state not None,
                  const float[:, ::1] penalties, *, bint fit_intercept=True,
                  float negative_weight=1.0, float positive_weight=1.0, float intercept_rate=1.0,
                  HotCopies hot=None):
        cdef size_t n = optimizer._coordinates(state)
        _need(n > 0, "state must hold the intercept at least")
        self.optimizer, self.state, self.penalties = optimizer, state, penalties
        self._c.optimizer = optimizer._c
        self._c.n_ids = n - 1
        self._c.state = _f32_out(state)
        _penalties(&self._c.penalties, penalties, n - 1)
        self._c.fit_intercept = fit_intercept
        self._c.intercept_rate = intercept_rate
        self._c.class_weight[0] = negative_weight
        self._c.class_weight[1] = positive_weight
        self._c.hot = NULL
        self.hot = hot
        if hot is not None:
            _need(hot._c.n <= n - 1 and hot._width == optimizer.width,
                  "hot copies were made for another model")
            self._c.hot = &hot._c

    cdef const cf_train_scratch *_scratch(self, TrainScratch scratch) except NULL:
        _need(scratch is not None, "mini-batches of several rows need scratch")
        _need(scratch._n_ids >= self._c.n_ids, "scratch was made for a smaller model")
        _need(not scratch._in_use, "scratch is in use by another thread")
        return &scratch._c

    cdef void _writes_state(self, _Memory *memory) noexcept:
        _writes(memory, self._c.state,
                4 * (self._c.n_ids + 1) * cf_optimizer_width(self._c.optimizer.kind))

    def train(self, const float[::1] labels not None, const int64_t[::1] indptr not None,
              const uint32_t[::1] indices not None, const float[::1] data not None,
              const float[::1] weights, const uint32_t[::1] order not None,
              size_t minibatch_size, TrainScratch scratch, *, double rows_seen=0.0,
              double rate=1.0):
        """One step per mini-batch over the rows named by `order`.

        labels : float32[n_rows], 1 or 0; scratch may be None if minibatch_size is 1
        rows_seen : by all workers before; rate : multiplies the learning rate
        Returns (rows, updates, loss sum, weight sum).
        """
        cdef cf_csr rows
        cdef cf_train_model model = self._c
        cdef cf_train_total total
        cdef cf_train_scratch none
        cdef const cf_train_scratch *mine = &none
        cdef cf_status status
        cdef _Memory memory
        cdef size_t n_order = <size_t>order.shape[0]
        cdef const uint32_t *chosen = _u32(order)
        _csr(&rows, labels, indptr, indices, data, weights)
        _need(minibatch_size >= 1, "minibatch_size must be at least 1")
        _need(minibatch_size == 1 or self.hot is None, "hot copies are for mini-batches of one row")
        memory.n = 0
        self._writes_state(&memory)
        if minibatch_size > 1:
            mine = self._scratch(scratch)
            scratch._writes_all(&memory)
        if self.hot is not None:
            _need(not self.hot._in_use, "hot copies are in use by another thread")
            self.hot._writes_all(&memory)
        _reads(&memory, chosen, 4 * n_order)
        _reads_rows(&memory, &rows)
        _need_apart(&memory)
        model.rows_seen = rows_seen
        model.optimizer.learning_rate *= <float>rate
        if minibatch_size > 1:
            scratch._in_use = True
        if self.hot is not None:
            self.hot._in_use = True
        with nogil:
            status = cf_train(_kernels, &model, &rows, chosen, n_order, minibatch_size, mine,
                              &total)
        if minibatch_size > 1:
            scratch._in_use = False
        if self.hot is not None:
            self.hot._in_use = False
        if status.code != CF_OK:
            raise _array_error(status)
        return total.n_rows, total.n_updates, total.loss_sum, total.weight_sum

    def gradient(self, const float[::1] labels not None, const int64_t[::1] indptr not None,
                 const uint32_t[::1] indices not None, const float[::1] data not None,
                 const float[::1] weights, const uint32_t[::1] order not None,
                 TrainScratch scratch not None, *, double rows_seen=0.0):
        """Sums the gradient of one mini-batch into scratch and leaves the model alone.

        Returns (distinct ids k, intercept's gradient, loss sum, weight sum); the first k of
        scratch.distinct, gradient and touches are the result.
        """
        cdef cf_csr rows
        cdef cf_train_total total
        cdef const cf_train_scratch *mine = self._scratch(scratch)
        cdef cf_status status
        cdef size_t n_distinct = 0, n_order = <size_t>order.shape[0]
        cdef float intercept_gradient = 0
        cdef cf_train_model model = self._c
        cdef _Memory memory
        cdef const uint32_t *chosen = _u32(order)
        _csr(&rows, labels, indptr, indices, data, weights)
        memory.n = 0
        self._writes_state(&memory)  # other threads may
        scratch._writes_all(&memory)
        _reads(&memory, chosen, 4 * n_order)
        _reads_rows(&memory, &rows)
        _need_apart(&memory)
        model.rows_seen = rows_seen
        scratch._in_use = True
        with nogil:
            status = cf_train_gradient(&model, &rows, chosen, n_order, mine, &n_distinct,
                                       &intercept_gradient, &total)
        scratch._in_use = False
        if status.code != CF_OK:
            raise _array_error(status)
        return n_distinct, intercept_gradient, total.loss_sum, total.weight_sum

    def apply(self, const uint32_t[::1] ids not None, const float[::1] gradient not None,
              const float[::1] touches not None, float intercept_gradient,
              TrainScratch scratch not None, *, double rows_seen=0.0, double rate=1.0):
        """One step with gradients of several workers, one after another; equal ids are summed in
        that order. rows_seen does not count this step's rows."""
        cdef cf_train_model model = self._c
        cdef const cf_train_scratch *mine = self._scratch(scratch)
        cdef cf_status status
        cdef size_t n = <size_t>ids.shape[0]
        _need(<size_t>gradient.shape[0] == n and <size_t>touches.shape[0] == n,
              "ids, gradient and touches must be equally long")
        cdef _Memory memory
        cdef const uint32_t *first_id = _u32(ids)
        cdef const float *first_gradient = _f32(gradient)
        cdef const float *first_touch = _f32(touches)
        memory.n = 0
        self._writes_state(&memory)
        scratch._writes_all(&memory)
        _reads(&memory, first_id, 4 * n)
        _reads(&memory, first_gradient, 4 * n)
        _reads(&memory, first_touch, 4 * n)
        _need_apart(&memory)
        model.rows_seen = rows_seen
        model.optimizer.learning_rate *= <float>rate
        scratch._in_use = True
        with nogil:
            status = cf_train_apply(&model, first_id, first_gradient, first_touch, n,
                                    intercept_gradient, mine)
        scratch._in_use = False
        if status.code != CF_OK:
            raise _array_error(status)

