"""Every exception this package raises on purpose.

Each also subclasses the built-in that callers already catch for that kind of trouble, so
``except ValueError`` around a parse, or ``except OSError`` around storage, keeps working.
"""

from __future__ import annotations

from typing import Any


class CirrusFastError(Exception):
    """Base of all errors of this package."""


class ParseError(CirrusFastError, ValueError):
    """Text that is not what the contract of its format accepts.

    Attributes
    ----------
    reason : str, one of the core's status texts
    offset : int, 0-based byte in the whole input (file, object or buffer)
    line, column : int, 1-based, or None where the text before `offset` was not at hand
    source : str or None, the file or object
    """

    def __init__(
        self,
        reason: str,
        *,
        offset: int,
        line: int | None = None,
        column: int | None = None,
        source: str | None = None,
    ) -> None:
        self.reason = reason
        self.offset = offset
        self.line = line
        self.column = column
        self.source = source
        where = f"byte {offset}"
        if line is not None:
            where = f"line {line}, column {column}, {where}"
        prefix = f"{source}: " if source else ""
        super().__init__(f"{prefix}{reason} ({where})")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default protocol, and errors cross processes.
        place = (self.reason, self.offset, self.line, self.column, self.source)
        return _rebuild_parse_error, (type(self), *place)


def _rebuild_parse_error(
    kind: type[ParseError],
    reason: str,
    offset: int,
    line: int | None,
    column: int | None,
    source: str | None,
) -> ParseError:
    return kind(reason, offset=offset, line=line, column=column, source=source)


class LibsvmParseError(ParseError):
    """LibSVM text that cannot be read; see `ParseError`."""


class CriteoParseError(ParseError):
    """Criteo rows that cannot be read; see `ParseError`."""


class KernelError(CirrusFastError, ValueError):
    """Arrays that a kernel refused; `entry` is the row or entry its reason speaks of."""

    def __init__(self, reason: str, entry: int) -> None:
        super().__init__(reason, entry)
        self.reason = reason
        self.entry = entry

    def __str__(self) -> str:
        return f"{self.reason} (entry {self.entry})"


class SkippedRowsWarning(UserWarning):
    """skip_bad_rows=True left rows out; the message says how many and what the first one was."""


class BlockError(CirrusFastError, ValueError):
    """A shard block that is damaged, truncated, or not a block at all."""


class DatasetError(CirrusFastError, ValueError):
    """A data set that does not exist, is incomplete, or does not fit what is asked of it."""


class StorageError(CirrusFastError, OSError):
    """Reading or writing storage failed; the message names the object."""


class OptionError(CirrusFastError, ValueError):
    """An option is unknown, out of range, or means nothing where it was given."""


class ModelError(CirrusFastError, ValueError):
    """A model file is damaged, or data does not fit the model."""


class TrainingError(CirrusFastError, RuntimeError):
    """A run that cannot go on."""


class StoreError(TrainingError):
    """A parameter store that cannot be reached, lost the run, or refuses what is asked of it."""


class LayerError(CirrusFastError, RuntimeError):
    """A Lambda layer that cannot be built from the wheels and interpreters at hand."""


class DeploymentError(CirrusFastError, RuntimeError):
    """Something on AWS that is not there, not ours, or not allowed."""


class FunctionError(TrainingError):
    """A Lambda function that is not there, not ours, of another version, or may not be used."""


class WorkerDiedError(TrainingError):
    """A worker ended without an answer.

    Attributes
    ----------
    kind : died, sandbox died, out of memory, timed out, or unavailable: it was never there
    answer_lost : the way to it broke, and it may go on
    """

    def __init__(self, message: str, kind: str = "died", *, answer_lost: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.answer_lost = answer_lost

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_worker_died, (str(self), self.kind, self.answer_lost)


def _rebuild_worker_died(message: str, kind: str, answer_lost: bool) -> WorkerDiedError:
    return WorkerDiedError(message, kind, answer_lost=answer_lost)


def told(name: str, message: str, arguments: dict[str, Any]) -> CirrusFastError:
    """An error that was told in JSON; one that is not of this package becomes a TrainingError."""
    kind = globals().get(name)
    if not (isinstance(kind, type) and issubclass(kind, CirrusFastError)):
        return TrainingError(f"{name}: {message}")
    return kind(**arguments) if arguments else kind(message)
