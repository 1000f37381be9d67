"""cf_bitfield.h: weights in a plain Redis string."""

from libc.stdint cimport int32_t

cdef extern from "cf_bitfield.h" nogil:
    size_t CF_BITFIELD_MOST
    ctypedef struct cf_bitfield_reply:
        bint began
        size_t done
    size_t cf_bitfield_room(size_t key_bytes, size_t n_add, size_t n_get)
    size_t cf_bitfield_pack(const uint8_t *key, size_t key_bytes, const uint32_t *add_places,
                            const int32_t *amounts, size_t n_add, const uint32_t *get_places,
                            size_t n_get, uint8_t *out)
    cf_status cf_bitfield_read(const uint8_t *bytes, size_t n, int32_t *values, size_t n_values,
                               cf_bitfield_reply *reply, size_t *used)
    void cf_bitfield_decode(const uint8_t *bytes, size_t n, int32_t *values)
    void cf_bitfield_encode(const int32_t *values, size_t n, uint8_t *bytes)

BITFIELD_MOST = CF_BITFIELD_MOST

cdef inline const int32_t *_i32(const int32_t[::1] view) except? NULL nogil:
    return <const int32_t *>_aligned(&view[0], 4) if view is not None and view.shape[0] else NULL

cdef inline int32_t *_i32_out(int32_t[::1] view) except? NULL nogil:
    return <int32_t *>_aligned(&view[0], 4) if view is not None and view.shape[0] else NULL


def bitfield_room(size_t key_bytes, size_t n_add, size_t n_get):
    """Bytes that a command of so many additions and reads has at most."""
    return cf_bitfield_room(key_bytes, n_add, n_get)


def bitfield_pack(const uint8_t[::1] key not None, const uint32_t[::1] add_places not None,
                  const int32_t[::1] amounts not None, const uint32_t[::1] get_places not None,
                  uint8_t[::1] out not None):
    """Writes one command into `out`; returns its length.

    amounts : int32, one for each of add_places; both with get_places at most BITFIELD_MOST
    """
    cdef size_t n_key = <size_t>key.shape[0], n_add = <size_t>add_places.shape[0]
    cdef size_t n_get = <size_t>get_places.shape[0], n_bytes
    _need(<size_t>amounts.shape[0] == n_add, "amounts must be as many as their places")
    _need(0 < n_add + n_get <= CF_BITFIELD_MOST, "too many places for one command, or none")
    _need(<size_t>out.shape[0] >= cf_bitfield_room(n_key, n_add, n_get), "out is too small")
    cdef const uint32_t *adds = _u32(add_places)
    cdef const uint32_t *gets = _u32(get_places)
    cdef const int32_t *by = _i32(amounts)
    cdef _Memory memory
    memory.n = 0
    _writes(&memory, &out[0], <size_t>out.shape[0])
    _reads(&memory, _u8(key), n_key)
    _reads(&memory, adds, 4 * n_add)
    _reads(&memory, by, 4 * n_add)
    _reads(&memory, gets, 4 * n_get)
    _need_apart(&memory)
    with nogil:
        n_bytes = cf_bitfield_pack(_u8(key), n_key, adds, by, n_add, gets, n_get, &out[0])
    return n_bytes


cdef class BitfieldReply:
    """The reply to one command, read as it comes in.

    values : int32, filled in the order of the command's additions and reads
    """

    cdef cf_bitfield_reply _c
    cdef readonly object values
    cdef int32_t *_into
    cdef size_t _n

    def __cinit__(self, int32_t[::1] values not None):
        self.values = values
        self._into = _i32_out(values)
        self._n = <size_t>values.shape[0]
        self._c.began = False
        self._c.done = 0

    @property
    def complete(self):
        return self._c.began and self._c.done == self._n

    def read(self, const uint8_t[::1] buffer not None, size_t begin, size_t end):
        """Reads on in buffer[begin:end]; returns the byte after what was read.

        Raises KernelError for bytes that are no such reply; its entry is the place in the buffer.
        """
        cdef size_t used = 0
        cdef cf_status status
        _need(begin <= end and end <= <size_t>buffer.shape[0], "begin and end must lie in buffer")
        with nogil:
            status = cf_bitfield_read(_u8(buffer) + begin, end - begin, self._into, self._n,
                                      &self._c, &used)
        if status.code != CF_OK:
            status.offset += begin
            raise _array_error(status)
        return begin + used


def bitfield_decode(const uint8_t[::1] data not None, int32_t[::1] values not None):
    """The numbers in a string as the server keeps it, 4 big-endian bytes each."""
    cdef size_t n = <size_t>values.shape[0]
    _need(<size_t>data.shape[0] == 4 * n, "data must be 4 bytes for each of values")
    cdef int32_t *into = _i32_out(values)
    with nogil:
        cf_bitfield_decode(_u8(data), n, into)


def bitfield_encode(const int32_t[::1] values not None, uint8_t[::1] out not None):
    """The other way round."""
    cdef size_t n = <size_t>values.shape[0]
    _need(<size_t>out.shape[0] == 4 * n, "out must be 4 bytes for each of values")
    cdef const int32_t *source = _i32(values)
    with nogil:
        cf_bitfield_encode(source, n, &out[0] if n else NULL)
