"""cf_train.h: mini-batch steps on a model in memory."""

cdef extern from "cf_train.h" nogil:
    ctypedef struct cf_train_model:
        cf_optimizer optimizer
        float *state
        size_t n_ids
        const cf_penalty *penalties
        bint fit_intercept
        float class_weight[2]
        double rows_seen
    ctypedef struct cf_train_scratch:
        uint32_t *table
        uint32_t *local
        uint32_t *distinct
        float *values
        size_t room
    ctypedef struct cf_train_total:
        size_t n_rows
        size_t n_updates
        double loss_sum
        double weight_sum
    cf_status cf_train(const cf_train_model *model, const cf_csr *rows, const uint32_t *order,
                       size_t n_order, size_t minibatch_size, const cf_train_scratch *scratch,
                       cf_train_total *total)


cdef class TrainScratch:
    """Memory one thread needs for mini-batches of up to `room` entries over n_ids coordinates."""

    cdef cf_train_scratch _c
    cdef object _arrays

    def __init__(self, uint32_t[::1] table not None, uint32_t[::1] local not None,
                 uint32_t[::1] distinct not None, float[::1] values not None):
        cdef size_t room = <size_t>local.shape[0]
        _need(<size_t>distinct.shape[0] == room + 1, "distinct must be one longer than local")
        _need(<size_t>values.shape[0] == 3 * room, "values must be three times as long as local")
        self._arrays = (table, local, distinct, values)
        self._c.table = _u32_out(table)
        self._c.local = _u32_out(local)
        self._c.distinct = &distinct[0]
        self._c.values = _f32_out(values)
        self._c.room = room

    @property
    def n_ids(self):
        return len(self._arrays[0])


def train(Optimizer optimizer not None, float[::1] state not None, const float[:, ::1] penalties,
          const float[::1] labels not None, const int64_t[::1] indptr not None,
          const uint32_t[::1] indices not None, const float[::1] data not None,
          const float[::1] weights, const uint32_t[::1] order not None, size_t minibatch_size,
          TrainScratch scratch, *, bint fit_intercept=True, float negative_weight=1.0,
          float positive_weight=1.0, double rows_seen=0.0):
    """One step per mini-batch over the rows named by `order`; several threads may share `state`.

    labels : float32[n_rows], 1 or 0; scratch may be None if minibatch_size is 1
    Returns (rows, updates, loss sum, weight sum).
    """
    cdef cf_csr rows
    cdef cf_train_model model
    cdef cf_train_total total
    cdef cf_train_scratch none
    cdef const cf_train_scratch *mine = &none
    cdef cf_status status
    cdef size_t n_order = <size_t>order.shape[0]
    _csr(&rows, labels, indptr, indices, data, weights)
    _need(minibatch_size >= 1, "minibatch_size must be at least 1")
    model.optimizer = optimizer._c
    model.n_ids = optimizer._coordinates(state)
    _need(model.n_ids > 0, "state must hold the intercept at least")
    model.n_ids -= 1
    model.state = &state[0]
    model.penalties = _penalties(penalties, model.n_ids)
    model.fit_intercept = fit_intercept
    model.class_weight[0] = negative_weight
    model.class_weight[1] = positive_weight
    model.rows_seen = rows_seen
    if minibatch_size > 1:
        _need(scratch is not None, "mini-batches of several rows need scratch")
        _need(<size_t>scratch.n_ids >= model.n_ids, "scratch was made for a smaller model")
        mine = &scratch._c
    with nogil:
        status = cf_train(&model, &rows, _u32(order), n_order, minibatch_size, mine, &total)
    if status.code != CF_OK:
        raise _array_error(status)
    return total.n_rows, total.n_updates, total.loss_sum, total.weight_sum
