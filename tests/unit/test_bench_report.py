"""What the benchmarks make of their measurements: the tables, and the count of instructions."""

from __future__ import annotations

import json

import pytest


def measured(runs):
    """As pytest-benchmark writes them: (group, name, implementation, rows, median seconds)."""
    return {
        "machine_info": {
            "cpu": {"brand_raw": "a CPU", "count": 2},
            "system": "Linux",
            "release": "6",
            "python_version": "3.11",
        },
        "benchmarks": [
            {
                "group": group,
                "stats": {"median": median, "iqr": 0.001, "rounds": 5, "iterations": 1},
                "extra_info": {
                    "name": name,
                    "impl": impl,
                    "n_rows": rows,
                    "n_bytes": 0,
                    "notes": {},
                },
            }
            for group, name, impl, rows, median in runs
        ],
    }


def report_of(report, tmp_path, main, others=(), outcomes=(), missing=()):
    files = []
    for runs in (main, others):
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps(measured(runs)))
    machine, runs = report.read_runs(files[0])
    target = tmp_path / "RESULTS.md"
    report.write_report(
        report.Measured("avx2", machine, runs, report.read_runs(files[1])[1], list(outcomes)),
        target,
        command="python -m bench",
        rows="some rows",
        busy=0.1,
        versions={"numpy": "2"},
        missing=list(missing),
    )
    return target.read_text()


def cells(text, start):
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_peer_with_fewer_rows_is_compared_by_row(bench, tmp_path):
    text = report_of(
        bench("report"),
        tmp_path,
        [("work", "cirrus_fast", "avx2", 1000, 0.1), ("work", "slow", "avx2", 100, 0.05)],
    )
    assert cells(text, "slow")[-1] == "5.00"
    assert cells(text, "**cirrus_fast**")[-1] == "1.00"


def test_a_loss_stays_in_the_table_above_ours(bench, tmp_path):
    text = report_of(
        bench("report"),
        tmp_path,
        [("work", "cirrus_fast", "avx2", 10, 0.2), ("work", "better", "avx2", 10, 0.1)],
    )
    assert cells(text, "better")[-1] == "0.50"
    assert text.index("| better") < text.index("| **cirrus_fast**")


def test_a_limit_is_no_peer_of_the_implementations(bench, tmp_path):
    text = report_of(
        bench("report"),
        tmp_path,
        [
            ("work", "cirrus_fast", "avx2", 10, 0.1),
            ("work", "limit: memcpy", "avx2", 10, 0.01),
            ("work", "peer", "avx2", 10, 0.3),
        ],
        others=[("work", "cirrus_fast", "scalar", 10, 0.2)],
    )
    found = cells(text, "work | cirrus_fast")
    assert found == ["work", "cirrus_fast", "peer", "200 (1.5)", "100 (3.0)"]


def test_what_is_missing_or_failed_is_named(bench, tmp_path):
    text = report_of(
        bench("report"),
        tmp_path,
        [("work", "cirrus_fast", "avx2", 10, 0.1)],
        outcomes=[{"name": "parse_peer", "outcome": "failed", "reason": "another answer"}],
        missing=["peer (parsing): `pip install peer`"],
    )
    assert "Missing here: peer (parsing)" in text
    assert cells(text, "parse_peer") == ["parse_peer", "failed: another answer"]


DUMP = """\
# callgrind format
desc: Trigger: Client Request: parse
positions: line
events: Ir
ob=(1) /lib/_kernels.abi3.so
fl=(1) a.c
fn=(1) parse
0 100
cob=(2) /lib/libc.so.6
cfi=(2) b.c
cfn=(2) memcpy
calls=3 0
0 5000
+1 20

ob=(2)
fn=(2)
0 5000
cob=(1)
cfn=(3) helper
calls=1 0
0 7

ob=(1)
fn=(3)
* 7
"""


def test_only_the_modules_own_instructions_count(bench):
    assert bench("instructions").module_instructions(DUMP) == 100 + 20 + 7


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"parse": 1000}, {"parse": 1020}, []),
        ({"parse": 1000}, {"parse": 500}, []),
        ({"parse": 1000}, {"parse": 1040}, ["parse, scalar: +4.0%"]),
        ({"parse": 1000}, {}, ["parse, scalar: is committed, and was not counted now"]),
        ({}, {"parse": 1000}, ["parse, scalar: is new, and has no committed count"]),
    ],
)
def test_more_instructions_are_named(bench, monkeypatch, before, now, expected):
    instructions = bench("instructions")
    monkeypatch.setattr(instructions, "IMPLEMENTATIONS", ("scalar",))

    def counts(found):
        return {"instructions": {name: {"scalar": n} for name, n in found.items()}}

    assert instructions.compare(counts(before), counts(now)) == expected


def test_the_committed_counts_are_of_the_kernels_that_are_counted(bench, tmp_path):
    instructions = bench("instructions")
    committed = json.loads(instructions.COMMITTED.read_text())
    _, found = instructions.kernels(tmp_path)
    assert set(committed["instructions"]) == set(found)
    for run in found.values():
        run()
