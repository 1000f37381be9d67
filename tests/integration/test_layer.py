"""The Lambda layer: what is in it, that it is the same each time, and that workers run from it.

Wheels are made here, of small stand-ins and of what is installed; nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lambda_parts import (
    PUBLISHED_PINS,
    is_pinned,
    sanitizer_environment,
    write_installed_wheels,
    write_wheel,
)
from packaging.requirements import Requirement

import cirrus_fast
from cirrus_fast.backend import layer as layers
from cirrus_fast.backend.layer import Layer, build_layer, running_python
from cirrus_fast.cli import cli
from cirrus_fast.errors import LayerError

PYTHON = running_python()
PINS_OF_PYTHON = dict(layers.PINS_OF_PYTHON)
PINS = {"numpy": "1.0", "redis": "2.0", "hiredis": "3.0", "cirrus-fast": cirrus_fast.__version__}
SOURCE = (
    b'"""A long docstring."""\nclass A:\n    """And another."""\nassert A.__doc__ == "", "docs"\n'
    b"def f(x: Annotated) -> Annotated: pass\n"
)


@pytest.fixture(autouse=True)
def any_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers.GLIBC, PYTHON, 34)
    monkeypatch.setattr(layers, "PINS", PINS)
    monkeypatch.setattr(layers, "PINS_OF_PYTHON", {})


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Stand-ins with one of each kind of file."""
    folder = tmp_path / "wheels"
    for name, version in PINS.items():
        package = name.replace("-", "_")
        files = {f"{package}/__init__.py": SOURCE, f"{package}/data.bin": bytes(100)}
        files |= {f"{package}/tests/test_it.py": b"x = 1\n", f"{package}/__init__.pyi": b""}
        if name == "numpy":
            files |= {"numpy/f2py/__init__.py": b"", "numpy/_core/include/a.h": b""}
            files |= {"numpy/testing/__init__.py": b"", "numpy/lib/npyio.py": b"y = 2\n"}
        elif name == "cirrus-fast":
            files |= {"cirrus_fast/cli/__init__.py": b"import click\n"}
            files |= {"cirrus_fast/backend/deployment/deploy.py": b"import boto3\n"}
        write_wheel(folder, name, version, files)
    return folder


def build(output: Path, wheels: Path, **options: object) -> Layer:
    options = {"python": PYTHON, "find_links": [wheels], "no_index": True} | options
    return build_layer(output, **options)  # type: ignore[arg-type]


