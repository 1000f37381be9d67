"""cf_optimizer.h: the state of an optimiser, weight and accumulators side by side."""

cdef extern from "cf_optimizer.h" nogil:
    ctypedef enum cf_optimizer_kind:
        CF_SGD
        CF_ADAGRAD
        CF_FTRL
    ctypedef struct cf_optimizer:
        cf_optimizer_kind kind
        float learning_rate
        float initial
    ctypedef struct cf_penalty:
        float l1
        float l2
    ctypedef struct cf_penalties:
        const cf_penalty *of
        size_t n
    size_t cf_optimizer_width(cf_optimizer_kind kind)
    void cf_optimizer_clear(cf_optimizer optimizer, float *state, size_t n)
    void cf_optimizer_set(cf_optimizer optimizer, float *state, float w)
    void cf_optimizer_update(cf_optimizer optimizer, float *state, float g, cf_penalty penalty)
    void cf_optimizer_weights(cf_optimizer optimizer, const float *state, size_t n,
                              cf_penalties penalties, double rows_seen, float *weights)

_KINDS = {"sgd": CF_SGD, "adagrad": CF_ADAGRAD, "ftrl": CF_FTRL}


cdef int _penalties(cf_penalties *out, const float[:, ::1] view, size_t n_ids) except -1:
    out.of, out.n = NULL, 0
    if view is None:
        return 0
    out.n = <size_t>view.shape[0]
    _need(out.n <= n_ids and (out.n > 0 or n_ids == 0) and view.shape[1] == 2,
          "penalties must hold (l1, l2) pairs, one for every id or the last for all later ids")
    out.of = <const cf_penalty *>_f32_pairs(view)
    return 0


cdef class Optimizer:
    """How one coordinate learns: kind "sgd", "adagrad" or "ftrl", and its constants.

    learning_rate : > 0 (ftrl's alpha)
    initial : the first accumulator of adagrad (> 0), beta of ftrl; sgd has none
    """

    cdef cf_optimizer _c
    cdef readonly str kind

    def __cinit__(self, str kind, double learning_rate, double initial=1.0):
        _need(kind in _KINDS, f"optimizer must be one of {', '.join(_KINDS)}, not {kind}")
        _need(<float>learning_rate > 0, "learning_rate must be above 0")
        _need(<float>initial > 0, "initial must be above 0")
        self.kind = kind
        self._c.kind = _KINDS[kind]
        self._c.learning_rate = <float>learning_rate
        self._c.initial = <float>initial

    @property
    def width(self):
        """Floats of state a coordinate has."""
        return cf_optimizer_width(self._c.kind)

    cdef size_t _coordinates(self, const float[::1] state) except? 0:
        cdef size_t width = cf_optimizer_width(self._c.kind)
        _need(<size_t>state.shape[0] % width == 0, "state must be whole coordinates")
        return <size_t>state.shape[0] // width

    def clear(self, float[::1] state not None, float intercept=0.0):
        """Weight 0 everywhere, and `intercept` in the last coordinate."""
        cdef size_t n = self._coordinates(state)
        _need(n > 0, "state must hold the intercept at least")
        cdef float *first = _f32_out(state)
        with nogil:
            cf_optimizer_clear(self._c, first, n)
            cf_optimizer_set(self._c, first + (n - 1) * cf_optimizer_width(self._c.kind), intercept)

    def weights(self, const float[::1] state not None, const float[:, ::1] penalties,
                double rows_seen, float[::1] out not None):
        """Reads the weights of all coordinates but the intercept's, which is returned, as they are
        after `rows_seen` rows. penalties : as TrainModel's"""
        cdef size_t n = self._coordinates(state)
        _need(n > 0 and <size_t>out.shape[0] == n - 1, "out must be one coordinate short of state")
        cdef cf_penalties charged, none
        none.of, none.n = NULL, 0
        _penalties(&charged, penalties, n - 1)
        cdef const float *first = _f32(state)
        cdef float intercept
        with nogil:
            cf_optimizer_weights(self._c, first, n - 1, charged, rows_seen, _f32_out(out))
            cf_optimizer_weights(self._c, first + (n - 1) * cf_optimizer_width(self._c.kind), 1,
                                 none, rows_seen, &intercept)
        return intercept

    def update(self, float[::1] state not None, float gradient, float l1=0.0, float l2=0.0):
        """One step of a single coordinate, in place."""
        cdef cf_penalty penalty
        penalty.l1 = l1
        penalty.l2 = l2
        _need(self._coordinates(state) == 1, "state must be one coordinate")
        cf_optimizer_update(self._c, _f32_out(state), gradient, penalty)
