"""How commands speak: one JSON document or readable text, progress, notes."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from cirrus_fast.cli import PROGRAM, global_options

# Without a terminal, long work says where it is this often.
_LINE_EVERY_S = 10.0


def command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with the options that all share."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        made = click.command(name)(function)
        with_json = click.Option(
            ["--json", "as_json"], is_flag=True, help="Print one JSON document."
        )
        made.params += [with_json, *global_options()]
        return made

    return wrap


model_option = click.option(
    "-o",
    "--output",
    "model_file",
    type=click.Path(dir_okay=False),
    metavar="MODEL.npz",
    help="Save the model and how it came about here.",
)


# Results


def show_json(payload: Mapping[str, Any]) -> None:
    """One document on standard output; what JSON has no number for is null."""
    click.echo(json_text(payload))


def json_text(payload: Mapping[str, Any]) -> str:
    return json.dumps(_plain(payload), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def show_facts(facts: Mapping[str, str | None]) -> None:
    """Lines of "name  value", aligned; a fact that is None is left out."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name:<{width}}  {value}")


def show_table(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> None:
    """A table of text. `columns`: heading -> "left" or "right"."""
    click.echo(table_text(columns, rows))


def table_text(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold", pad_edge=False)
    for heading, side in columns.items():
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no edge to cut lines at.
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


# Numbers


def size(n_bytes: float) -> str:
    """'53.1 MB'"""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB"


def span(seconds: float) -> str:
    """'0.25 s', '3 min 20 s'"""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def number_of(n: int, thing: str, things: str | None = None) -> str:
    """'1 worker', '2 workers'; `things` where the plural is another."""
    return f"{n:,} {thing if n == 1 else things or f'{thing}s'}"


def row_rate(rows: float, seconds: float) -> str:
    """'1,300,000 rows/s', three digits of it"""
    per_second = rows / max(seconds, 1e-9)
    digits = 3 - len(f"{per_second:.0f}")
    return f"{round(per_second, min(digits, 0)):,.0f} rows/s"


def byte_rate(n_bytes: float, seconds: float) -> str:
    """'94.2 MB/s'"""
    return f"{size(n_bytes / max(seconds, 1e-9))}/s"


def loss_text(loss: float | None) -> str:
    return "-" if loss is None or not math.isfinite(loss) else f"{loss:.5f}"


def dollars(amount: float) -> str:
    """'$12.30', '$0.0042'"""
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return f"${float(f'{amount:.2g}'):.10f}".rstrip("0")


# Meanwhile


@contextmanager
def progress(what: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    """Gives a function to call with how much is done, of `total` bytes, rows or models.

    A bar on a terminal; elsewhere a line now and then, and none if the work is short.
    """
    if not sys.stderr.isatty():
        yield _line_teller(what, total, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    amounts: dict[str, ProgressColumn] = {
        "bytes": DownloadColumn(),
        "models": MofNCompleteColumn(),
        "rows": TextColumn("{task.completed:,.0f} rows"),
    }
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amounts[unit],
        TimeElapsedColumn(),
        *([] if total is None else [TextColumn("left"), TimeRemainingColumn()]),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _line_teller(what: str, total: float | None, unit: str) -> Callable[[float], None]:
    last = time.monotonic()

    def tell(done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            amount = size(done) if unit == "bytes" else f"{done:,.0f} {unit}"
            share = f" ({done / total:.0%})" if total else ""
            click.echo(f"{PROGRAM}: {what}: {amount}{share}", err=True)

    return tell


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{PROGRAM}: note: {record.getMessage()}", err=True)


@contextmanager
def show_notices() -> Iterator[None]:
    """The package's one-line messages go to standard error meanwhile."""
    logger, handler = logging.getLogger("cirrus_fast"), _Notes()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


# Files


def refuse_existing(path: str, overwrite: bool) -> None:
    """Data that somebody may want is replaced only on request."""
    from cirrus_fast.data.storage import local_path
    from cirrus_fast.errors import CirrusFastError

    if not overwrite and local_path(path).is_file():
        raise CirrusFastError(f"{path}: exists; replace it with --overwrite")


def check_folder(path: str | None) -> None:
    """An output that cannot be written is refused before the work, not after it."""
    from cirrus_fast.data.storage import local_path
    from cirrus_fast.errors import StorageError

    if path is None:
        return
    target = local_path(path)
    if target.is_dir():
        raise StorageError(f"{path}: is a folder; name a file in it")
    if target.exists() and not target.is_file():  # a device or a pipe, written to as it is
        if not os.access(target, os.W_OK):
            raise StorageError(f"{path}: cannot be written")
        return
    # The file will be renamed into its place, so it is the folder that must be writable; one that
    # is not there yet will be made, but not before there is something to put into it.
    for folder in target.resolve().parents:
        if folder.exists():
            if not folder.is_dir():
                raise StorageError(f"{path}: {folder} is not a folder")
            try:
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
            return
