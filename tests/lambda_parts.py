"""A layer built from what is installed, and Lambda on this machine with it."""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cirrus_fast
from cirrus_fast.backend import layer as layers

PUBLISHED_PINS = dict(layers.PINS)
# What a sanitizer needs in the processes under it.
SANITIZER = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    name = name.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)


def installed_files(package: str) -> dict[str, bytes]:
    """What pip put there of a package."""
    found = distribution(package)
    files = {str(path): Path(str(found.locate_file(path))) for path in found.files or ()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith("..") and path.suffix != ".pyc" and ".dist-info" not in name
    }


def is_pinned(package: str) -> bool:
    """Whether the version is installed that the layer has."""
    try:
        return distribution(package).version == PUBLISHED_PINS[package]
    except PackageNotFoundError:
        return False


def write_installed_wheels(wheels: Path, pins: dict[str, str]) -> None:
    """NumPy and this package as they are installed, and of redis and hiredis what there is."""
    write_wheel(wheels, "numpy", pins["numpy"], installed_files("numpy"))
    for name in ("redis", "hiredis"):
        files = {f"{name}.py": b"__version__ = '0'\n"}
        write_wheel(wheels, name, pins[name], installed_files(name) if is_pinned(name) else files)
    home = Path(cirrus_fast.__file__).parent
    files = {
        f"cirrus_fast/{path.relative_to(home)}": path.read_bytes()
        for path in [*home.rglob("*.py"), Path(cirrus_fast._kernels.__file__)]
    }
    write_wheel(wheels, "cirrus-fast", pins["cirrus-fast"], files)


def sanitizer_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in SANITIZER if name in os.environ}
