"""pytest-benchmark's JSON as tables: peers side by side, then ours under every implementation.

Ratio = time of a contender for a row / ours, the fastest of the group (above 1, ours is faster).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS, LIMIT = "cirrus_fast", "limit:"


@dataclass(frozen=True, slots=True)
class Run:
    """One contender of a group."""

    group: str
    name: str
    impl: str
    n_rows: int
    n_bytes: int
    median: float
    spread: float
    rounds: int
    notes: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)

    @property
    def is_peer(self) -> bool:
        return not self.is_ours and not self.name.startswith(LIMIT)

    @property
    def cost(self) -> float:
        """Seconds a row: peers of a group may be given different numbers of rows."""
        return self.median / max(self.n_rows, 1)


@dataclass(slots=True)
class Measured:
    """All that a report is made of.

    Attributes
    ----------
    main : every contender, under `impl`      others : ours, under the other implementations
    outcomes : what was not measured, and why
    """

    impl: str
    machine: dict[str, Any]
    main: list[Run]
    others: list[Run] = field(default_factory=list)
    outcomes: list[dict[str, str]] = field(default_factory=list)


def read_runs(measured: Path) -> tuple[dict[str, Any], list[Run]]:
    """The machine, and the runs in the order they were made."""
    raw = json.loads(measured.read_text())
    runs = [
        Run(
            group=run["group"],
            name=run["extra_info"]["name"],
            impl=run["extra_info"]["impl"],
            n_rows=run["extra_info"]["n_rows"],
            n_bytes=run["extra_info"]["n_bytes"],
            median=run["stats"]["median"],
            spread=run["stats"]["iqr"],
            rounds=run["stats"]["rounds"] * run["stats"]["iterations"],
            notes=run["extra_info"]["notes"],
        )
        for run in raw["benchmarks"]
        if "name" in run["extra_info"]
    ]
    return raw["machine_info"], runs


def write_report(
    measured: Measured,
    target: Path,
    *,
    command: str,
    rows: str,
    busy: float,
    versions: dict[str, str],
    missing: list[str],
) -> None:
    machine = measured.machine
    cpu = machine["cpu"]
    lines = [
        "# Measurements",
        "",
        f"Made by `{command}`; how to read them: [docs/benchmarks.md](../docs/benchmarks.md).",
        "",
        f"* Machine: {cpu.get('brand_raw', 'CPU unknown')}, {cpu.get('count')} cores, "
        f"{machine['system']} {machine['release']}, Python {machine['python_version']}; "
        f"load when it began: {busy:.1f}{' (other work disturbed it)' if busy > 0.5 else ''}",
        f"* Kernels: `{measured.impl}` in the first tables",
        f"* Rows: {rows}",
        "* Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "* Missing here: " + ("; ".join(missing) if missing else "no peer"),
        "",
        "Times are medians, spread is the interquartile range. Ratio = a contender's time for a "
        "row / the fastest of ours in its table: above 1, ours is faster. Limits are what this "
        "machine does with the same bytes in C. Timings drift with the machine's neighbours: "
        "compare within one table.",
        "",
    ]
    for group, runs in _groups(measured.main):
        lines += _table(group, runs)
    lines += _implementations(measured)
    lines += _outcomes(measured.outcomes)
    target.write_text("\n".join(lines))


def _groups(runs: Iterable[Run]) -> Iterable[tuple[str, list[Run]]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.group, []).append(run)
    return found.items()


def _best(runs: Iterable[Run]) -> Run | None:
    return min(runs, key=lambda run: run.cost, default=None)


def _table(group: str, runs: list[Run]) -> list[str]:
    if all("peak_mb" in run.notes for run in runs):
        return _memory_table(group, runs)
    best = _best(run for run in runs if run.is_ours)
    keys = list(dict.fromkeys(key for run in runs for key in run.notes))
    has_bytes = any(run.n_bytes for run in runs)
    header = ["what", "median ms", "spread ms", "rounds", *(["MB/s"] if has_bytes else [])]
    header += ["M rows/s", "ratio", *(key.replace("_", " ") for key in keys)]
    lines = [f"## {group}", "", _row(header), _row("---" for _ in header)]
    for run in sorted(runs, key=lambda run: run.cost):
        cells = [f"**{run.name}**" if run.is_ours else run.name]
        cells += [_number(run.median * 1e3), _number(run.spread * 1e3), str(run.rounds)]
        if has_bytes:
            cells.append(_rate(run.n_bytes, run.median))
        cells.append(_rate(run.n_rows, run.median))
        cells.append(f"{run.cost / best.cost:.2f}" if best else "")
        cells += [_noted(key, run.notes.get(key)) for key in keys]
        lines.append(_row(cells))
    return [*lines, ""]


def _memory_table(group: str, runs: list[Run]) -> list[str]:
    """Runs whose memory was watched; their times were disturbed by that."""
    header = ["what", "peak MB", "asked for, MB", "beyond, MB", "seconds"]
    lines = [f"## {group}", "", _row(header), _row("---" for _ in header)]
    for run in sorted(runs, key=lambda run: run.notes["beyond_mb"]):
        sizes = (f"{run.notes[key]:,.0f}" for key in ("peak_mb", "asked_mb", "beyond_mb"))
        name = f"**{run.name}**" if run.is_ours else run.name
        lines.append(_row([name, *sizes, _number(run.median)]))
    return [*lines, ""]


def _implementations(measured: Measured) -> list[str]:
    """Ours under every implementation, beside the fastest peer of the main run."""
    ours = [run for run in measured.main + measured.others if run.is_ours]
    impls = list(dict.fromkeys(run.impl for run in ours))
    impls.sort(key=("scalar", "avx2", "avx512").index)
    found = {(run.group, run.name, run.impl): run for run in ours}
    peers = {
        group: _best(run for run in runs if run.is_peer) for group, runs in _groups(measured.main)
    }
    lines = [
        "## Ours under each implementation",
        "",
        "Median milliseconds, and in brackets how many times faster for a row than the fastest "
        "peer of the work's table above, which was measured once.",
        "",
        _row(["work", "what", "fastest peer", *impls]),
        _row("---" for _ in range(3 + len(impls))),
    ]
    for group, name in dict.fromkeys((run.group, run.name) for run in ours):
        runs = [found.get((group, name, impl)) for impl in impls]
        if sum(run is not None for run in runs) < 2:
            continue
        peer = peers.get(group)
        cells = [group, name, peer.name if peer else ""]
        for run in runs:
            if run is None:
                cells.append("not measured")
            else:
                ratio = f" ({peer.cost / run.cost:.1f})" if peer else ""
                cells.append(_number(run.median * 1e3) + ratio)
        lines.append(_row(cells))
    return [*lines, ""]


def _outcomes(outcomes: list[dict[str, str]]) -> list[str]:
    if not outcomes:
        return []
    lines = ["## Not measured", "", _row(["what", "why"]), _row(["---", "---"])]
    for outcome in outcomes:
        failed = "failed: " if outcome["outcome"] == "failed" else ""
        lines.append(_row([outcome["name"], (failed + outcome["reason"]).replace("|", "\\|")]))
    return [*lines, ""]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(amount: int, seconds: float) -> str:
    """Millions a second; a peer that tells its time in hundredths may tell 0."""
    return _number(amount / seconds / 1e6) if amount and seconds else ""


def _number(value: float) -> str:
    """Three digits or so."""
    if value == 0:
        return "0"
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{decimals}f}"


def _noted(key: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if key in ("logloss", "target") else f"{value:,.1f}"
    return str(value)
