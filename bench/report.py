"""pytest-benchmark's JSON as one table: peers side by side, ratio = peer median / ours."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any


def write_report(measured: Path, target: Path, command: str) -> None:
    """Reads the JSON and writes the Markdown table."""
    raw = json.loads(measured.read_text())
    machine = raw["machine_info"]
    runs = sorted(raw["benchmarks"], key=lambda run: run["group"] or "")
    impl = runs[0]["extra_info"]["impl"] if runs else "none"
    lines = [
        "# Measurements",
        "",
        f"Command: `{command}`. {machine['cpu'].get('brand_raw', 'CPU unknown')}, "
        f"{machine['cpu'].get('count')} cores, Python {machine['python_version']}, "
        f"kernels `{impl}`. Medians; ratio = peer median / the fastest of ours (above 1, ours is "
        "faster). Timings drift with the machine's neighbours: compare within one table.",
        "",
    ]
    for group, members in groupby(runs, key=lambda run: run["group"]):
        lines += _table(str(group), list(members))
    target.write_text("\n".join(lines))


def _table(group: str, runs: list[dict[str, Any]]) -> list[str]:
    runs = sorted(runs, key=lambda run: run["stats"]["median"])
    ours = [run for run in runs if run["extra_info"]["peer"].startswith("cirrus_fast")]
    best = _cost(ours[0]) if ours else None
    lines = [
        f"## {group}",
        "",
        "| what | median ms | spread ms | MB/s | M rows/s | ratio | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        info, stats = run["extra_info"], run["stats"]
        median = stats["median"]
        megabytes = f"{info['n_bytes'] / median / 1e6:.0f}" if info["n_bytes"] else ""
        rows = f"{info['n_rows'] / median / 1e6:.2f}" if info["n_rows"] else ""
        ratio = f"{_cost(run) / best:.2f}" if best else ""
        known = ("peer", "n_bytes", "n_rows", "impl", "numpy")
        note = ", ".join(f"{k} {v}" for k, v in info.items() if k not in known)
        lines.append(
            f"| {info['peer']} | {median * 1e3:.2f} | {stats['iqr'] * 1e3:.2f} | {megabytes} "
            f"| {rows} | {ratio} | {note} |"
        )
    return [*lines, ""]


def _cost(run: dict[str, Any]) -> float:
    """Seconds a row where rows are known, since peers of a group may be given different numbers."""
    rows = run["extra_info"]["n_rows"]
    median: float = run["stats"]["median"]
    return median / rows if rows else median
