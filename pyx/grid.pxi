"""cf_grid.h: sixteen models trained side by side."""

cdef extern from "cf_grid.h" nogil:
    enum:
        CF_GRID_LANES
    ctypedef struct cf_grid_model:
        cf_optimizer_kind kind
        float initial
        float *state
        size_t n_ids
        cf_penalties penalties
        bint fit_intercept
        float intercept_rate
        double rows_seen
        uint32_t active
        float learning_rate[16]
        float l1[16]
        float l2[16]
        float class_weight[2][16]
    ctypedef struct cf_grid_batches:
        size_t minibatch_size
        size_t n_local, n_all_distinct, n_batches
    ctypedef struct cf_grid_scratch:
        float *weights
        float *gradient
        float *touches
        size_t room
    ctypedef struct cf_grid_total:
        size_t n_rows
        size_t n_updates
        double weight_sum
        double loss_sum[16]
    void cf_grid_clear(const cf_grid_model *model, const float *intercept)
    cf_status cf_grid_localize(const cf_csr *rows, const uint32_t *order, size_t n_order,
                               size_t n_ids, uint32_t *table, uint32_t *local,
                               uint32_t *distinct, size_t room, uint32_t *n_distinct,
                               cf_grid_batches *batches)
    cf_status cf_grid_train(const cf_kernels *kernels, const cf_grid_model *model,
                            const cf_csr *rows, const uint32_t *order, size_t n_order,
                            const cf_grid_batches *batches, const cf_grid_scratch *scratch,
                            cf_grid_total *total)
    cf_status cf_grid_measure(const cf_kernels *kernels, const cf_grid_model *model,
                              const cf_csr *rows, float *margins, cf_grid_total *total)
    void cf_grid_weights(const cf_grid_model *model, uint32_t lanes, float **weights,
                         float *intercepts)
    void cf_grid_move(const cf_grid_model *source, size_t lane, const cf_grid_model *to,
                      size_t to_lane)

GRID_LANES = CF_GRID_LANES


cdef class GridBatches:
    """Mini-batches of rows, renumbered once for all models that take the same (csrc/cf_grid.h).

    table : uint32[n_ids]; local : uint32[room], distinct : uint32[room + 1] with room for the
    entries of all rows localised at once; n_distinct : uint32, one for each mini-batch
    """

    cdef cf_grid_batches _c
    cdef readonly object table, local, distinct, n_distinct
    cdef uint32_t *_table
    cdef uint32_t *_local
    cdef uint32_t *_distinct
    cdef uint32_t *_n_distinct
    cdef size_t _n_ids, _room, _most

    def __cinit__(self, uint32_t[::1] table not None, uint32_t[::1] local not None,
                  uint32_t[::1] distinct not None, uint32_t[::1] n_distinct not None):
        _need(distinct.shape[0] == local.shape[0] + 1, "distinct must be one longer than local")
        # The views keep the memory alive.
        self.table, self.local = table, local
        self.distinct, self.n_distinct = distinct, n_distinct
        self._table, self._local = _u32_out(table), _u32_out(local)
        self._distinct, self._n_distinct = _u32_out(distinct), _u32_out(n_distinct)
        self._n_ids, self._room = <size_t>table.shape[0], <size_t>local.shape[0]
        self._most = <size_t>n_distinct.shape[0]

    def localize(self, const int64_t[::1] indptr not None, const uint32_t[::1] indices not None,
                 const float[::1] data not None, const uint32_t[::1] order not None,
                 size_t minibatch_size):
        """Renumbers the rows named by `order`; returns the most distinct ids of a mini-batch."""
        cdef cf_csr rows
        cdef cf_status status
        cdef _Memory memory
        cdef size_t i, n_order = <size_t>order.shape[0]
        cdef uint32_t most = 0
        cdef const uint32_t *chosen = _u32(order)
        _csr(&rows, None, indptr, indices, data, None)
        _need(minibatch_size > 1, "mini-batches must be of more than one row")
        _need(n_order // minibatch_size + (n_order % minibatch_size != 0) <= self._most,
              "n_distinct must have a place for every mini-batch")
        memory.n = 0
        _writes(&memory, self._table, 4 * self._n_ids)
        _writes(&memory, self._local, 4 * self._room)
        _writes(&memory, self._distinct, 4 * (self._room + 1))
        _writes(&memory, self._n_distinct, 4 * self._most)
        _reads(&memory, chosen, 4 * n_order)
        _reads_rows(&memory, &rows)
        _need_apart(&memory)
        self._c.minibatch_size = minibatch_size
        with nogil:
            status = cf_grid_localize(&rows, chosen, n_order, self._n_ids, self._table,
                                      self._local, self._distinct, self._room, self._n_distinct,
                                      &self._c)
        if status.code != CF_OK:
            raise _array_error(status)
        for i in range(self._c.n_batches):
            most = max(most, self._n_distinct[i])
        return most


