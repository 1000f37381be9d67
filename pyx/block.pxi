"""cf_crc32c.h, cf_dictionary.h and cf_block.h: rows to compact blocks and back.

Scratch and outputs come from the caller (cirrus_fast/data/blocks.py), who asked for their sizes
first; a parsed dictionary is an array of words that is only read.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

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

cdef extern from "cf_block.h" nogil:
    enum:
        CF_BLOCK_WEIGHTS
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
    size_t cf_block_encode_scratch(size_t n_rows, size_t nnz)
    cf_status cf_block_measure(const cf_block_input *rows, const cf_dictionary *dictionary,
                               uint64_t *scratch, cf_block_header *header)
    void cf_block_fill(const cf_kernels *kernels, const cf_block_input *rows,
                       const cf_dictionary *dictionary, uint64_t *scratch,
                       const cf_block_header *header, uint8_t *out)

def crc32c(const uint8_t[::1] data not None, uint32_t crc=0):
    """CRC-32C of `data`, going on from `crc`. GIL released."""
    cdef size_t n = <size_t>data.shape[0]
    cdef const uint8_t *p = &data[0] if n else NULL
    with nogil:
        crc = _kernels.crc32c(crc, p, n)
    return crc


def dictionary_build_sizes(size_t nnz, uint32_t max_ids):
    """Words of scratch and bytes of output that dictionary_build needs."""
    return cf_dictionary_build_scratch(nnz), cf_dictionary_bound(nnz, max_ids)


def dictionary_build(
    const int64_t[::1] indptr not None,
    const uint32_t[::1] indices not None,
    const float[::1] data not None,
    uint32_t max_ids,
    uint64_t[::1] scratch not None,
    uint8_t[::1] out not None,
):
    """Bytes written to `out`. GIL released."""
    cdef size_t n = 0
    cdef size_t n_rows = <size_t>indptr.shape[0] - 1
    cdef const uint32_t *ids = &indices[0] if indices.shape[0] else NULL
    cdef const float *values = &data[0] if data.shape[0] else NULL
    cdef cf_status status
    with nogil:
        status = cf_dictionary_build(_kernels, n_rows, &indptr[0], ids, values, max_ids,
                                     &scratch[0], &out[0], &n)
    if status.code != CF_OK:
        raise ValueError(_reason(status))
    return n


def dictionary_measure(const uint8_t[::1] data not None):
    """Words that dictionary_parse needs for these bytes."""
    cdef size_t n = <size_t>data.shape[0]
    cdef const uint8_t *p = &data[0] if n else NULL
    cdef size_t n_words = 0
    cdef cf_status status = cf_dictionary_measure(p, n, &n_words)
    if status.code != CF_OK:
        raise _block_error(status, "dictionary: ")
    return n_words


def dictionary_parse(const uint8_t[::1] data not None, uint64_t[::1] memory not None):
    """Fills `memory`, which is the parsed dictionary; returns (identity, number of ids)."""
    cdef size_t n = <size_t>data.shape[0]
    cdef size_t n_words = <size_t>memory.shape[0]
    cdef const uint8_t *p = &data[0] if n else NULL
    cdef uint64_t *words = &memory[0] if n_words else NULL
    cdef cf_status status
    with nogil:
        status = cf_dictionary_parse(_kernels, p, n, 0, words, n_words)
    if status.code != CF_OK:
        raise _block_error(status, "dictionary: ")
    cdef const cf_dictionary *dictionary = <const cf_dictionary *>words
    return dictionary.identity, dictionary.n_ids


def block_read_header(const uint8_t[::1] block not None):
    """(n_rows, nnz, has_weights, n_bytes, identity or 0, words of scratch to decode in order)."""
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
    const uint64_t[::1] dictionary,
    float[::1] labels not None,
    int64_t[::1] indptr not None,
    uint32_t[::1] indices not None,
    float[::1] data not None,
    float[::1] weights,
    uint64_t[::1] scratch,
    uint32_t base=0,
    int64_t first_entry=0,
):
    """Decodes into arrays of exactly the header's sizes; returns 1 + the largest index.

    dictionary : a parsed dictionary's memory, or None
    scratch : as many words as block_read_header says, or None for rows in the order of the tiers
    """
    cdef cf_block_header header
    _read_header(block, &header)
    cdef size_t n = <size_t>block.shape[0]
    cdef cf_block_options options
    options.base = base
    options.ordered = scratch is not None
    options.skip_checksum = 0
    cdef cf_block_rows rows
    if (
        labels.shape[0] != header.n_rows
        or indptr.shape[0] != <int64_t>header.n_rows + 1
        or indices.shape[0] != header.nnz
        or data.shape[0] != header.nnz
        or (weights is not None and weights.shape[0] != header.n_rows)
        or (scratch is not None
            and <size_t>scratch.shape[0] < cf_block_decode_scratch(&header, 1))
    ):
        raise ValueError("the arrays' lengths are not those of the block's header")
    rows.labels = &labels[0] if header.n_rows else NULL
    rows.indptr = &indptr[0]
    rows.indices = &indices[0] if header.nnz else NULL
    rows.data = &data[0] if header.nnz else NULL
    rows.weights = &weights[0] if weights is not None and header.n_rows else NULL
    rows.first_entry = first_entry
    cdef uint64_t *words = &scratch[0] if scratch is not None and scratch.shape[0] else NULL
    cdef const cf_dictionary *shared = _dictionary(dictionary)
    cdef cf_status status
    with nogil:
        status = cf_block_decode(_kernels, &block[0], n, &header, shared, options, words, &rows)
    if status.code != CF_OK:
        raise _block_error(status)
    return rows.n_features


def block_encode_scratch(size_t n_rows, size_t nnz):
    """Words of scratch that block_encode needs."""
    return cf_block_encode_scratch(n_rows, nnz)


def block_encode(
    const float[::1] labels not None,
    const int64_t[::1] indptr not None,
    const uint32_t[::1] indices not None,
    const float[::1] data not None,
    const float[::1] weights,
    const uint64_t[::1] dictionary,
    uint64_t[::1] scratch not None,
):
    """One block as bytes. indptr[0] to indptr[-1] must lie inside indices and data (the caller
    checks); what is between them, and the order of ids, is checked here. GIL released."""
    cdef cf_block_input rows
    rows.n_rows = <size_t>labels.shape[0]
    rows.labels = &labels[0] if rows.n_rows else NULL
    rows.indptr = &indptr[0]
    rows.indices = &indices[0] if indices.shape[0] else NULL
    rows.data = &data[0] if data.shape[0] else NULL
    rows.weights = &weights[0] if weights is not None and rows.n_rows else <const float *>NULL
    cdef float no_weight
    if weights is not None and rows.n_rows == 0:
        rows.weights = &no_weight
    cdef const cf_dictionary *shared = _dictionary(dictionary)
    cdef cf_block_header header
    cdef cf_status status
    with nogil:
        status = cf_block_measure(&rows, shared, &scratch[0], &header)
    if status.code != CF_OK:
        raise ValueError(f"{_reason(status)} (at {status.offset})")
    block = PyBytes_FromStringAndSize(NULL, header.n_bytes)
    cdef uint8_t *out = <uint8_t *>PyBytes_AsString(block)
    with nogil:
        cf_block_fill(_kernels, &rows, shared, &scratch[0], &header, out)
    return block


cdef const cf_dictionary *_dictionary(const uint64_t[::1] memory) noexcept:
    return <const cf_dictionary *>&memory[0] if memory is not None else NULL


cdef int _read_header(const uint8_t[::1] block, cf_block_header *header) except -1:
    cdef size_t n = <size_t>block.shape[0]
    cdef const uint8_t *p = &block[0] if n else NULL
    cdef cf_status status = cf_block_read_header(p, n, header)
    if status.code != CF_OK:
        raise _block_error(status)
    return 0


cdef object _block_error(cf_status status, str what=""):
    return _BlockError(f"{what}{_reason(status)} (byte {status.offset})")
