"""cf_criteo.h: rows of Criteo's click logs to CSR."""

from cirrus_fast.errors import CriteoParseError as _CriteoParseError

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"

cdef extern from "cf_criteo.h" nogil:
    enum:
        CF_CRITEO_MIN_BITS
        CF_CRITEO_MAX_BITS
        CF_CRITEO_SKIP
    ctypedef struct cf_criteo_layout:
        uint8_t separator
        c_bool has_id
        c_bool has_label
        c_bool has_header
    ctypedef struct cf_criteo_options:
        cf_criteo_layout layout
        unsigned flags
        unsigned bits
    ctypedef struct cf_criteo_rows:
        size_t row_room, entry_room
        float *labels
        int64_t *row_ends
        uint32_t *indices
        float *data
        size_t n_rows, n_entries
        size_t n_skipped
        cf_status first_skipped
    cf_status cf_criteo_layout_read(const uint8_t *text, size_t n, cf_criteo_layout *layout,
                                    size_t *rows_begin)
    void cf_criteo_measure(const cf_kernels *kernels, const uint8_t *text, size_t first,
                           size_t last, size_t *n_rows, size_t *n_entries)
    cf_status cf_criteo_fill(const cf_criteo_options *options, const uint8_t *text, size_t n,
                             size_t first, size_t last, cf_criteo_rows *rows)
    uint32_t cf_criteo_id(unsigned column, const uint8_t *cell, size_t n, unsigned bits)


CRITEO_BITS = (CF_CRITEO_MIN_BITS, CF_CRITEO_MAX_BITS)


def criteo_id(unsigned column, const uint8_t[::1] cell not None, unsigned bits):
    """The id of a category; column 1 is C1."""
    if not 1 <= column <= 26 or not CF_CRITEO_MIN_BITS <= bits <= CF_CRITEO_MAX_BITS:
        raise ValueError("column must be 1 to 26, bits 5 to 31")
    if cell.shape[0] == 0:
        raise ValueError("an empty cell has no id")
    return cf_criteo_id(column, &cell[0], <size_t>cell.shape[0], bits)


def criteo_layout(const uint8_t[::1] text not None, bint has_label):
    """(separator, has_id, has_label, has_header, rows_begin) of a file, from its start.

    `has_label` says it where no header does. Raises CriteoParseError for an unknown header.
    """
    cdef size_t n = <size_t>text.shape[0]
    cdef cf_criteo_layout layout
    cdef size_t rows_begin = 0
    cdef cf_status status
    if n == 0:
        return ord(","), False, has_label, False, 0
    cdef const uint8_t *p = &text[0]
    layout.has_label = has_label
    with nogil:
        status = cf_criteo_layout_read(p, n, &layout, &rows_begin)
    if status.code != CF_OK:
        raise _parse_error(p, status, _CriteoParseError)
    return (
        layout.separator,
        bool(layout.has_id),
        bool(layout.has_label),
        bool(layout.has_header),
        rows_begin,
    )


def criteo_range(const uint8_t[::1] text not None, size_t begin, size_t end):
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
        cf_criteo_measure(_kernels, p, first, last, &n_rows, &n_entries)
    return first, last, n_rows, n_entries


def criteo_fill(
    const uint8_t[::1] text not None,
    size_t first,
    size_t last,
    float[::1] labels not None,
    int64_t[::1] row_ends not None,
    uint32_t[::1] indices not None,
    float[::1] data not None,
    *,
    uint8_t separator,
    bint has_id,
    bint has_label,
    unsigned bits,
    bint skip,
):
    """Reads the lines text[first:last), which criteo_range found, into the arrays.

    Returns (n_rows, n_entries, n_skipped, first_skipped), the last a CriteoParseError or None.
    Raises the first error unless `skip`.
    """
    cdef size_t n = <size_t>text.shape[0]
    cdef cf_criteo_options options
    cdef cf_criteo_rows rows
    cdef cf_status status
    cdef _Memory memory
    if not first <= last <= n:
        raise ValueError("need first <= last <= len(text)")
    _need_lines(text, first, last)
    if row_ends.shape[0] != labels.shape[0] or data.shape[0] != indices.shape[0]:
        raise ValueError("outputs disagree in length")
    if not CF_CRITEO_MIN_BITS <= bits <= CF_CRITEO_MAX_BITS:
        raise ValueError("bits must be 5 to 31")
    if separator not in (ord("\t"), ord(",")):
        raise ValueError("cells are parted by tabs or commas")
    if first == last:
        return 0, 0, 0, None
    rows.row_room = <size_t>labels.shape[0]
    rows.entry_room = <size_t>indices.shape[0]
    rows.labels = _f32_out(labels)
    rows.row_ends = _i64_out(row_ends)
    rows.indices = _u32_out(indices)
    rows.data = _f32_out(data)
    rows.n_rows = rows.n_entries = rows.n_skipped = 0
    options.layout.separator = separator
    options.layout.has_id = has_id
    options.layout.has_label = has_label
    options.layout.has_header = False
    options.flags = CF_CRITEO_SKIP if skip else 0
    options.bits = bits
    cdef const uint8_t *p = &text[0]
    memory.n = 0
    _writes(&memory, rows.labels, 4 * rows.row_room)
    _writes(&memory, rows.row_ends, 8 * rows.row_room)
    _writes(&memory, rows.indices, 4 * rows.entry_room)
    _writes(&memory, rows.data, 4 * rows.entry_room)
    _reads(&memory, p, n)
    _need_apart(&memory)
    with nogil:
        status = cf_criteo_fill(&options, p, n, first, last, &rows)
    if status.code == CF_E_ROOM:
        raise RuntimeError("the text changed while it was parsed")
    if status.code != CF_OK:
        raise _parse_error(p, status, _CriteoParseError)
    return (
        rows.n_rows,
        rows.n_entries,
        rows.n_skipped,
        _parse_error(p, rows.first_skipped, _CriteoParseError) if rows.n_skipped else None,
    )
