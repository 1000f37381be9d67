"""Chunks of text to rows, whatever the text's format; errors name the place in the source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from cirrus_fast.data.criteo import CriteoLayout, parse_criteo_range, read_layout
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.sources import Chunk, Source
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
    """Rows with their ids as they are to be stored, and what was left out on the way to them."""

    rows: CSR
    n_skipped: int = 0
    first_skipped: ParseError | None = None


class TextReader(Protocol):
    """Reads one format. `read` may be called on many threads."""

    def chunks(self, source: Source) -> Iterator[Chunk]:
        """The source in pieces that `read` takes."""

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

    def chunks(self, source: Source) -> Iterator[Chunk]:
        return source.chunks()

    def read(self, chunk: Chunk) -> Part:
        return self._read(chunk, lambda *of: parse_text(*of, **self._options))

    def reusing_memory(self) -> Callable[[Chunk], Part]:
        """`read`, but into memory that each thread uses again: its rows are good until its next
        call. Fresh pages cost a third of parsing."""
        kept = threading.local()

        def read(chunk: Chunk) -> Part:
            if not hasattr(kept, "parser"):
                kept.parser = TextParser(**self._options)
            return self._read(chunk, kept.parser.parse)

        return read

    @property
    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _read(self, chunk: Chunk, parse: Callable[[Buffer, int, int], ParsedText]) -> Part:
        try:
            text = parse(chunk.buffer, chunk.begin, chunk.end)
        except ParseError as error:
            raise _placed(error, chunk) from error
        width = 0 if text.max_index is None else text.max_index + 1
        rows = CSR(text.labels, text.indptr, text.indices, text.data, width, text.weights)
        return Part(rows, text.n_skipped, _placed_or_none(text.first_skipped, chunk))

    def refuse_largest(self, chunk: Chunk) -> None:
        """Raises the error of the first row with the index `max_index`, if there is one.

        For who learns only at the end that one less was the limit. Cheap: a bisection, which reads
        the chunk about twice.
        """
        strict = replace(self, max_index=self.max_index - 1, skip_bad_rows=True)
        lax = replace(self, skip_bad_rows=True)
        while chunk.end - chunk.begin > 1:
            middle = (chunk.begin + chunk.end) // 2
            left = replace(chunk, end=middle)
            if strict.read(left).n_skipped > lax.read(left).n_skipped:
                chunk = left
            else:
                chunk = replace(chunk, begin=middle)
        replace(strict, skip_bad_rows=False).read(chunk)


@dataclass(frozen=True, slots=True)
class CriteoReader:
    """Options as for `data.criteo`."""

    bits: int
    has_labels: bool | None = None
    skip_bad_rows: bool = False

    def chunks(self, source: Source) -> Iterator[Chunk]:
        """Chunks that know the layout of their source."""
        layout = CriteoLayout()
        for chunk in source.chunks():
            if chunk.starts_source:
                try:
                    layout = read_layout(chunk.buffer, has_labels=self.has_labels)
                except ParseError as error:
                    raise _placed(error, chunk) from error
            yield replace(chunk, layout=layout)

    def read(self, chunk: Chunk) -> Part:
        layout = chunk.layout
        assert isinstance(layout, CriteoLayout)
        begin = min(max(chunk.begin, layout.rows_begin - chunk.offset), chunk.end)
        try:
            parsed = parse_criteo_range(
                chunk.buffer,
                begin,
                chunk.end,
                layout=layout,
                bits=self.bits,
                skip_bad_rows=self.skip_bad_rows,
            )
        except ParseError as error:
            raise _placed(error, chunk) from error
        return Part(parsed.rows, parsed.n_skipped, _placed_or_none(parsed.first_skipped, chunk))


def _placed(error: ParseError, chunk: Chunk) -> ParseError:
    return rebase(error, offset=chunk.offset, line=chunk.line + 1, source=chunk.source)


def _placed_or_none(error: ParseError | None, chunk: Chunk) -> ParseError | None:
    return None if error is None else _placed(error, chunk)
