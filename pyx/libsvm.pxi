"""cf_libsvm.h and cf_number.h: LibSVM text to CSR and back."""

from libc.stdint cimport INT64_MAX

from cirrus_fast.errors import LibsvmParseError as _LibsvmParseError

cdef extern from "cf_number.h" nogil:
    ctypedef enum cf_number_kind:
        CF_NUMBER_NONE
    ctypedef struct cf_number:
        double value
        const uint8_t *stop
        cf_number_kind kind
    cf_number cf_number_read(const uint8_t *p, const uint8_t *end)
    size_t cf_number_format(float value, uint8_t *out)

cdef extern from "cf_libsvm.h" nogil:
    enum:
        CF_LIBSVM_REFUSE_ZERO
        CF_LIBSVM_WEIGHTS
        CF_LIBSVM_NONFINITE
        CF_LIBSVM_SKIP
        CF_LIBSVM_CAREFUL
        CF_LIBSVM_MAX_ID
        CF_LIBSVM_ROW_TEXT
        CF_LIBSVM_ENTRY_TEXT
    ctypedef struct cf_libsvm_options:
        unsigned flags
        unsigned hash_bits
        uint32_t base
        int64_t max_id
    ctypedef struct cf_libsvm_rows:
        size_t row_room, entry_room
        float *labels
        int64_t *row_ends
        uint32_t *indices
        float *data
        float *weights
        uint64_t *scratch
        int64_t entry_base
        size_t n_rows, n_entries
        uint32_t min_id, max_id
        size_t n_skipped
        cf_status first_skipped
    void cf_libsvm_range(const uint8_t *text, size_t n, size_t begin, size_t end, size_t *first,
                         size_t *last)
    void cf_libsvm_measure(const cf_kernels *kernels, const uint8_t *text, size_t first,
                           size_t last, size_t *n_rows, size_t *n_entries)
    size_t cf_libsvm_count(const uint8_t *text, size_t n, size_t first, size_t last)
    ctypedef struct cf_libsvm_piece:
        size_t begin, end, n_rows, n_entries
    size_t cf_libsvm_cut(const cf_kernels *kernels, const uint8_t *text, size_t n, size_t before,
                         size_t step, cf_libsvm_piece *pieces)
    size_t cf_libsvm_skip(const uint8_t *text, size_t n, size_t *n_lines)
    cf_status cf_libsvm_fill(const cf_kernels *kernels, const cf_libsvm_options *options,
                             const uint8_t *text, size_t n, size_t first, size_t last,
                             cf_libsvm_rows *rows)
    void cf_libsvm_locate(const cf_kernels *kernels, const uint8_t *text, size_t offset,
                          size_t *line, size_t *column)
    uint32_t cf_libsvm_hash(uint64_t id, unsigned bits)
    cf_status cf_libsvm_write(const float *labels, const int64_t *indptr, const uint32_t *indices,
                              const float *data, const float *weights, size_t begin, size_t end,
                              uint32_t base, uint8_t *out, size_t *n_written)


def number_read(const uint8_t[::1] text not None):
    """(kind, value, length) of the number at the start of `text`; 0: none, 1: digits, 2: word."""
    cdef size_t n = <size_t>text.shape[0]
    if n == 0:
        return CF_NUMBER_NONE, 0.0, 0
    cdef const uint8_t *p = &text[0]
    cdef cf_number number
    with nogil:
        number = cf_number_read(p, p + n)
    return <int>number.kind, number.value, number.stop - p


def number_format(float value):
    """The shortest text that reads back to this float32."""
    cdef uint8_t text[32]
    cdef size_t n = cf_number_format(value, text)
    return text[:n].decode("ascii")


def libsvm_hash(uint64_t index, unsigned bits):
    """What hash_bits=bits makes of an index: the top bits of splitmix64's finaliser."""
    if not 1 <= bits <= 32:
        raise ValueError("bits must be 1 to 32")
    return cf_libsvm_hash(index, bits)


def libsvm_range(const uint8_t[::1] text not None, size_t begin, size_t end):
    """(first, last, n_rows, n_entries): the lines that start in [begin, end), and upper bounds."""
    cdef size_t n = <size_t>text.shape[0]
    cdef size_t first = 0, last = 0, n_rows = 0, n_entries = 0
    if not begin <= end <= n:
        raise ValueError("need begin <= end <= len(text)")
    if n == 0:
        return 0, 0, 0, 0
    cdef const uint8_t *p = &text[0]
    with nogil:
        cf_libsvm_range(p, n, begin, end, &first, &last)
        cf_libsvm_measure(_kernels, p, first, last, &n_rows, &n_entries)
    return first, last, n_rows, n_entries


