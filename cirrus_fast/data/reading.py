"""Chunks of text to rows, whatever the text's format; errors name the place in the source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

from cirrus_fast.data.criteo import CriteoLayout, parse_criteo_range, read_layout
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.sources import Chunk, Source, Wanted
from cirrus_fast.data.text import (
    MAX_INDEX,
    Buffer,
    ParsedText,
    TextParser,
    parse_text,
    rebase,
)
from cirrus_fast.errors import ParseError


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows with their ids as they are to be stored, and what was left out on the way to them.

    ids : the smallest and the largest, where who read them knows; None as well where there are none
    """

    rows: CSR
    ids: tuple[int, int] | None = None
    n_skipped: int = 0
    first_skipped: Callable[[], ParseError] | None = None  # to count its line takes a while


class TextReader(Protocol):
    """Reads one format. `read` may be called on many threads."""

    def chunks(self, source: Source, wanted: Wanted | None = None) -> Iterator[Chunk]:
        """The source in pieces that `read` takes; of the wanted units."""

    def read(self, chunk: Chunk) -> Part:
        """The rows of a chunk."""


@dataclass(frozen=True, slots=True)
class LibsvmReader:
    """Options as for `data.text.parse_text`; ids stay as written, or are hashed."""

    zero_based: bool | None = None
    max_index: int = MAX_INDEX
    hash_bits: int | None = None
    label_weights: bool = False
    allow_nonfinite: bool = False
    skip_bad_rows: bool = False

    def chunks(self, source: Source, wanted: Wanted | None = None) -> Iterator[Chunk]:
        return source.chunks(wanted=wanted)

    def read(self, chunk: Chunk) -> Part:
        return self._parse(lambda text: parse_text(text, **self._options), chunk.read(), chunk)

    def by_lines(self, n_lines: int) -> Callable[[Chunk], Iterator[Part]]:
        """What reads chunks so many lines at a time, which the nearer caches hold, into memory that
        each thread uses again: rows are good until the next are asked for."""
        kept = threading.local()

        def read(chunk: Chunk) -> Iterator[Part]:
            if not hasattr(kept, "parser"):
                kept.parser = TextParser(**self._options)
            for begin, text in chunk.pieces(n_lines):
                yield self._parse(kept.parser.parse, text, chunk, begin)

        return read

    @property
    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _parse(
        self, parse: Callable[[Buffer], ParsedText], text: Buffer, chunk: Chunk, begin: int = 0
    ) -> Part:
        """begin : where the text begins in the chunk"""
        try:
            parsed = parse(text)
        except ParseError as error:
            raise _placed(error, chunk, begin) from error
        width = 0 if parsed.max_index is None else parsed.max_index + 1
        rows = CSR(parsed.labels, parsed.indptr, parsed.indices, parsed.data, width, parsed.weights)
        part = _part(rows, parsed.n_skipped, parsed.first_skipped, chunk, begin)
        if parsed.min_index is None or parsed.max_index is None:
            return part
        return replace(part, ids=(parsed.min_index, parsed.max_index))

    def refuse_largest(self, chunk: Chunk) -> None:
        """Raises the error of the first row with the index `max_index`, if there is one.

        For who learns only at the end that one less was the limit. Cheap: a bisection, which reads
        the chunk about twice.
        """
        text = bytes(chunk.read())
        strict = replace(self, max_index=self.max_index - 1, skip_bad_rows=True)
        lax = replace(self, skip_bad_rows=True)
        begin, end = 0, len(text)
        while end - begin > 1:
            middle = (begin + end) // 2
            strictly, laxly = (
                parse_text(text, begin, middle, **reader._options).n_skipped
                for reader in (strict, lax)
            )
            begin, end = (begin, middle) if strictly > laxly else (middle, end)
        refusing = replace(strict, skip_bad_rows=False)._options
        refusing |= {"begin": begin, "end": end}
        self._parse(lambda whole: parse_text(whole, **refusing), text, chunk)


@dataclass(frozen=True, slots=True)
class CriteoReader:
    """Options as for `data.criteo`."""

    bits: int
    has_labels: bool | None = None
    skip_bad_rows: bool = False

    def chunks(self, source: Source, wanted: Wanted | None = None) -> Iterator[Chunk]:
        """Chunks that know the layout of their source."""
        layout, of = CriteoLayout(), None
        for chunk in source.chunks(wanted=wanted):
            if chunk.starts_source:
                layout, of = self._layout(chunk), chunk.source
            elif chunk.source != of:  # the wanted units begin in its midst
                first = next(iter(Source((chunk.source,)).chunks()))
                layout, of = self._layout(first), chunk.source
            yield replace(chunk, layout=layout)

    def _layout(self, first: Chunk) -> CriteoLayout:
        try:
            return read_layout(first.read(), has_labels=self.has_labels)
        except ParseError as error:
            raise _placed(error, first) from error

    def read(self, chunk: Chunk) -> Part:
        layout = chunk.layout
        assert isinstance(layout, CriteoLayout)
        begin = min(max(0, layout.rows_begin - chunk.offset), chunk.n_bytes)
        try:
            parsed = parse_criteo_range(
                chunk.read(),
                begin,
                layout=layout,
                bits=self.bits,
                skip_bad_rows=self.skip_bad_rows,
            )
        except ParseError as error:
            raise _placed(error, chunk) from error
        return _part(parsed.rows, parsed.n_skipped, parsed.first_skipped, chunk)


def _part(
    rows: CSR, n_skipped: int, first_skipped: ParseError | None, chunk: Chunk, begin: int = 0
) -> Part:
    if first_skipped is None:
        return Part(rows, n_skipped=n_skipped)
    return Part(rows, None, n_skipped, partial(_placed, first_skipped, chunk, begin))


def _placed(error: ParseError, chunk: Chunk, begin: int = 0) -> ParseError:
    """The error of a text that begins there in the chunk as one of the source."""
    before = chunk.lines_before(begin)
    line = None if before is None else before + 1
    return rebase(error, offset=chunk.offset + begin, line=line, source=chunk.source)