cdef class GridScratch:
    """Memory one thread needs for mini-batches of up to `room` distinct ids.

    weights, gradient : float32[room * GRID_LANES]; touches : float32[room]
    """

    cdef cf_grid_scratch _c
    cdef bint _in_use
    cdef readonly object weights, gradient, touches

    def __cinit__(self, float[::1] weights not None, float[::1] gradient not None,
                  float[::1] touches not None):
        cdef _Memory memory
        cdef size_t room = <size_t>touches.shape[0]
        _need(<size_t>weights.shape[0] == room * CF_GRID_LANES
              and <size_t>gradient.shape[0] == room * CF_GRID_LANES,
              "weights and gradient must have a place for every lane of every id")
        self.weights, self.gradient, self.touches = weights, gradient, touches
        self._c.weights = _f32_out(weights)
        self._c.gradient = _f32_out(gradient)
        self._c.touches = _f32_out(touches)
        self._c.room = room
        memory.n = 0
        self._writes_all(&memory)
        _need_apart(&memory)

    cdef void _writes_all(self, _Memory *memory) noexcept:
        _writes(memory, self._c.weights, 4 * self._c.room * CF_GRID_LANES)
        _writes(memory, self._c.gradient, 4 * self._c.room * CF_GRID_LANES)
        _writes(memory, self._c.touches, 4 * self._c.room)

    @property
    def room(self):
        return self._c.room


