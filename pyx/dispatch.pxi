"""cf_dispatch.h: the table of kernels this process uses, chosen once, at import."""

import os as _os

from libc.stdint cimport uint8_t, uint32_t

cdef extern from "cf_dispatch.h" nogil:
    ctypedef struct cf_kernels:
        const char *name
        unsigned needs
        uint32_t (*crc32c)(uint32_t crc, const uint8_t *data, size_t n) noexcept nogil
    unsigned cf_cpu_features()
    const cf_kernels *cf_kernels_at(size_t i)


def implementations():
    """Names of the kernel tables this CPU can run, best first; "scalar" is always the last."""
    names = []
    cdef size_t i = 0
    cdef const cf_kernels *table = cf_kernels_at(i)
    while table != NULL:
        if table.needs & ~cf_cpu_features() == 0:
            names.append(table.name.decode("ascii"))
        i += 1
        table = cf_kernels_at(i)
    return names


cdef const cf_kernels *_find_kernels(str forced) except NULL:
    names = implementations()
    if forced and forced not in names:
        raise ImportError(
            f"CIRRUS_FAST_FORCE_IMPL={forced}: this CPU and build have {', '.join(names)}"
        )
    wanted = (forced or names[0]).encode("ascii")
    cdef size_t i = 0
    while cf_kernels_at(i).name != <bytes>wanted:
        i += 1
    return cf_kernels_at(i)


cdef const cf_kernels *_kernels = _find_kernels(_os.environ.get("CIRRUS_FAST_FORCE_IMPL", ""))


def active_impl():
    """Name of the kernel table in use."""
    return _kernels.name.decode("ascii")
