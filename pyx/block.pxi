"""cf_crc32c.h, cf_dictionary.h, cf_dictionary_index.h and cf_block.h: rows to compact blocks and
back.

Scratch and outputs come from the caller (cirrus_fast/data/blocks.py), who asked for their sizes
first. A parsed dictionary holds addresses, so nobody but this file sees its memory.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport INT64_MAX, UINT32_MAX

from cirrus_fast.errors import BlockError as _BlockError


cdef extern from "cf_dictionary.h" nogil:
    ctypedef struct cf_dictionary:
        uint64_t identity
        uint32_t n_ids
    size_t cf_dictionary_build_scratch(size_t nnz)
    size_t cf_dictionary_bound(size_t nnz, uint32_t max_ids)
    cf_status cf_dictionary_build(const cf_kernels *kernels, size_t n_rows, const int64_t *indptr,
                                  const uint32_t *indices, const float *data, uint32_t max_ids,
                                  uint64_t *scratch, uint8_t *out, size_t *n_out)
    cf_status cf_dictionary_measure(const uint8_t *data, size_t n, size_t *n_words)
    cf_status cf_dictionary_parse(const cf_kernels *kernels, const uint8_t *data, size_t n,
                                  int skip_checksum, uint64_t *memory, size_t n_words)

cdef extern from "cf_dictionary_index.h" nogil:
    ctypedef struct cf_dictionary_index:
        pass
    size_t cf_dictionary_index_words(const cf_dictionary *d)
    cf_status cf_dictionary_index_make(const cf_dictionary *d, uint64_t *memory)

cdef extern from "cf_block_columns.h" nogil:
    ctypedef struct cf_block_columns:
        cf_column_table *table
        uint32_t *ones
    bint cf_block_columns_by_id(cf_block_columns *columns, const cf_dictionary *dictionary)

cdef extern from "cf_block.h" nogil:
    enum:
        CF_BLOCK_WEIGHTS
        CF_BLOCK_MAX_ENTRIES
    ctypedef struct cf_block_header:
        uint32_t n_bytes
        unsigned flags
        uint32_t n_rows
        uint32_t nnz
        uint64_t dictionary
    ctypedef struct cf_block_rows:
        float *labels
        int64_t *indptr
        uint32_t *indices
        float *data
        float *weights
        int64_t first_entry
        uint64_t n_features
    ctypedef struct cf_block_options:
        uint32_t base
        int ordered
        int skip_checksum
    ctypedef struct cf_block_minibatches:
        float *labels
        int64_t *indptr
        uint32_t *local
        float *data
        float *weights
        uint32_t *ids
        int64_t *offsets
        uint64_t n_features
    ctypedef struct cf_local_table:
        uint32_t *stamps
        size_t n_stamps
        uint32_t first
    ctypedef struct cf_block_input:
        size_t n_rows
        const float *labels
        const int64_t *indptr
        const uint32_t *indices
        const float *data
        const float *weights
    cf_status cf_block_read_header(const uint8_t *block, size_t n, cf_block_header *header)
    size_t cf_block_decode_scratch(const cf_block_header *header, int ordered)
    cf_status cf_block_decode(const cf_kernels *kernels, const uint8_t *block, size_t n,
                              const cf_block_header *header, const cf_dictionary *dictionary,
                              cf_block_options options, uint64_t *scratch, cf_block_rows *rows)
    size_t cf_block_minibatches_scratch(const cf_block_header *header, size_t minibatch_size)
    size_t cf_block_minibatches_stamps(const cf_block_header *header,
                                       const cf_dictionary *dictionary)
    cf_status cf_block_decode_minibatches(const cf_kernels *kernels, const uint8_t *block, size_t n,
                                          const cf_block_header *header,
                                          const cf_dictionary *dictionary, cf_block_options options,
                                          size_t minibatch_size, cf_local_table *table,
                                          uint64_t *scratch, cf_block_minibatches *out)
    size_t cf_block_encode_scratch(const cf_dictionary_index *index, size_t n_rows, size_t nnz)
    cf_status cf_block_measure(const cf_kernels *kernels, const cf_block_input *rows,
                               const cf_dictionary_index *index, uint64_t *scratch,
                               cf_block_header *header, cf_block_columns *columns)
    void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                       const cf_dictionary_index *index, uint64_t *scratch,
                       const cf_block_header *header, uint8_t *out)

def crc32c(const uint8_t[::1] data not None, uint32_t crc=0):
    """CRC-32C of `data`, going on from `crc`. GIL released."""
    cdef size_t n = <size_t>data.shape[0]
    cdef const uint8_t *p = _u8(data)
    with nogil:
        crc = _kernels.crc32c(crc, p, n)
    return crc


cdef size_t _entries(size_t n_rows, const int64_t[::1] indptr, const uint32_t[::1] indices,
                     const float[::1] data) except? 0:
    """How many entries n_rows rows have whose ends lie inside the arrays."""
    _need(<size_t>indptr.shape[0] == n_rows + 1, "indptr must be one longer than labels")
    cdef const int64_t *positions = _i64(indptr)
    _need(0 <= positions[0] <= positions[n_rows] <= min(indices.shape[0], data.shape[0]),
          "indptr points outside the entries")
    return <size_t>(positions[n_rows] - positions[0])


def dictionary_build_sizes(size_t nnz, uint32_t max_ids):
    """Words of scratch and bytes of output that dictionary_build needs."""
    _need(nnz < UINT32_MAX, "so many entries make no dictionary")
    return cf_dictionary_build_scratch(nnz), cf_dictionary_bound(nnz, max_ids)


def dictionary_build(
    const int64_t[::1] indptr not None,
    const uint32_t[::1] indices not None,
    const float[::1] data not None,
    uint32_t max_ids,
    uint64_t[::1] scratch not None,
    uint8_t[::1] out not None,
):
    """Bytes written to `out`, at least as long as dictionary_build_sizes says. GIL released."""
    cdef size_t n = 0, nnz
    cdef cf_status status
    cdef _Memory memory
    _need(indptr.shape[0] >= 1, "indptr must hold at least one number")
    cdef size_t n_rows = <size_t>indptr.shape[0] - 1
    nnz = _entries(n_rows, indptr, indices, data)
    sizes = dictionary_build_sizes(nnz, max_ids)
    _need(scratch.shape[0] >= sizes[0] and out.shape[0] >= sizes[1], "scratch or out is too short")
    cdef const int64_t *positions = _i64(indptr)
    cdef const uint32_t *ids = _u32(indices)
    cdef const float *values = _f32(data)
    cdef uint64_t *words = _u64_out(scratch)
    cdef uint8_t *to = &out[0]
    memory.n = 0
    _writes(&memory, words, 8 * <size_t>scratch.shape[0])
    _writes(&memory, to, <size_t>out.shape[0])
    _reads(&memory, positions, 8 * (n_rows + 1))
    _reads(&memory, ids, 4 * <size_t>indices.shape[0])
    _reads(&memory, values, 4 * <size_t>data.shape[0])
    _need_apart(&memory)
    with nogil:
        status = cf_dictionary_build(_kernels, n_rows, positions, ids, values, max_ids, words, to,
                                     &n)
    if status.code != CF_OK:
        raise ValueError(_reason(status))
    return n


cdef class ParsedDictionary:
    """A serialised dictionary, checked and ready to use; immutable.

    identity : int, which blocks name it by; n_ids : int
    """

    cdef uint64_t *_memory
    cdef uint64_t *_index
    cdef readonly uint64_t identity
    cdef readonly uint32_t n_ids

    def __cinit__(self, const uint8_t[::1] data not None):
        cdef size_t n = <size_t>data.shape[0], n_words = 0
        cdef const uint8_t *p = _u8(data)
        cdef cf_status status = cf_dictionary_measure(p, n, &n_words)
        if status.code != CF_OK:
            raise _block_error(status, "dictionary: ")
        self._memory = <uint64_t *>PyMem_Malloc(8 * n_words)
        if self._memory == NULL:
            raise MemoryError()
        with nogil:
            status = cf_dictionary_parse(_kernels, p, n, 0, self._memory, n_words)
        if status.code != CF_OK:
            raise _block_error(status, "dictionary: ")
        self.identity = (<const cf_dictionary *>self._memory).identity
        self.n_ids = (<const cf_dictionary *>self._memory).n_ids

    cdef const cf_dictionary_index *index(self) except NULL:
        """What only encoding needs, made by the first who does."""
        cdef const cf_dictionary *parsed = <const cf_dictionary *>self._memory
        cdef uint64_t *made
        cdef cf_status status
        if self._index == NULL:
            made = <uint64_t *>PyMem_Malloc(8 * cf_dictionary_index_words(parsed))
            if made == NULL:
                raise MemoryError()
            with nogil:
                status = cf_dictionary_index_make(parsed, made)
            if status.code != CF_OK:
                PyMem_Free(made)
                raise _block_error(status, "dictionary: ")
            if self._index == NULL:
                self._index = made
            else:  # another thread was faster
                PyMem_Free(made)
        return <const cf_dictionary_index *>self._index

    def move_ones(self, uint32_t[::1] ones_by_rank not None, uint32_t[::1] ones not None):
        """Adds what block_encode has counted by rank to a table by id; zeros stay."""
        cdef cf_column_table table
        cdef cf_block_columns columns
        cdef _Memory memory
        cdef bint fits
        _need(<size_t>ones_by_rank.shape[0] == self.n_ids, "a number for each id is needed")
        table.ones = _u32_out(ones)
        table.n_columns = <size_t>ones.shape[0]
        columns.table = &table
        columns.ones = _u32_out(ones_by_rank)
        memory.n = 0
        _writes(&memory, columns.ones, 4 * <size_t>self.n_ids)
        _writes(&memory, table.ones, 4 * table.n_columns)
        _need_apart(&memory)
        with nogil:
            fits = cf_block_columns_by_id(&columns, <const cf_dictionary *>self._memory)
        _need(fits, "an id that was counted is beyond the table")

    def __dealloc__(self):
        PyMem_Free(self._index)
        PyMem_Free(self._memory)


def block_read_header(const uint8_t[::1] block not None):
    """(n_rows, nnz, has_weights, n_bytes, identity or 0, words of scratch to decode)."""
    cdef cf_block_header header
    _read_header(block, &header)
    return (
        header.n_rows,
        header.nnz,
        (header.flags & CF_BLOCK_WEIGHTS) != 0,
        header.n_bytes,
        header.dictionary,
        cf_block_decode_scratch(&header, 1),
    )


def block_decode(
    const uint8_t[::1] block not None,
    ParsedDictionary dictionary,
    float[::1] labels not None,
    int64_t[::1] indptr not None,
    uint32_t[::1] indices not None,
    float[::1] data not None,
    float[::1] weights,
    uint64_t[::1] scratch not None,
    uint32_t base=0,
    int64_t first_entry=0,
    bint ordered=True,
):
    """Decodes into arrays of exactly the header's sizes; returns 1 + the largest index.

    dictionary : may be None if the block needs none
    scratch : as many words as block_read_header says
    ordered : False for rows in the order of the tiers
    """
    cdef cf_block_header header
    _read_header(block, &header)
    cdef size_t n = <size_t>block.shape[0]
    cdef cf_block_options options
    options.base = base
    options.ordered = ordered
    options.skip_checksum = 0
    cdef cf_block_rows rows
    if (
        labels.shape[0] != header.n_rows
        or indptr.shape[0] != <int64_t>header.n_rows + 1
        or indices.shape[0] != header.nnz
        or data.shape[0] != header.nnz
        or (weights is not None and weights.shape[0] != header.n_rows)
        or <size_t>scratch.shape[0] < cf_block_decode_scratch(&header, 1)
    ):
        raise ValueError("the arrays' lengths are not those of the block's header")
    _need(weights is None or header.flags & CF_BLOCK_WEIGHTS, "the block has no weights to write")
    _need(0 <= first_entry <= INT64_MAX - header.nnz, "first_entry must be 0 or more, and leave "
                                                      "room for the entries")
    rows.labels = _f32_out(labels)
    rows.indptr = _i64_out(indptr)
    rows.indices = _u32_out(indices)
    rows.data = _f32_out(data)
    rows.weights = _f32_out(weights)
    rows.first_entry = first_entry
    cdef uint64_t *words = _u64_out(scratch)
    cdef const uint8_t *p = &block[0]
    cdef const cf_dictionary *shared = _dictionary(dictionary)
    cdef cf_status status
    cdef _Memory memory
    memory.n = 0
    _writes(&memory, rows.labels, 4 * <size_t>header.n_rows)
    _writes(&memory, rows.indptr, 8 * (<size_t>header.n_rows + 1))
    _writes(&memory, rows.indices, 4 * <size_t>header.nnz)
    _writes(&memory, rows.data, 4 * <size_t>header.nnz)
    _writes(&memory, rows.weights, 4 * <size_t>header.n_rows)
    _writes(&memory, words, 8 * cf_block_decode_scratch(&header, 1))
    _reads(&memory, p, header.n_bytes)
    _need_apart(&memory)
    with nogil:
        status = cf_block_decode(_kernels, p, n, &header, shared, options, words, &rows)
    if status.code != CF_OK:
        raise _block_error(status)
    return rows.n_features


cdef class LocalTable:
    """Which ids a mini-batch has had: memory that block_decode_minibatches keeps between calls.

    For one thread at a time.
    """

    cdef cf_local_table _table
    cdef uint64_t _identity
    cdef bint _busy

    cdef int take(self, size_t n_stamps, uint64_t identity) except -1:
        """Makes it ready for blocks with this dictionary, and busy."""
        cdef uint32_t *stamps
        _need(not self._busy, "this table is in use by another thread")
        if self._table.n_stamps < n_stamps or self._identity != identity:
            stamps = <uint32_t *>PyMem_Calloc(n_stamps, 4)
            if stamps == NULL:
                raise MemoryError()
            PyMem_Free(self._table.stamps)
            self._table.stamps = stamps
            self._table.n_stamps = n_stamps
            self._table.first = 1
            self._identity = identity
        self._busy = True
        return 0

    def __dealloc__(self):
        PyMem_Free(self._table.stamps)


def block_minibatches_scratch(const uint8_t[::1] block not None, size_t minibatch_size):
    """Words of scratch that block_decode_minibatches needs."""
    cdef cf_block_header header
    _read_header(block, &header)
    return cf_block_minibatches_scratch(&header, minibatch_size)


def block_decode_minibatches(
    const uint8_t[::1] block not None,
    ParsedDictionary dictionary,
    size_t minibatch_size,
    LocalTable table not None,
    float[::1] labels not None,
    int64_t[::1] indptr not None,
    uint32_t[::1] local not None,
    float[::1] data not None,
    float[::1] weights,
    uint32_t[::1] ids not None,
    int64_t[::1] offsets not None,
    uint64_t[::1] scratch not None,
    uint32_t base=0,
):
    """Decodes into arrays of exactly the header's sizes; returns 1 + the largest index.

    ids : nnz, of which offsets (mini-batches + 1) tells how many are used
    scratch : as many words as block_minibatches_scratch says, or more
    """
    cdef cf_block_header header
    _read_header(block, &header)
    _need(minibatch_size >= 1, "minibatch_size must be at least 1")
    cdef size_t n = <size_t>block.shape[0], n_batches = header.n_rows // minibatch_size
    n_batches += header.n_rows % minibatch_size != 0
    cdef size_t n_words = cf_block_minibatches_scratch(&header, minibatch_size)
    if (
        labels.shape[0] != header.n_rows
        or indptr.shape[0] != <int64_t>header.n_rows + 1
        or local.shape[0] != header.nnz
        or data.shape[0] != header.nnz
        or ids.shape[0] != header.nnz
        or <size_t>offsets.shape[0] != n_batches + 1
        or (weights is not None and weights.shape[0] != header.n_rows)
        or <size_t>scratch.shape[0] < n_words
    ):
        raise ValueError("the arrays' lengths are not those of the block's header")
    cdef cf_block_options options
    options.base = base
    options.ordered = 0
    options.skip_checksum = 0
    cdef cf_block_minibatches out
    out.labels = _f32_out(labels)
    out.indptr = _i64_out(indptr)
    out.local = _u32_out(local)
    out.data = _f32_out(data)
    out.weights = _f32_out(weights)
    out.ids = _u32_out(ids)
    out.offsets = _i64_out(offsets)
    cdef uint64_t *words = _u64_out(scratch)
    cdef const uint8_t *p = &block[0]
    cdef const cf_dictionary *shared = _dictionary(dictionary)
    cdef cf_status status
    cdef _Memory memory
    memory.n = 0
    _writes(&memory, out.labels, 4 * <size_t>header.n_rows)
    _writes(&memory, out.indptr, 8 * (<size_t>header.n_rows + 1))
    _writes(&memory, out.local, 4 * <size_t>header.nnz)
    _writes(&memory, out.data, 4 * <size_t>header.nnz)
    _writes(&memory, out.weights, 4 * <size_t>header.n_rows)
    _writes(&memory, out.ids, 4 * <size_t>header.nnz)
    _writes(&memory, out.offsets, 8 * (n_batches + 1))
    _writes(&memory, words, 8 * n_words)
    _reads(&memory, p, header.n_bytes)
    _need_apart(&memory)
    table.take(cf_block_minibatches_stamps(&header, shared),
               shared.identity if shared != NULL else 0)
    with nogil:
        status = cf_block_decode_minibatches(_kernels, p, n, &header, shared, options,
                                             minibatch_size, &table._table, words, &out)
    table._busy = False
    if status.code != CF_OK:
        raise _block_error(status)
    return out.n_features


def block_encode_scratch(size_t n_rows, size_t nnz, ParsedDictionary dictionary=None):
    """Words of scratch that block_encode needs."""
    _need(n_rows <= CF_BLOCK_MAX_ENTRIES and nnz <= CF_BLOCK_MAX_ENTRIES,
          "too many rows or entries for one block")
    return cf_block_encode_scratch(_index(dictionary), n_rows, nnz)


def block_encode(
    const float[::1] labels not None,
    const int64_t[::1] indptr not None,
    const uint32_t[::1] indices not None,
    const float[::1] data not None,
    const float[::1] weights,
    ParsedDictionary dictionary,
    uint64_t[::1] scratch not None,
    uint32_t[::1] ones=None,
    uint8_t[::1] others=None,
    uint32_t[::1] met=None,
    size_t n_met=0,
    uint32_t[::1] ones_by_rank=None,
):
    """One block as bytes, and how many columns are met. GIL released.

    indptr need not start at 0; scratch has as many words as block_encode_scratch says, or more.
    ones, others, met, n_met : a table as of columns_scan that the entries are added to, or None
    ones_by_rank : the ones of as many of the dictionary's ids, to be added to the table's by
        ParsedDictionary.move_ones
    """
    cdef cf_block_input rows
    rows.n_rows = <size_t>labels.shape[0]
    cdef size_t nnz = _entries(rows.n_rows, indptr, indices, data)
    _need(weights is None or <size_t>weights.shape[0] == rows.n_rows,
          "weights must be as long as labels")
    _need(scratch.shape[0] >= block_encode_scratch(rows.n_rows, nnz, dictionary),
          "scratch is too short")
    rows.labels = _f32(labels)
    rows.indptr = _i64(indptr)
    rows.indices = _u32(indices)
    rows.data = _f32(data)
    rows.weights = _f32(weights)
    cdef float no_weight
    if weights is not None and rows.n_rows == 0:
        rows.weights = &no_weight
    cdef uint64_t *words = _u64_out(scratch)
    cdef const cf_dictionary_index *shared = _index(dictionary)
    cdef cf_block_header header
    cdef cf_status status
    cdef cf_column_table table
    cdef cf_block_columns columns
    cdef cf_block_columns *counted = NULL
    cdef _Memory memory
    memory.n = 0
    _writes(&memory, words, 8 * <size_t>scratch.shape[0])
    table.n_met = 0
    if ones is not None:
        _take_table(&table, ones, others, met, n_met, &memory)
        _need(ones_by_rank is not None and
              <size_t>ones_by_rank.shape[0] == (dictionary.n_ids if dictionary is not None else 0),
              "ones_by_rank must have a number for each id of the dictionary")
        columns.table = &table
        columns.ones = _u32_out(ones_by_rank)
        _writes(&memory, columns.ones, 4 * <size_t>ones_by_rank.shape[0])
        counted = &columns
    _reads(&memory, rows.labels, 4 * rows.n_rows)
    _reads(&memory, rows.indptr, 8 * (rows.n_rows + 1))
    _reads(&memory, rows.indices, 4 * <size_t>indices.shape[0])
    _reads(&memory, rows.data, 4 * <size_t>data.shape[0])
    _reads(&memory, rows.weights, 4 * rows.n_rows)
    _need_apart(&memory)
    with nogil:
        status = cf_block_measure(_kernels, &rows, shared, words, &header, counted)
    if status.code != CF_OK:
        raise ValueError(f"{_reason(status)} (at {status.offset})")
    block = PyBytes_FromStringAndSize(NULL, header.n_bytes)
    cdef uint8_t *out = <uint8_t *>PyBytes_AsString(block)
    with nogil:
        cf_block_fill(_kernels, &rows, shared, words, &header, out)
    return block, table.n_met


cdef const cf_dictionary *_dictionary(ParsedDictionary parsed) noexcept:
    return <const cf_dictionary *>parsed._memory if parsed is not None else NULL


cdef const cf_dictionary_index *_index(ParsedDictionary parsed) except? NULL:
    return parsed.index() if parsed is not None else NULL


cdef int _read_header(const uint8_t[::1] block, cf_block_header *header) except -1:
    cdef size_t n = <size_t>block.shape[0]
    cdef const uint8_t *p = _u8(block)
    cdef cf_status status = cf_block_read_header(p, n, header)
    if status.code != CF_OK:
        raise _block_error(status)
    return 0


cdef object _block_error(cf_status status, str what=""):
    return _BlockError(f"{what}{_reason(status)} (byte {status.offset})")