cdef class GridModel:
    """GRID_LANES models of one optimiser as the kernels see them (csrc/cf_grid.h).

    state : float32[(n_ids + 1) * width * GRID_LANES], the last coordinate the intercept's
    penalties : float32[n, 2], n <= n_ids, charges of l1 = 1 and l2 = 1, the last pair of all later
        ids as well; or None
    learning_rate, l1, l2 : float32[GRID_LANES], of each lane; class_weight : float32[2, GRID_LANES]
    initial : as Optimizer's
    active : attribute, bit i of which says whether lane i learns; all do at first
    """

    cdef cf_grid_model _c
    cdef readonly str kind
    cdef readonly object state, penalties

    def __cinit__(self, str kind, float[::1] state not None, const float[:, ::1] penalties,
                  const float[::1] learning_rate not None, const float[::1] l1 not None,
                  const float[::1] l2 not None, const float[:, ::1] class_weight not None, *,
                  double initial=1.0, bint fit_intercept=True, float intercept_rate=1.0):
        cdef size_t n, i
        _need(kind in _KINDS, f"optimizer must be one of {', '.join(_KINDS)}, not {kind}")
        _need(<float>initial >= 1.17549435e-38, "initial must be no smaller than FLT_MIN")
        _need(learning_rate.shape[0] == CF_GRID_LANES and l1.shape[0] == CF_GRID_LANES
              and l2.shape[0] == CF_GRID_LANES and class_weight.shape[0] == 2
              and class_weight.shape[1] == CF_GRID_LANES,
              f"every lane of {CF_GRID_LANES} must have its options")
        _f32(learning_rate), _f32(l1), _f32(l2), _f32_pairs(class_weight)
        self.kind, self.state, self.penalties = kind, state, penalties
        self._c.kind = _KINDS[kind]
        self._c.initial = <float>initial
        n = cf_optimizer_width(self._c.kind) * CF_GRID_LANES
        _need(state.shape[0] > 0 and <size_t>state.shape[0] % n == 0,
              "state must be whole coordinates of all lanes, the intercept's at least")
        self._c.state = _f32_out(state)
        self._c.n_ids = <size_t>state.shape[0] // n - 1
        _penalties(&self._c.penalties, penalties, self._c.n_ids)
        self._c.fit_intercept = fit_intercept
        self._c.intercept_rate = intercept_rate
        self._c.rows_seen = 0
        self._c.active = (1 << CF_GRID_LANES) - 1
        for i in range(CF_GRID_LANES):
            _need(learning_rate[i] > 0, "learning_rate must be above 0")
            self._c.learning_rate[i] = learning_rate[i]
            self._c.l1[i] = l1[i]
            self._c.l2[i] = l2[i]
            self._c.class_weight[0][i] = class_weight[0, i]
            self._c.class_weight[1][i] = class_weight[1, i]

    @property
    def active(self):
        return self._c.active

    @active.setter
    def active(self, uint32_t lanes):
        _need(lanes < 1 << CF_GRID_LANES, f"there are {CF_GRID_LANES} lanes")
        self._c.active = lanes

    cdef void _uses_state(self, _Memory *memory, bint writes) noexcept:
        cdef size_t n = 4 * CF_GRID_LANES * (self._c.n_ids + 1)
        n *= cf_optimizer_width(self._c.kind)
        if writes:
            _writes(memory, self._c.state, n)
        else:
            _reads(memory, self._c.state, n)

    def clear(self, const float[::1] intercept not None):
        """Weight 0 everywhere in all lanes, and float32[GRID_LANES] intercepts."""
        _need(intercept.shape[0] == CF_GRID_LANES, "every lane must have an intercept")
        cdef const float *first = _f32(intercept)
        with nogil:
            cf_grid_clear(&self._c, first)

    def train(self, const float[::1] labels not None, const int64_t[::1] indptr not None,
              const uint32_t[::1] indices not None, const float[::1] data not None,
              const float[::1] weights, const uint32_t[::1] order not None,
              GridBatches batches, GridScratch scratch, double[::1] losses not None, *,
              double rows_seen=0.0, double rate=1.0):
        """One step per mini-batch over the rows named by `order`, in all active lanes.

        labels : float32[n_rows], 1 or 0
        batches : of these rows in this order; None for mini-batches of one row, as is scratch then
        losses : float64[GRID_LANES], gets the lanes' loss sums
        rows_seen : before; rate : multiplies the learning rates
        Returns (rows, updates, weight sum).
        """
        cdef cf_csr rows
        cdef cf_grid_model model = self._c
        cdef cf_grid_total total
        cdef const cf_grid_scratch *mine = NULL
        cdef const cf_grid_batches *cut = NULL
        cdef cf_status status
        cdef _Memory memory
        cdef size_t i, n_order = <size_t>order.shape[0]
        cdef const uint32_t *chosen = _u32(order)
        _csr(&rows, labels, indptr, indices, data, weights)
        _need(losses.shape[0] == CF_GRID_LANES, "losses must have a place for every lane")
        memory.n = 0
        _writes(&memory, _aligned(&losses[0], 8), 8 * CF_GRID_LANES)
        self._uses_state(&memory, True)
        if batches is not None:
            _need(scratch is not None, "mini-batches of several rows need scratch")
            _need(not scratch._in_use, "scratch is in use by another thread")
            mine, cut = &scratch._c, &batches._c
            scratch._writes_all(&memory)
            _reads(&memory, batches._local, 4 * batches._room)
            _reads(&memory, batches._distinct, 4 * (batches._room + 1))
            _reads(&memory, batches._n_distinct, 4 * batches._most)
        _reads(&memory, chosen, 4 * n_order)
        _reads_rows(&memory, &rows)
        _need_apart(&memory)
        model.rows_seen = rows_seen
        for i in range(CF_GRID_LANES):
            model.learning_rate[i] *= <float>rate
        if batches is not None:
            scratch._in_use = True
        with nogil:
            status = cf_grid_train(_kernels, &model, &rows, chosen, n_order, cut, mine, &total)
        if batches is not None:
            scratch._in_use = False
        if status.code != CF_OK:
            raise _array_error(status)
        for i in range(CF_GRID_LANES):
            losses[i] = total.loss_sum[i]
        return total.n_rows, total.n_updates, total.weight_sum

    def measure(self, const float[::1] labels not None, const int64_t[::1] indptr not None,
                const uint32_t[::1] indices not None, const float[::1] data not None,
                const float[::1] weights, float[:, ::1] margins not None,
                double[::1] losses not None, *, double rows_seen=0.0):
        """Margins, float32[n_rows, GRID_LANES], and loss sums of the active lanes on all rows;
        returns the sum of the rows' weights."""
        cdef cf_csr rows
        cdef cf_grid_model model = self._c
        cdef cf_grid_total total
        cdef cf_status status
        cdef _Memory memory
        cdef size_t i
        cdef float *out = NULL
        _csr(&rows, labels, indptr, indices, data, weights)
        _need(<size_t>margins.shape[0] == rows.n_rows and margins.shape[1] == CF_GRID_LANES,
              "margins must have a place for every lane of every row")
        _need(losses.shape[0] == CF_GRID_LANES, "losses must have a place for every lane")
        if rows.n_rows:
            out = <float *>_aligned(&margins[0, 0], 4)
        memory.n = 0
        _writes(&memory, _aligned(&losses[0], 8), 8 * CF_GRID_LANES)
        _writes(&memory, out, 4 * CF_GRID_LANES * rows.n_rows)
        self._uses_state(&memory, False)
        _reads_rows(&memory, &rows)
        _need_apart(&memory)
        model.rows_seen = rows_seen
        with nogil:
            status = cf_grid_measure(_kernels, &model, &rows, out, &total)
        if status.code != CF_OK:
            raise _array_error(status)
        for i in range(CF_GRID_LANES):
            losses[i] = total.loss_sum[i]
        return total.weight_sum

    def weights(self, dict into not None, *, double rows_seen=0.0):
        """Reads the weights of lanes, as they are after `rows_seen` rows, in one walk over the state.

        into : by lane, float32[n_ids] to read them into
        Returns the intercepts, by lane.
        """
        cdef float intercepts[16]
        cdef float *first[16]
        cdef cf_grid_model model = self._c
        cdef _Memory memory
        cdef float[::1] out
        cdef uint32_t lanes = 0
        cdef size_t i = 0
        memory.n = memory.n_written = 0
        order = sorted(into)
        for lane in order:
            _need(0 <= lane < CF_GRID_LANES, f"there are {CF_GRID_LANES} lanes")
            out = into[lane]
            _need(<size_t>out.shape[0] == self._c.n_ids, "out must have a place for every id")
            first[i] = _f32_out(out)
            _writes(&memory, first[i], 4 * self._c.n_ids)
            lanes |= <uint32_t>1 << <uint32_t>lane
            i += 1
        self._uses_state(&memory, False)
        _need_apart(&memory)
        model.rows_seen = rows_seen
        with nogil:
            cf_grid_weights(&model, lanes, first, intercepts)
        return {lane: intercepts[i] for i, lane in enumerate(order)}

    def move(self, size_t lane, GridModel to not None, size_t to_lane):
        """Copies the state and options of a lane to a lane of `to`, which may be this model."""
        _need(lane < CF_GRID_LANES and to_lane < CF_GRID_LANES, f"there are {CF_GRID_LANES} lanes")
        _need(to._c.kind == self._c.kind and to._c.n_ids == self._c.n_ids,
              "lanes move between models of one optimiser and size")
        cdef size_t c
        to._c.learning_rate[to_lane] = self._c.learning_rate[lane]
        to._c.l1[to_lane] = self._c.l1[lane]
        to._c.l2[to_lane] = self._c.l2[lane]
        for c in range(2):
            to._c.class_weight[c][to_lane] = self._c.class_weight[c][lane]
        with nogil:
            cf_grid_move(&self._c, lane, &to._c, to_lane)
