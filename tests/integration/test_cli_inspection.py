"""cirrus-fast info, head and verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cirrus_fast import Dataset, load_libsvm, normalize
from cirrus_fast.cli import cli

pytestmark = pytest.mark.usefixtures("storage_root")
TEXT = "1:2 1:0.5 3:1\n-1:0.25 2:1e-3\n-1:1\n1:1 3:-2 4:7\n"


def run(*args: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def clicks(storage_root: Path, tmp_path: Path) -> Dataset:
    (tmp_path / "rows.svm").write_text(TEXT)
    return load_libsvm(tmp_path / "rows.svm", "clicks", label_weights=True)


@pytest.fixture
def damage(clicks: Dataset) -> Callable[[str], str]:
    """damage(pattern) flips a bit in the middle of each such object; the last one's path."""

    def flip(pattern: str) -> str:
        path = Path()
        for path in sorted(Path(clicks.uri).glob(pattern)):
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
        return str(path)

    return flip


# head


@pytest.mark.usefixtures("clicks")
def test_head_shows_the_first_rows_as_text() -> None:
    lines = run("head", "clicks").stdout.splitlines()
    assert lines == ["1:2 1:0.5 3:1", "-1:0.25 2:0.001", "-1:1", "1:1 3:-2 4:7"]
    assert run("head", "clicks", "-n", 2).stdout.splitlines() == lines[:2]
    assert run("head", "clicks", "--rows", 3).stdout.splitlines() == lines[:3]
    run("head", "clicks", "-n", 0, status=2)


def test_head_crosses_blocks_and_keeps_ids_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 16)
    text = "".join(f"{i % 2} {i}:1\n" for i in range(100))
    (tmp_path / "zero.svm").write_text(text)
    load_libsvm(tmp_path / "zero.svm", "zero")
    assert run("head", "zero", "-n", 40).stdout == "".join(text.splitlines(keepends=True)[:40])
    assert run("head", "zero", "-n", 1000).stdout == text


@pytest.mark.usefixtures("clicks")
def test_head_gives_json() -> None:
    found = json.loads(run("head", "clicks", "-n", 3, "--json").stdout)
    assert found["index_base"] == 1
    assert found["rows"][0] == {"label": 1, "ids": [1, 3], "values": [0.5, 1], "weight": 2}
    assert found["rows"][2] == {"label": -1, "ids": [], "values": [], "weight": 1}


# verify


@pytest.mark.usefixtures("clicks")
def test_verify_says_that_nothing_is_wrong() -> None:
    assert run("verify", "clicks").stdout.startswith("clicks: no fault in 4 rows, ")
    found = json.loads(run("verify", "clicks", "--json", "--n-threads", 1).stdout)
    assert (found["faults"], found["rows"]) == ([], 4)
    normalize("clicks", "scaled")
    run("verify", "scaled")


def test_verify_names_one_fault_in_the_error(damage: Callable[[str], str]) -> None:
    shard = damage("*.cfs")
    result = run("verify", "clicks", status=1)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"cirrus-fast: error: {shard} at byte 0: ")


def test_verify_lists_several_faults(damage: Callable[[str], str]) -> None:
    damaged = [damage("*.cfs"), damage("*.npz")]
    result = run("verify", "clicks", status=1)
    *faults, error = result.stderr.splitlines()
    assert error == "cirrus-fast: error: clicks: 2 faults"
    assert [line.startswith("cirrus-fast: fault: ") for line in faults] == [True, True]
    assert all(any(path in line for line in faults) for path in damaged)
    found = run("verify", "clicks", "--json", status=1)
    assert len(json.loads(found.stdout)["faults"]) == 2


def test_verify_refuses_a_damaged_manifest(damage: Callable[[str], str]) -> None:
    manifest = damage("manifest.json")
    assert f"error: {manifest}: " in run("verify", "clicks", status=1).stderr


# info


def test_info_tells_of_weights_and_what_text_may_hold(clicks: Dataset) -> None:
    text = run("info", "clicks").stdout
    assert "sample weight  4.25, 3 of it positive" in text
    assert "label_weights=True" in text
    found = json.loads(run("info", "clicks", "--json").stdout)
    assert (found["label_weights"], found["allow_nonfinite"]) == (True, False)
    assert found["id"] == clicks.id
