"""What data sets refuse: one clear line each, the same from Python and from the command line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import cirrus_fast
from cirrus_fast import (
    Dataset,
    LinearModel,
    LogisticRegression,
    load_criteo,
    load_libsvm,
    normalize,
)
from cirrus_fast.cli import cli
from cirrus_fast.data.dataset import list_datasets, remove_dataset
from cirrus_fast.data.lock import LOCK, Holder
from cirrus_fast.errors import CirrusFastError

ROWS = "1 1:1 3:2\n0 2:1\n" * 50


@dataclass(frozen=True)
class Case:
    """Something that goes wrong, by a call and by a command; `says`: what the line must hold."""

    call: Callable[[], object]
    command: tuple[str, ...]
    says: str


def manifest() -> Path:
    return Path(Dataset("d").uri) / "manifest.json"


def cut_manifest() -> Case:
    path = manifest()
    path.write_bytes(path.read_bytes()[:-200])
    return Case(lambda: Dataset("d"), ("info", "d"), f"{path}: damaged manifest")


def edited_manifest() -> Case:
    path = manifest()
    path.write_bytes(path.read_bytes().replace(b'"rows": 100', b'"rows": 101'))
    return Case(lambda: LogisticRegression(dataset="d").run(), ("train", "d"), "it was edited")


def no_manifest() -> Case:
    manifest().unlink()
    return Case(lambda: normalize("d", "n"), ("normalize", "d", "n"), "d: incomplete data set")


def wrong_name() -> Case:
    return Case(lambda: Dataset("e"), ("head", "e"), "e: no data set in")


def wrong_path() -> Case:
    return Case(lambda: load_libsvm("x.svm", "e"), ("load", "x.svm", "e"), "x.svm: no such file")


def path_with_nul() -> Case:
    name = "./a\0b"
    return Case(
        lambda: LogisticRegression(dataset=name).run(), ("train", name), f"{name!r}: no path holds"
    )


def long_name() -> Case:
    name = "./" + 300 * "n"
    return Case(
        lambda: LogisticRegression(dataset=name).run(), ("train", name), "File name too long"
    )


def long_name_of_text() -> Case:
    name = "./" + 300 * "n"
    return Case(lambda: load_libsvm(name, "e"), ("load", name, "e"), "File name too long")


def device() -> Case:
    return Case(
        lambda: LogisticRegression(dataset="/dev/null").run(),
        ("train", "/dev/null"),
        "is a file; name a folder",
    )


def load_into_a_file() -> Case:
    Path("there").write_text("x")
    Path("rows.svm").write_text(ROWS)
    return Case(
        lambda: load_libsvm("rows.svm", "./there"),
        ("load", "rows.svm", "./there"),
        "is a file; name a folder",
    )


def flipped_shard() -> Case:
    (shard,) = Path(Dataset("d").uri).glob("*.cfs")
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    train = {"dataset": "d", "epochs": 1}
    return Case(
        lambda: LogisticRegression(train).run(),
        ("train", "d", "--epochs", "1"),
        f"{shard} at byte 0",
    )


def cut_shard() -> Case:
    (shard,) = Path(Dataset("d").uri).glob("*.cfs")
    shard.write_bytes(shard.read_bytes()[:-1])
    return Case(lambda: Dataset("d").verify(), ("verify", "d"), f"{shard}: has ")


def damaged_statistics() -> Case:
    (path,) = Path(Dataset("d").uri).glob("columns-*.npz")
    path.write_bytes(path.read_bytes()[:-1])
    return Case(lambda: Dataset("d").columns, ("info", "d"), f"{path}: damaged")


def three_classes() -> Case:
    Path("three.svm").write_text("1 1:1\n2 1:1\n3 1:1\n")
    says = "e: two classes are needed, but the labels are 1 (1 rows), 2 (1 rows), 3 (1 rows)"
    return Case(lambda: load_libsvm("three.svm", "e"), ("load", "three.svm", "e"), says)


def empty_file() -> Case:
    Path("empty.svm").write_text("\n")
    says = "e: its source has no rows"
    return Case(lambda: load_libsvm("empty.svm", "e"), ("load", "empty.svm", "e"), says)


def empty_criteo_file() -> Case:
    Path("empty.tsv").write_text("")
    says = "e: its source has no rows"
    return Case(lambda: load_criteo("empty.tsv", "e"), ("load-criteo", "empty.tsv", "e"), says)


def other_base_in_training() -> Case:
    load_libsvm("rows.svm", "zero", zero_based=True)
    return Case(
        lambda: LogisticRegression(dataset="d", test_dataset="zero").run(),
        ("train", "d", "--test-dataset", "zero"),
        "zero: ids start at 0, the model's at 1; load it again with like=",
    )


def other_base_in_scoring() -> Case:
    load_libsvm("rows.svm", "zero", zero_based=True)
    LogisticRegression(dataset="d", epochs=1).run().save("m.npz")
    return Case(
        lambda: LinearModel.load("m.npz").evaluate("zero"),
        ("evaluate", "m.npz", "zero"),
        "zero: ids start at 0, the model's at 1",
    )


def other_base_in_text() -> Case:
    Path("zero.svm").write_text("1 0:1\n")
    return Case(
        lambda: load_libsvm("zero.svm", "e", like="d"),
        ("load", "zero.svm", "e", "--like", "d"),
        "zero.svm: feature index 0 in one-based data (line 1, column 3, byte 2)",
    )


def small_model() -> Case:
    return Case(
        lambda: LogisticRegression(dataset="d", model_size=2).run(),
        ("train", "d", "--model-size", "2"),
        "d: has a feature 2 (0-based), beyond model_size=2; make it at least 3",
    )


def held_lock() -> Case:
    holder = Holder.this_process()
    (Path(Dataset("d").uri) / LOCK).write_bytes(holder.to_bytes())
    return Case(
        lambda: load_libsvm("rows.svm", "d", n_features=9, overwrite=True),
        ("load", "rows.svm", "d", "--n-features", "9", "--overwrite"),
        f"d: is being written by process {os.getpid()} since {holder.since}",
    )


def held_lock_on_removal() -> Case:
    held_lock()
    return Case(lambda: remove_dataset("d"), ("rm", "d", "--yes"), "d: is being written by process")


def taken_name() -> Case:
    return Case(
        lambda: load_libsvm("rows.svm", "d", n_features=9),
        ("load", "rows.svm", "d", "--n-features", "9"),
        "d: a data set of this name was made of something else",
    )


CASES = [
    *(cut_manifest, edited_manifest, no_manifest, wrong_name, wrong_path, flipped_shard, cut_shard),
    *(damaged_statistics, three_classes, empty_file, empty_criteo_file, other_base_in_training),
    *(other_base_in_scoring, other_base_in_text, small_model, held_lock, held_lock_on_removal),
    *(taken_name, path_with_nul, long_name, long_name_of_text, device, load_into_a_file),
]


@pytest.fixture
def rows(storage_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A data set "d", in a folder with its text."""
    monkeypatch.chdir(tmp_path)
    Path("rows.svm").write_text(ROWS)
    assert storage_root.is_absolute()
    return load_libsvm("rows.svm", "d")


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_refused_in_one_line(make: Callable[[], Case], storage_root: Path) -> None:
    case = make()
    before = contents(storage_root)
    with pytest.raises(CirrusFastError) as caught:
        case.call()
    message = str(caught.value)
    assert case.says in message
    assert "\n" not in message
    result = CliRunner().invoke(cli, case.command)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert case.says in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("cirrus-fast: error: ")
    assert "Traceback" not in result.stderr
    assert contents(storage_root) == before  # nothing was written, nothing was lost