def libsvm_count(const uint8_t[::1] text not None, size_t first, size_t last):
    """The rows among the lines text[first:last), which libsvm_range found; exact."""
    cdef size_t n = <size_t>text.shape[0]
    cdef size_t n_rows
    if not first <= last <= n:
        raise ValueError("need first <= last <= len(text)")
    if first == last:
        return 0
    _need_lines(text, first, last)
    cdef const uint8_t *p = &text[0]
    with nogil:
        n_rows = cf_libsvm_count(p, n, first, last)
    return n_rows


def libsvm_cut(const uint8_t[::1] text not None, size_t before, size_t step):
    """[(begin, end, n_rows, n_entries)] of the lines that begin in `step` bytes each, counted from
    `before` bytes before the text on; without those that have no rows. Rows are exact, entries a
    bound."""
    cdef size_t n = <size_t>text.shape[0], n_pieces = 0
    _need(step > 0, "step must be at least 1")
    if n == 0:
        return []
    cdef const uint8_t *p = &text[0]
    room = bytearray((n // step + 2) * sizeof(cf_libsvm_piece))
    cdef uint8_t[::1] view = room
    cdef cf_libsvm_piece *pieces = <cf_libsvm_piece *>&view[0]
    with nogil:
        n_pieces = cf_libsvm_cut(_kernels, p, n, before, step, pieces)
    return [(pieces[i].begin, pieces[i].end, pieces[i].n_rows, pieces[i].n_entries)
            for i in range(n_pieces)]


def libsvm_skip(const uint8_t[::1] text not None, size_t n_lines):
    """(behind, found): where n_lines line ends are behind one, or, if there are fewer, the length
    of the text; and how many there are."""
    cdef size_t n = <size_t>text.shape[0], behind
    cdef const uint8_t *p = _u8(text)
    if n == 0:
        return 0, 0
    with nogil:
        behind = cf_libsvm_skip(p, n, &n_lines)
    return behind, n_lines


def libsvm_lines(const uint8_t[::1] text not None, size_t begin, size_t end):
    """(first, last): the lines that start in [begin, end), without a look at what is in them."""
    cdef size_t n = <size_t>text.shape[0]
    cdef size_t first = 0, last = 0
    if not begin <= end <= n:
        raise ValueError("need begin <= end <= len(text)")
    if n == 0:
        return 0, 0
    cdef const uint8_t *p = &text[0]
    with nogil:
        cf_libsvm_range(p, n, begin, end, &first, &last)
    return first, last


cdef object _parse_error(const uint8_t *text, cf_status status, kind=_LibsvmParseError):
    cdef size_t line = 0, column = 0
    with nogil:
        cf_libsvm_locate(_kernels, text, status.offset, &line, &column)
    return kind(_reason(status), offset=status.offset, line=line, column=column)


cdef int _need_lines(const uint8_t[::1] text, size_t first, size_t last) except -1:
    cdef size_t n = <size_t>text.shape[0]
    return _need((first == 0 or first == n or text[first - 1] == 10)
                 and (last == 0 or last == n or text[last - 1] == 10),
                 "first and last must be starts of lines")


def libsvm_fill(
    const uint8_t[::1] text not None,
    size_t first,
    size_t last,
    float[::1] labels not None,
    int64_t[::1] row_ends not None,
    uint32_t[::1] indices not None,
    float[::1] data not None,
    float[::1] weights,
    uint64_t[::1] scratch,
    int64_t entry_base,
    *,
    bint refuse_zero,
    bint nonfinite,
    bint skip,
    unsigned hash_bits,
    uint32_t base,
    int64_t max_id,
    bint careful=False,
):
    """Parses the lines text[first:last), which libsvm_range found, into the arrays.

    Returns (n_rows, n_entries, min_id, max_id, n_skipped, first_skipped); the ids are None without
    entries, first_skipped is a LibsvmParseError or None. Raises the first error unless `skip`.
    """
    cdef size_t n = <size_t>text.shape[0]
    cdef cf_libsvm_options options
    cdef cf_libsvm_rows rows
    cdef cf_status status
    cdef _Memory memory
    if not first <= last <= n:
        raise ValueError("need first <= last <= len(text)")
    _need_lines(text, first, last)
    if row_ends.shape[0] != labels.shape[0] or data.shape[0] != indices.shape[0]:
        raise ValueError("outputs disagree in length")
    if weights is not None and weights.shape[0] != labels.shape[0]:
        raise ValueError("weights and labels disagree in length")
    if hash_bits > 32 or (hash_bits > 0 and (scratch is None or base != 0)):
        raise ValueError("hashing needs 1 to 32 bits, scratch and base 0")
    if hash_bits > 0 and scratch.shape[0] < indices.shape[0]:
        raise ValueError("scratch is shorter than indices")
    if not 0 <= entry_base <= INT64_MAX - indices.shape[0]:
        raise ValueError("entry_base must be 0 or more, and leave room for the entries")
    if not -1 <= max_id <= CF_LIBSVM_MAX_ID:
        raise ValueError("max_id must be -1 to 2**32 - 2")
    if first == last:
        return 0, 0, None, None, 0, None
    rows.row_room = <size_t>labels.shape[0]
    rows.entry_room = <size_t>indices.shape[0]
    rows.labels = _f32_out(labels)
    rows.row_ends = _i64_out(row_ends)
    rows.indices = _u32_out(indices)
    rows.data = _f32_out(data)
    rows.weights = _f32_out(weights)
    rows.scratch = _u64_out(scratch) if hash_bits > 0 and rows.entry_room else NULL
    rows.entry_base = entry_base
    rows.n_rows = rows.n_entries = rows.n_skipped = 0
    rows.min_id = rows.max_id = 0
    options.flags = (
        (CF_LIBSVM_REFUSE_ZERO if refuse_zero else 0)
        | (CF_LIBSVM_WEIGHTS if weights is not None else 0)
        | (CF_LIBSVM_NONFINITE if nonfinite else 0)
        | (CF_LIBSVM_SKIP if skip else 0)
        | (CF_LIBSVM_CAREFUL if careful else 0)
    )
    options.hash_bits = hash_bits
    options.base = base
    options.max_id = max_id
    cdef const uint8_t *p = &text[0]
    memory.n = 0
    _writes(&memory, rows.labels, 4 * rows.row_room)
    _writes(&memory, rows.row_ends, 8 * rows.row_room)
    _writes(&memory, rows.indices, 4 * rows.entry_room)
    _writes(&memory, rows.data, 4 * rows.entry_room)
    _writes(&memory, rows.weights, 4 * rows.row_room)
    _writes(&memory, rows.scratch, 8 * rows.entry_room)
    _reads(&memory, p, n)
    _need_apart(&memory)
    with nogil:
        status = cf_libsvm_fill(_kernels, &options, p, n, first, last, &rows)
    if status.code == CF_E_ROOM:
        raise RuntimeError("the text changed while it was parsed")
    if status.code != CF_OK:
        raise _parse_error(p, status)
    return (
        rows.n_rows,
        rows.n_entries,
        rows.min_id if rows.n_entries else None,
        rows.max_id if rows.n_entries else None,
        rows.n_skipped,
        _parse_error(p, rows.first_skipped) if rows.n_skipped else None,
    )


def libsvm_write(
    const float[::1] labels not None,
    const int64_t[::1] indptr not None,
    const uint32_t[::1] indices not None,
    const float[::1] data not None,
    const float[::1] weights,
    size_t begin,
    size_t end,
    uint32_t base,
):
    """Rows [begin, end) as text. (bytes, None), or (reason, row or entry at fault)."""
    cdef size_t n_entries, n_written = 0
    cdef cf_status status
    if not begin < end <= <size_t>labels.shape[0] < <size_t>indptr.shape[0]:
        raise ValueError("need begin < end <= len(labels) < len(indptr)")
    if weights is not None and weights.shape[0] != labels.shape[0]:
        raise ValueError("weights and labels disagree in length")
    _need(base <= CF_LIBSVM_MAX_ID, "base must be at most the largest id")
    cdef const int64_t *positions = _i64(indptr)
    if not 0 <= positions[begin] <= positions[end] <= min(indices.shape[0], data.shape[0]):
        raise ValueError("indptr points outside the entries")
    n_entries = <size_t>(positions[end] - positions[begin])
    out = bytearray((end - begin) * CF_LIBSVM_ROW_TEXT + n_entries * CF_LIBSVM_ENTRY_TEXT)
    cdef uint8_t[::1] view = out
    cdef uint8_t *p = &view[0]
    with nogil:
        status = cf_libsvm_write(_f32(labels), positions, _u32(indices), _f32(data),
                                 _f32(weights), begin, end, base, p, &n_written)
    if status.code != CF_OK:
        return _reason(status), status.offset
    return memoryview(out)[:n_written], None
