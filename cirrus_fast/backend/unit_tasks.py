"""Making the units of a data set on an executor: tasks handed out, their records put together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from typing import Any, Literal

from cirrus_fast._version import __version__
from cirrus_fast.backend.aws_lambda import LambdaExecutor
from cirrus_fast.backend.processes import ProcessExecutor
from cirrus_fast.data import units
from cirrus_fast.data.columns import ColumnStatistics
from cirrus_fast.data.dataset_writer import DatasetWriter
from cirrus_fast.data.loading import Total
from cirrus_fast.data.parallel import thread_count
from cirrus_fast.data.storage import absolute, is_s3
from cirrus_fast.data.units import Damaged, MergedColumns
from cirrus_fast.errors import DatasetError, OptionError, StorageError, WorkerDiedError
from cirrus_fast.notices import notice
from cirrus_fast.runtime.tasks import run_task

# Tasks handed to an executor that knows how many of them it runs at a time.
_AT_ONCE = 1000
# Tasks that are given to another when their process dies, until that is taken for the task's fault.
_MOST_DEATHS = 5

TaskExecutor = Literal["processes", "lambda"] | Executor


class UnitTasks:
    """Makes units elsewhere: `data.loading.write_dataset` calls it with what writes the rest.

    Parameters
    ----------
    n_at_once : tasks under way at once; None: as many as the executor takes
    n_units : they are numbered from 0
    common : what all tasks are told; kind, more : of the one that makes a unit, and what it is told
    make_dictionary : makes one that is not there, by a task or here
    scan : whether columns are looked at
    """

    def __init__(
        self,
        executor: TaskExecutor,
        n_at_once: int | None,
        n_units: int,
        kind: str,
        more: Callable[[DatasetWriter], dict[str, Any]],
        make_dictionary: Callable[[DatasetWriter, Callable[[dict[str, Any]], Any]], None],
        on_progress: Callable[[int], object] | None,
        *,
        scan: bool,
    ) -> None:
        self._executor, self._n_at_once, self._n_units = executor, n_at_once, n_units
        self._kind, self._more, self._make_dictionary = kind, more, make_dictionary
        self._on_progress, self._scan = on_progress, scan

    def __call__(self, writer: DatasetWriter) -> tuple[Total, ColumnStatistics]:
        check_reach(self._executor, [writer.storage.uri])
        with _opened(self._executor, self._n_at_once) as (executor, most):
            folder = {
                "version": __version__,
                "folder": absolute(writer.storage.uri),
                "token": writer.token,
            }
            if writer.dictionary is None:
                self._make_dictionary(
                    writer, lambda task: _ask(executor, json.dumps(task | folder)).result()
                )
            writer.head()
            common = folder | {"dictionary": writer.dictionary_name}
            self._run(executor, most, writer, common)
        return self._put_together(writer)

    def _run(
        self, executor: Executor, most: int, writer: DatasetWriter, common: dict[str, Any]
    ) -> None:
        more = self._more(writer)
        todo = list(range(self._n_units))[::-1]
        under_way: dict[Future[str], int] = {}
        deaths = done = 0
        try:
            while todo or under_way:
                while todo and len(under_way) < most:
                    number = todo.pop()
                    task = {"kind": self._kind, **more}
                    if number in writer.left:
                        task = {"kind": "look again", "scan": self._scan}
                    spec = json.dumps(task | common | {"number": number})
                    under_way[_ask(executor, spec)] = number
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    number = under_way.pop(future)
                    try:
                        answer = json.loads(future.result())
                    except WorkerDiedError as error:
                        deaths += 1
                        if deaths > _MOST_DEATHS:
                            raise StorageError(
                                f"given up after {deaths} deaths: {error}"
                            ) from error
                        notice(f"{error}; another does its part")
                        todo.append(number)
                        continue
                    except BrokenExecutor as error:
                        raise StorageError(f"the executor broke: {error}") from error
                    if "damaged" in answer:
                        raise Damaged(answer["damaged"])
                    done += self._note(writer, number)
                    if self._on_progress is not None:
                        self._on_progress(done)
        finally:
            for future in under_way:
                future.cancel()
            wait([future for future in under_way if not future.cancelled()])

    def _note(self, writer: DatasetWriter, number: int) -> int:
        """How much of the source a unit is."""
        unit = units.read_record(writer.storage, units.record_name(writer.token, number))
        if unit is None:
            raise Damaged(f"the record of unit {number} is damaged")
        writer.note_record(unit)
        writer.take_unit(unit)
        return unit.amount

    def _put_together(self, writer: DatasetWriter) -> tuple[Total, ColumnStatistics]:
        total, ones = Total(), MergedColumns()
        for _, unit in sorted(writer.units.items()):
            found = {}
            for kind in ("others", "ones"):
                name = units.columns_name(writer.token, unit.number, kind)
                raw = writer.storage.read(name)
                found[kind] = ColumnStatistics.from_bytes(raw, f"{writer.storage.uri}/{name}")
            total.add(unit, found["others"])
            ones.add(found["ones"])
        return total, total.columns(ones.all())


@contextmanager
def _opened(executor: TaskExecutor, n_at_once: int | None) -> Iterator[tuple[Executor, int]]:
    """(the executor, how many tasks it is given at once)"""
    if isinstance(executor, Executor):
        yield executor, n_at_once or _AT_ONCE
        return
    if executor == "lambda":
        with LambdaExecutor() as functions:
            yield functions, n_at_once or _AT_ONCE
        return
    with ProcessExecutor() as processes:
        yield processes, thread_count(n_at_once)


def check_executor(executor: object) -> TaskExecutor | None:
    """Refuses what runs no tasks. None: this process does it."""
    if executor is None or executor == "local":
        return None
    if executor in ("processes", "lambda") or isinstance(executor, Executor):
        return executor
    raise OptionError(
        f'executor={executor!r}: give "local", "processes", "lambda" or a '
        "concurrent.futures.Executor"
    )


def check_reach(executor: TaskExecutor, uris: Iterable[str]) -> None:
    """Refuses places that functions on AWS Lambda would look for on a disk of their own."""
    if executor != "lambda" and not isinstance(executor, LambdaExecutor):
        return
    for uri in uris:
        if not is_s3(uri):
            raise OptionError(
                f"{uri}: is on this machine, where executor=lambda cannot reach it: text and data "
                "sets must be in S3, which configure(storage=...) says for names"
            )


def refuse_streams(name: str) -> DatasetError:
    return DatasetError(
        f"{name}: standard input and compressed text cannot be cut into parts for workers; unpack "
        "it, or leave executor= out"
    )


def _ask(executor: Executor, spec: str) -> Future[str]:
    try:
        return executor.submit(run_task, spec)
    except BrokenExecutor as error:
        raise StorageError(f"the executor broke: {error}") from error