def names_in(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_what_workers_do_not_need_is_left_out(wheels: Path, tmp_path: Path) -> None:
    built = build(tmp_path / "layer.zip", wheels)
    expected = {"numpy/lib/npyio.pyc"}
    expected |= {f"{name.replace('-', '_')}/__init__.pyc" for name in PINS}
    for name, version in PINS.items():
        package = name.replace("-", "_")
        expected |= {f"{package}/data.bin", f"{package}-{version}.dist-info/METADATA"}
    assert names_in(tmp_path / "layer.zip") == {f"python/{name}" for name in expected}
    assert [(part.name, part.version) for part in built.parts] == list(PINS.items())
    assert all(part.left_out > 0 for part in built.parts)


def test_the_same_wheels_give_the_same_bytes(wheels: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "a.zip", wheels)
    second = build(tmp_path / "b.zip", wheels)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert first.sha256 == second.sha256
    assert first.zipped == (tmp_path / "a.zip").stat().st_size


def test_byte_code_is_taken_without_a_look_at_the_source(wheels: Path, tmp_path: Path) -> None:
    build(tmp_path / "layer.zip", wheels)
    with zipfile.ZipFile(tmp_path / "layer.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".pyc"):
                head = archive.read(name)[:16]
                assert head[:4] == importlib.util.MAGIC_NUMBER
                assert head[4:8] == bytes([1, 0, 0, 0])  # by hash, unchecked (PEP 552)
                assert b"A docstring." not in archive.read(name)
                assert b"Annotated" not in archive.read(name)


def test_without_byte_code_sources_stay(wheels: Path, tmp_path: Path) -> None:
    built = build(tmp_path / "layer.zip", wheels, compile_python=False)
    names = names_in(tmp_path / "layer.zip")
    assert "python/numpy/__init__.py" in names
    assert not [name for name in names if name.endswith(".pyc")]
    assert not built.compiled


def test_parts_weigh_what_is_in_the_zip(wheels: Path, tmp_path: Path) -> None:
    built = build(tmp_path / "layer.zip", wheels)
    with zipfile.ZipFile(tmp_path / "layer.zip") as archive:
        assert built.unpacked == sum(info.file_size for info in archive.infolist())
        inside = sum(info.compress_size for info in archive.infolist())
    assert sum(part.zipped for part in built.parts) == inside
    assert sum(part.n_files for part in built.parts) == len(names_in(tmp_path / "layer.zip"))


@pytest.mark.parametrize(
    ("limit", "what"), [("MOST_ZIPPED", "zipped"), ("MOST_UNPACKED", "unpacked")]
)
def test_more_than_lambda_takes_is_refused(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, what: str
) -> None:
    monkeypatch.setattr(layers, limit, 300)
    with pytest.raises(LayerError, match=f"bytes {what}, and Lambda takes at most 300"):
        build(tmp_path / "layer.zip", wheels)
    assert not (tmp_path / "layer.zip").exists()


def test_refusals_say_what_to_do(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "layer.zip"
    with pytest.raises(LayerError, match=r"python 3\.10: Lambda layers are built for 3\.11"):
        build(output, wheels, python="3.10")
    with pytest.raises(LayerError, match="arch riscv: Lambda has x86_64 and arm64"):
        build(output, wheels, arch="riscv")
    with pytest.raises(LayerError, match="nowhere: no such folder of wheels"):
        build(output, tmp_path / "nowhere")
    (wheels / "redis-2.0-py3-none-any.whl").unlink()
    with pytest.raises(LayerError, match=r"no wheels for .* redis==2\.0 \(.*--find-links"):
        build(output, wheels)
    other = "3.12" if PYTHON != "3.12" else "3.13"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LayerError, match=rf"no python{other} on this machine.*--no-pyc"):
        build(output, wheels, python=other)
    assert not output.exists()


def test_files_that_lead_out_of_the_layer_are_refused(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "redis", "2.0", {"redis/../../../etc/passwd": b""})
    with pytest.raises(LayerError, match="leads out of the layer"):
        build(tmp_path / "layer.zip", wheels)


def test_a_module_that_does_not_compile_is_an_error(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, "redis", "2.0", {"redis/__init__.py": b"def f(:\n"})
    with pytest.raises(LayerError, match=r"cannot compile the layer: (.|\n)*redis/__init__\.py"):
        build(tmp_path / "layer.zip", wheels)


def test_the_command_shows_what_each_part_weighs(wheels: Path, tmp_path: Path) -> None:
    output = tmp_path / "layer.zip"
    command = ["layer", "build", "--find-links", str(wheels), "--no-index", "-o", str(output)]
    command += ["--python", PYTHON, "--arch", "x86_64"]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0, shown.output
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:5]] == [
        [name, version] for name, version in PINS.items()
    ]
    again = CliRunner().invoke(cli, command)
    assert (again.exit_code, again.stderr[-30:]) == (1, "; replace it with --overwrite\n")
    found = json.loads(CliRunner().invoke(cli, [*command, "--overwrite", "--json"]).stdout)
    assert found["arch"] == "x86_64"
    assert found["compiled"] is True
    assert found["zipped"] == output.stat().st_size
    alone = CliRunner().invoke(cli, ["layer", "build", "--no-index", "-o", f"{output}x"])
    assert "leaves --find-links" in alone.stderr


def test_the_pins_are_what_the_package_requires() -> None:
    """boto3 is in Lambda's runtime; click and rich are for the commands, which are left out."""
    required = [Requirement(text) for text in distribution("cirrus-fast").requires or ()]
    needed = {r.name: r.specifier for r in required if r.marker is None}
    for name in needed.keys() - {"boto3", "click", "rich"}:
        pins = [PUBLISHED_PINS, *PINS_OF_PYTHON.values()]
        for version in [pin[name] for pin in pins if name in pin]:
            assert version in needed[name]
        assert name in PUBLISHED_PINS


def test_a_worker_trains_from_the_layer_with_nothing_else_on_the_path(
    tmp_path: Path, repository: Path
) -> None:
    wheels = tmp_path / "wheels"
    write_installed_wheels(wheels, PINS)
    versions = {"numpy": np.__version__}
    versions |= {n: PUBLISHED_PINS[n] if is_pinned(n) else "0" for n in ("redis", "hiredis")}
    build(tmp_path / "layer.zip", wheels)
    with zipfile.ZipFile(tmp_path / "layer.zip") as archive:
        archive.extractall(tmp_path / "opt")
    script = repository / "tests/wheels/train_from_layer.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, tmp_path / "opt"],
        capture_output=True,
        text=True,
        check=False,
        env=sanitizer_environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"] == versions
    assert found["rows"] == 10_000
    assert found["test_loss"] < 0.5
    assert found["cannot be imported"] == []
    assert found["elsewhere"] == []
    assert found["compiled"]
