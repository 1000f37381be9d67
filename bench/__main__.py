"""Runs every benchmark, ours under every implementation, and writes RESULTS.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK_ROWS = 20_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--rows", type=int, help="training rows, at most (default 1,000,000)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROWS:,} rows and single rounds: does everything run? Times mean little",
    )
    parser.add_argument("--only", help="an expression of names, as pytest -k takes it")
    parser.add_argument(
        "--impl", help="kernels of the first tables: scalar, avx2, avx512 (default: the best here)"
    )
    parser.add_argument(
        "--other-impls",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure ours under the other implementations too",
    )
    parser.add_argument("--output", type=Path, help="the report (default bench/RESULTS.md)")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    if chosen.impl:
        os.environ["CIRRUS_FAST_FORCE_IMPL"] = chosen.impl
    if chosen.rows or chosen.quick:
        os.environ["CIRRUS_FAST_BENCH_ROWS"] = str(chosen.rows or QUICK_ROWS)
    if chosen.quick:
        os.environ["CIRRUS_FAST_BENCH_SECONDS"] = "0.05"
    # A part, or a smoke test, is no report: it is written only where asked.
    partial = chosen.quick or chosen.only
    output = chosen.output or (None if partial else HERE / "RESULTS.md")

    # Only now: these read the environment.
    from bench import data, peers, report
    from cirrus_fast import _kernels

    impl = _kernels.active_impl()
    busy = os.getloadavg()[0]
    data.described()  # makes the rows
    with tempfile.TemporaryDirectory() as scratch:
        status, measured = session(Path(scratch) / impl, impl, chosen.only, ours_alone=False)
        for other in _kernels.implementations() if chosen.other_impls else []:
            if other == impl:
                continue
            ended, more = session(Path(scratch) / other, other, chosen.only, ours_alone=True)
            status = status or ended
            measured.others += more.main
            measured.outcomes += more.outcomes
    if output is not None and measured.main:
        report.write_report(
            measured,
            output,
            command=" ".join(["python -m bench", *shown_arguments()]),
            rows=data.described(),
            busy=busy,
            versions={
                "cirrus-fast": metadata.version("cirrus-fast"),
                "numpy": metadata.version("numpy"),
                **peers.versions(),
            },
            missing=peers.missing(),
        )
        print(f"wrote {output}")
    return status


def shown_arguments() -> list[str]:
    """The arguments, but for where the report goes, which is a path of this machine."""
    given = iter(sys.argv[1:])
    shown = []
    for argument in given:
        if argument == "--output":
            next(given)
        elif not argument.startswith("--output="):
            shown.append(argument)
    return shown


def session(folder: Path, impl: str, only: str | None, *, ours_alone: bool):
    """One pytest run in a process of its own, since kernels are chosen once."""
    from bench import report

    folder.mkdir()
    times, outcomes = folder / "times.json", folder / "outcomes.json"
    program = (
        f"import sys; sys.path.append({str(HERE.parent)!r}); import pytest; "
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [
        *(sys.executable, "-c", program, str(HERE)),
        *(f"--rootdir={HERE}", f"--config-file={HERE / 'pytest.ini'}", "-p", "no:cacheprovider"),
        *(f"--benchmark-json={times}", f"--outcomes={outcomes}"),
        *(["-m", "ours"] if ours_alone else []),
        *(["-k", only] if only else []),
    ]
    print(f"== {impl}{', ours alone' if ours_alone else ''}", flush=True)
    environment = os.environ | {"CIRRUS_FAST_FORCE_IMPL": impl}
    ended = subprocess.run(command, env=environment, check=False).returncode
    has_times = times.exists() and times.stat().st_size > 0
    found = report.Measured(impl, *(report.read_runs(times) if has_times else ({}, [])))
    for outcome in json.loads(outcomes.read_text()) if outcomes.exists() else []:
        name = f"{outcome['name']}, {impl}" if ours_alone else outcome["name"]
        found.outcomes.append(outcome | {"name": name})
    nothing_chosen = ended == pytest.ExitCode.NO_TESTS_COLLECTED
    return (0 if ours_alone and nothing_chosen else ended), found


if __name__ == "__main__":
    sys.exit(main())
