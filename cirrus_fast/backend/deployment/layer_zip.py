"""What a layer's zip is for, told from what is in it."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cirrus_fast.backend.layer import MACHINES, MOST_ZIPPED, build_layer
from cirrus_fast.errors import LayerError

_VERSION = re.compile(r"python/cirrus_fast-([^/]+)\.dist-info/METADATA")
_COMPILED = re.compile(r"python/numpy/_core/_multiarray_umath\.cpython-3(\d+)-(\w+)-linux-gnu\.so")
_ARCHITECTURES = {machine: arch for arch, machine in MACHINES.items()}


@dataclass(frozen=True, slots=True)
class LayerZip:
    """version : of cirrus_fast in it; python, arch : what its modules are compiled for"""

    content: bytes
    sha256: str
    version: str
    python: str
    arch: str


def read_layer(path: str | os.PathLike[str]) -> LayerZip:
    """
    Raises
    ------
    LayerError : it is no layer of `cirrus-fast layer build`, or too large to be sent
    """
    where = os.fspath(path)
    try:
        content = Path(path).read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise LayerError(f"{where}: cannot be read as a zip ({error})") from error
    version = next(filter(None, map(_VERSION.fullmatch, names)), None)
    compiled = next(filter(None, map(_COMPILED.fullmatch, names)), None)
    if version is None or compiled is None or compiled[2] not in _ARCHITECTURES:
        raise LayerError(f"{where}: has no cirrus_fast or NumPy in it; `cirrus-fast layer build`")
    if len(content) > MOST_ZIPPED:
        raise LayerError(f"{where}: {len(content):,} bytes, and Lambda takes {MOST_ZIPPED:,}")
    return LayerZip(
        content,
        hashlib.sha256(content).hexdigest(),
        version[1],
        f"3.{compiled[1]}",
        _ARCHITECTURES[compiled[2]],
    )


def make_layer(
    python: str,
    arch: str,
    *,
    find_links: Sequence[str | os.PathLike[str]] = (),
    no_index: bool = False,
) -> LayerZip:
    """Builds one, as `build_layer` does, and keeps no file. The same wheels give the same zip."""
    with tempfile.TemporaryDirectory(prefix="cirrus_fast_layer_") as folder:
        path = Path(folder, "layer.zip")
        build_layer(path, python=python, arch=arch, find_links=find_links, no_index=no_index)
        return read_layer(path)