def environment(root: Path) -> dict[str, str]:
    package_parent = str(Path(cirrus_fast.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": package_parent, "CIRRUS_FAST_STORAGE": str(root)}


def command(*args: str) -> list[str]:
    return [sys.executable, "-P", "-m", "cirrus_fast", *args]


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("limit", [0, 150, 500])
def test_a_disk_that_takes_no_more_ends_a_load_in_one_line(storage_root: Path, limit: int) -> None:
    """The limit on a file's size is a real failing write; 150 bytes take the lock, no shard."""
    before = contents(storage_root)
    done = subprocess.run(
        command("load", "rows.svm", "full"),
        env=environment(storage_root),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"cirrus-fast: error: {storage_root}/full/")
    assert line.endswith(": File too large")
    assert contents(storage_root) == before
    assert not (storage_root / "full").exists()


@pytest.mark.usefixtures("rows")
def test_a_load_killed_in_the_middle_never_reads_as_a_data_set(storage_root: Path) -> None:
    for name in ("d", "new"):
        with subprocess.Popen(
            command("load", "-", name, "--overwrite"),
            env=environment(storage_root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(b"1 1:1\n0 2:1\n" * 3_000_000)  # two chunks, and more to come
            process.stdin.flush()
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
        assert (storage_root / name / LOCK).exists()
    assert list_datasets() == ["d"]
    Dataset("d").verify()
    assert Dataset("d").n_rows == 100
    for verb in ("info", "head", "verify", "train"):
        result = CliRunner().invoke(cli, [verb, "new"])
        assert result.exit_code == 1
        assert "new: incomplete data set" in result.stderr
    for name in ("d", "new"):
        args = ["load", "rows.svm", name, "--n-features", "9", "--overwrite", "--json"]
        result = CliRunner().invoke(cli, args)
        assert json.loads(result.stdout)["features"] == 9
        Dataset(name).verify()
        assert len(list((storage_root / name).iterdir())) == 4
