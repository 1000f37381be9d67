"""Rows of Criteo's click logs; the format is described in csrc/cf_criteo.h and docs/data.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.arguments import check_count, check_flag
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.text import Buffer, as_text, check_range, trim
from cirrus_fast.errors import CriteoParseError

#: The first ids are the integer columns.
N_INTEGERS = 13
MIN_BITS, MAX_BITS = _kernels.CRITEO_BITS
DEFAULT_BITS = 19


@dataclass(frozen=True, slots=True)
class CriteoLayout:
    """How the rows of a file are written.

    Attributes
    ----------
    separator : of cells, tab or comma
    has_id : the first cell is an id, which means nothing here
    has_label : without, labels are 0
    rows_begin : byte of the file, behind the header
    """

    separator: str = "\t"
    has_id: bool = False
    has_label: bool = True
    rows_begin: int = 0


def read_layout(buffer: Buffer, *, has_labels: bool | None = None) -> CriteoLayout:
    """The layout of a file, from its start.

    has_labels : whether rows without a header start with a label (None: yes); a header that says
        otherwise is refused, as is an unknown one, with CriteoParseError
    """
    text = as_text(buffer)
    separator, has_id, has_label, has_header, begin = _kernels.criteo_layout(
        text, has_labels is not False
    )
    if has_header and has_labels not in (None, has_label):
        reason = f"header {'has a' if has_label else 'has no'} label column: has_labels is wrong"
        raise CriteoParseError(reason, offset=0, line=1, column=1)
    return CriteoLayout(chr(separator), has_id, has_label, begin)


@dataclass(frozen=True, slots=True, eq=False)
class ParsedCriteo:
    """The rows of a byte range, how many were left out, and what was wrong with the first."""

    rows: CSR
    n_skipped: int
    first_skipped: CriteoParseError | None


def parse_criteo_range(
    buffer: Buffer,
    begin: int = 0,
    end: int | None = None,
    *,
    layout: CriteoLayout,
    bits: int = DEFAULT_BITS,
    skip_bad_rows: bool = False,
) -> ParsedCriteo:
    """The rows whose first byte lies in buffer[begin:end], as `data.text.parse_text` has it.

    A header is no row: no range may begin before layout.rows_begin.
    """
    text = as_text(buffer)
    begin, end = check_range(begin, end, len(text))
    bits = check_bits(bits)
    skip = check_flag("skip_bad_rows", skip_bad_rows)
    first, last, n_rows, n_entries = _kernels.criteo_range(text, begin, end)
    labels = np.empty(n_rows, np.float32)
    indptr = np.empty(n_rows + 1, np.int64)
    indices = np.empty(n_entries, np.uint32)
    data = np.empty(n_entries, np.float32)
    indptr[0] = 0
    n_rows, n_entries, n_skipped, first_skipped = _kernels.criteo_fill(
        text,
        first,
        last,
        labels,
        indptr[1:],
        indices,
        data,
        separator=ord(layout.separator),
        has_id=layout.has_id,
        has_label=layout.has_label,
        bits=bits,
        skip=skip,
    )
    rows = CSR(
        trim(labels, n_rows),
        trim(indptr, n_rows + 1),
        trim(indices, n_entries),
        trim(data, n_entries),
        1 << bits,
    )
    return ParsedCriteo(rows, n_skipped, first_skipped)


def parse_criteo(
    buffer: Buffer, bits: int = DEFAULT_BITS, *, has_labels: bool | None = None
) -> CSR:
    """All rows of a text with or without header; see `cirrus_fast.load_criteo`."""
    layout = read_layout(buffer, has_labels=has_labels)
    return parse_criteo_range(buffer, layout.rows_begin, layout=layout, bits=bits).rows


def check_bits(bits: int) -> int:
    checked = check_count("bits", bits, MIN_BITS, MAX_BITS)
    return DEFAULT_BITS if checked is None else checked
