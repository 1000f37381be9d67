"""cf_logistic.h, cf_auc.h: margins, loss, gradient, and the area under the ROC curve."""

cdef extern from "cf_logistic.h" nogil:
    ctypedef struct cf_logistic_total:
        double loss_sum
        double weight_sum
        double correct
    cf_status cf_logistic_margins(const cf_csr *rows, const float *w, size_t n_weights,
                                  float intercept, float *margins)
    cf_logistic_total cf_logistic_loss(const float *margins, const float *labels,
                                       const float *weights, size_t n_rows)
    void cf_logistic_probabilities(const float *margins, size_t n_rows, float *p)
    ctypedef struct cf_gradient_total:
        float intercept
        double loss
        double weight
    cf_status cf_logistic_gradient(const cf_csr *rows, const float *w, size_t n_weights,
                                   float intercept, float *gradient, cf_gradient_total *total)


def logistic_margins(const int64_t[::1] indptr not None, const uint32_t[::1] indices not None,
                     const float[::1] data not None, const float[::1] w not None,
                     float intercept, float[::1] margins not None):
    """margins[i] = intercept + row i . w; columns beyond w count as weight 0."""
    cdef cf_csr rows
    cdef cf_status status
    _csr(&rows, None, indptr, indices, data, None)
    _need(<size_t>margins.shape[0] == rows.n_rows, "margins must be one shorter than indptr")
    with nogil:
        status = cf_logistic_margins(&rows, _f32(w), <size_t>w.shape[0], intercept,
                                     _f32_out(margins))
    if status.code != CF_OK:
        raise _array_error(status)


def logistic_loss(const float[::1] margins not None, const float[::1] labels not None,
                  const float[::1] weights):
    """(sum of weighted losses in nats, sum of weights, weight of rows classified right)."""
    cdef cf_logistic_total total
    _need(margins.shape[0] == labels.shape[0], "margins and labels must be equally long")
    if weights is not None:
        _need(weights.shape[0] == labels.shape[0], "weights and labels must be equally long")
    with nogil:
        total = cf_logistic_loss(_f32(margins), _f32(labels), _f32(weights),
                                 <size_t>labels.shape[0])
    return total.loss_sum, total.weight_sum, total.correct


def logistic_probabilities(const float[::1] margins not None, float[::1] out not None):
    """out = 1 / (1 + exp(-margins)); may run in place."""
    _need(margins.shape[0] == out.shape[0], "margins and out must be equally long")
    with nogil:
        cf_logistic_probabilities(_f32(margins), <size_t>margins.shape[0], _f32_out(out))


def logistic_gradient(const float[::1] labels not None, const int64_t[::1] indptr not None,
                      const uint32_t[::1] indices not None, const float[::1] data not None,
                      const float[::1] weights, const float[::1] w not None, float intercept,
                      float[::1] gradient not None):
    """Sums over the rows of a mini-batch whose indices count into w.

    Fills gradient (as long as w) and returns (intercept's gradient, loss, weight), all sums.
    """
    cdef cf_csr rows
    cdef cf_gradient_total total
    cdef cf_status status
    cdef _Memory memory
    _csr(&rows, labels, indptr, indices, data, weights)
    _need(gradient.shape[0] == w.shape[0], "gradient must be as long as w")
    cdef float *sums = _f32_out(gradient)
    cdef const float *model = _f32(w)
    memory.n = 0
    _writes(&memory, sums, 4 * <size_t>w.shape[0])
    _reads(&memory, model, 4 * <size_t>w.shape[0])
    _reads_rows(&memory, &rows)
    _need_apart(&memory)
    with nogil:
        status = cf_logistic_gradient(&rows, model, <size_t>w.shape[0], intercept, sums,
                                      &total)
    if status.code != CF_OK:
        raise _array_error(status)
    return total.intercept, total.loss, total.weight


cdef extern from "cf_auc.h" nogil:
    ctypedef struct cf_auc_sums:
        double won
        double positive
        double negative
    cf_auc_sums cf_auc(const float *scores, const float *labels, const float *weights,
                       size_t n_rows, uint64_t *scratch)


def auc(const float[::1] scores not None, const float[::1] labels not None,
        const float[::1] weights, uint64_t[::1] scratch not None):
    """(pairs won by the positive row, sum of weights of positive rows, of negative ones)."""
    cdef size_t n = <size_t>scores.shape[0]
    cdef cf_auc_sums sums
    cdef _Memory memory
    _need(<size_t>labels.shape[0] == n, "scores and labels must be equally long")
    if weights is not None:
        _need(<size_t>weights.shape[0] == n, "weights and scores must be equally long")
    _need(<size_t>scratch.shape[0] // 2 >= n, "scratch must be twice as long as scores")
    cdef const float *first_score = _f32(scores)
    cdef const float *first_label = _f32(labels)
    cdef const float *first_weight = _f32(weights)
    cdef uint64_t *room = _u64_out(scratch)
    memory.n = 0
    _writes(&memory, room, 16 * n)
    _reads(&memory, first_score, 4 * n)
    _reads(&memory, first_label, 4 * n)
    _reads(&memory, first_weight, 4 * n)
    _need_apart(&memory)
    with nogil:
        sums = cf_auc(first_score, first_label, first_weight, n, room)
    return sums.won, sums.positive, sums.negative
