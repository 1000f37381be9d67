# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=False

"""The C core, seen from Python. One thin wrapper per header of csrc/, one file each.

A wrapper checks shapes, pins buffers, drops the GIL, calls, and turns a status into an exception;
a loop over rows or entries is a kernel that belongs in csrc/.
"""

include "status.pxi"
include "dispatch.pxi"
include "arrays.pxi"
include "csr.pxi"
include "columns.pxi"
include "localize.pxi"
include "logistic.pxi"
include "prepare.pxi"
include "claim.pxi"
include "optimizer.pxi"
include "train.pxi"
include "grid.pxi"
include "step.pxi"
include "bitfield.pxi"
include "replica.pxi"
include "libsvm.pxi"
include "criteo.pxi"
include "block.pxi"
