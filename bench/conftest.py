"""How a benchmark measures, and what it notes for the report.

`measure(group, name, function)` times one contender. The name decides what it is: "cirrus_fast"
begins ours, "limit:" what the machine can do at best, anything else is a peer. What must be equal
is compared by the benchmark before it calls `measure`: a wrong answer fails, and gets no time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import cirrus_fast
from bench import data, ours

SECONDS = float(os.environ.get("CIRRUS_FAST_BENCH_SECONDS", "5"))
"""About how long each contender is measured, warming up aside."""
FEWEST_ROUNDS = 1 if SECONDS < 1 else 5
MOST_ROUNDS = 100


class ToldClock:
    """A clock that moves only when told: for peers that say themselves how long they took."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = ToldClock()
told = pytest.mark.benchmark(timer=CLOCK)
"""Marks a benchmark that uses `measure.told`."""


def in_turns(functions: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each function's calls, one after another, round by round: for contenders so close
    that a neighbour who is busy for a second would decide between them."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    ends = time.perf_counter() + SECONDS * len(functions)
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() > ends:
            break
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            found[name].append(time.perf_counter() - began)
    return found


class Measure:
    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark

    def __call__(
        self,
        group: str,
        name: str,
        function: Callable[[], object],
        *,
        n_rows: int = 0,
        n_bytes: int = 0,
        rounds: int | None = None,
        **notes: object,
    ) -> Any:
        """Times the function; a given number of rounds means no warming up either."""
        self._note(group, name, n_rows, n_bytes, notes)
        if rounds is not None:
            return self._benchmark.pedantic(function, rounds=rounds)
        began = time.perf_counter()
        function()
        took = max(time.perf_counter() - began, 1e-7)
        iterations = max(1, int(0.01 / took))
        rounds = int(min(max(SECONDS / (took * iterations), FEWEST_ROUNDS), MOST_ROUNDS))
        return self._benchmark.pedantic(function, rounds=rounds, iterations=iterations)

    def told(
        self,
        group: str,
        name: str,
        seconds: Iterable[float],
        *,
        n_rows: int = 0,
        n_bytes: int = 0,
        **notes: object,
    ) -> None:
        """Notes seconds measured elsewhere; the benchmark is marked with `told`."""
        self._note(group, name, n_rows, n_bytes, notes)
        found = list(seconds)
        left = iter(found)

        def advance() -> None:
            CLOCK.now += next(left)

        self._benchmark.pedantic(advance, rounds=len(found))

    def _note(
        self, group: str, name: str, n_rows: int, n_bytes: int, notes: dict[str, object]
    ) -> None:
        self._benchmark.group = group
        self._benchmark.extra_info.update(
            name=name,
            n_rows=n_rows,
            n_bytes=n_bytes,
            impl=cirrus_fast.active_impl(),
            notes={key: value for key, value in notes.items() if value is not None},
        )


@pytest.fixture
def measure(benchmark: Any) -> Measure:
    return Measure(benchmark)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Training and test rows as data sets: their names."""
    folder = tmp_path_factory.mktemp("datasets")
    train = ours.load(data.train_path(), folder / "train", 2)
    ours.load(data.test_path(), folder / "test", 2, like=train)
    return str(folder / "train"), str(folder / "test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ours: measured again under every implementation")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", help="write here, as JSON, what was not measured and why")


class _Outcomes:
    """What did not come to be measured: a missing peer, a wrong answer, a crash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed:
            return
        if isinstance(report.longrepr, tuple):  # skipped: file, line, reason
            reason = report.longrepr[2].removeprefix("Skipped: ")
        else:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else str(report.longrepr)
        name = report.nodeid.rpartition("/")[2].partition("::")[2].removeprefix("bench_")
        first_line = reason.strip().partition("\n")[0][:200]
        self._found.append({"name": name, "outcome": report.outcome, "reason": first_line})

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._found))


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    target = session.config.getoption("--outcomes")
    if target:
        session.config.pluginmanager.register(_Outcomes(Path(target)))
