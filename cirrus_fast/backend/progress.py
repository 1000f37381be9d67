"""Telling a person how a run goes: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from cirrus_fast.data.result import Record

if TYPE_CHECKING:
    from rich.progress import Progress


class Reporter(Protocol):
    """Use as a context manager around the run."""

    def __enter__(self) -> Reporter: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def rows(self, rows: int) -> None: ...
    def record(self, record: Record) -> None: ...


def reporter(wanted: bool | None, total_rows: int) -> Reporter:
    """`wanted` None: only if standard error is a terminal."""
    if sys.stderr is None:  # a daemon, or a window without a console
        return Silent()
    terminal = sys.stderr.isatty()
    if wanted is False or (wanted is None and not terminal):
        return Silent()
    return Live(total_rows) if terminal else Lines()


def describe(record: Record) -> str:
    """'train 0.4512  test 0.4447  auc 0.8061'"""
    parts = [f"train {record.train_loss:.4f}"]
    if record.test_loss is not None:
        parts.append(f"test {record.test_loss:.4f}")
    if record.auc is not None:
        parts.append(f"auc {record.auc:.4f}")
    return "  ".join(parts)


def moving_line(what: str, counted: str, total: int) -> Progress:
    """A line on standard error, a terminal, with one task: a bar, what is counted of it, the time,
    and its field `said`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    line = Progress(
        TextColumn(what),
        BarColumn(),
        TextColumn(counted),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True),
        transient=True,
    )
    line.add_task(what, total=total, said="")
    return line


class Silent:
    """Says nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def rows(self, rows: int) -> None:
        pass

    def record(self, record: Record) -> None:
        pass


class Lines(Silent):
    """A line for each evaluation."""

    def record(self, record: Record) -> None:
        print(
            f"{record.seconds:8.2f} s  {record.rows:>12,} rows  {describe(record)}",
            file=sys.stderr,
            flush=True,
        )


class Live(Silent):
    """One line that moves."""

    def __init__(self, total_rows: int) -> None:
        self._progress = moving_line(
            "training", "{task.completed:,.0f} of at most {task.total:,.0f} rows", total_rows
        )
        (self._task,) = self._progress.task_ids

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def rows(self, rows: int) -> None:
        self._progress.update(self._task, completed=rows)

    def record(self, record: Record) -> None:
        self._progress.update(self._task, completed=record.rows, said=describe(record))
