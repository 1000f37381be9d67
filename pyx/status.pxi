"""cf_status.h: codes and their texts."""

cdef extern from "cf_status.h" nogil:
    ctypedef enum cf_code:
        CF_OK
        CF_E_ROOM
        CF_N_CODES
    ctypedef struct cf_status:
        cf_code code
        size_t offset
    const char *cf_strerror(cf_code code)


def status_texts():
    """Every status text of the core in the order of their codes; the first is success."""
    return [cf_strerror(<cf_code>code).decode("ascii") for code in range(CF_N_CODES)]


cdef str _reason(cf_status status):
    return cf_strerror(status.code).decode("ascii")
