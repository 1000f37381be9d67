"""The Lambda layer: what a worker imports, as one zip for one Python and one architecture.

Made from wheels alone, so nothing is compiled and any machine can make it; only the byte code asks
for the Python that will run it. The same wheels and interpreter give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cirrus_fast._version import __version__
from cirrus_fast.data.storage import write_file
from cirrus_fast.errors import LayerError

# Lambda's runtime -> the glibc of the Amazon Linux below it (2 for python3.11, then 2023).
GLIBC = {"3.11": 26, "3.12": 34, "3.13": 34, "3.14": 34}
# Lambda's name of an architecture -> that of wheels.
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, in binary megabytes: of a
# zip sent with the request, and of the function and all its layers unpacked.
MOST_ZIPPED = 50 << 20
MOST_UNPACKED = 250 << 20

# What was tested together. A layer is not built from what happens to be newest that day.
PINS = {"numpy": "2.5.5", "redis": "8.1.0", "hiredis": "3.5.0", "cirrus-fast": __version__}
# The last NumPy whose wheels for Python 3.11 do with a glibc older than 2.27.
PINS_OF_PYTHON = {"3.11": {"numpy": "2.2.6"}}

# A worker needs none of these: tests, what is for type checkers, compilers and packagers; of NumPy
# its Fourier transforms, polynomials and masked arrays (which rewrite the docstrings that are left
# out below) and what builds on them; what deploys; the module for Redis; and what asks for packages
# that are not in the layer: our commands for click and rich, some of redis for others. All that is
# left can be imported.
_LEFT_OUT = re.compile(
    r"(^|/)(tests|include|_pyinstaller|_examples)/"
    r"|\.(pyi|pxd|pyx|h|hpp|c|a|pc|typed)$"
    r"|^numpy/(f2py|distutils|fft|ma|polynomial|testing)/"
    r"|^numpy/(conftest|matlib|lib/recfunctions|_core/cversions)\.py$"
    r"|^numpy/_core/(_simd|_\w+_tests)\.[^/]*\.so$"
    r"|^redis/(asyncio/)?multidb/|^redis/ocsp\.py$"
    r"|^cirrus_fast/backend/(deployment/|layer\.py$)"
    r"|^cirrus_fast/(cli/|local_lambda/|sklearn\.py|_reference\.py|demo\.py|plots\.py|__main__\.py|cirrus\.so$)"
    r"|^[^/]+\.dist-info/(RECORD|WHEEL|INSTALLER|entry_points\.txt|top_level\.txt|sboms/.*)$"
    r"|^[^/]+\.data/"
)
# NumPy imports these for nothing but docstrings, which they add to its compiled functions.
_EMPTY = re.compile(r"^numpy/_core/_add_newdocs(_scalars)?\.py$")
_IN_ZIP = "python/"  # Lambda unpacks into /opt and has /opt/python on the path
_DATE = (1980, 1, 1, 0, 0, 0)
_COMPRESSION = 9

# Run by the Python of the layer: reads a list of [source, name in the layer, target] and compiles.
# Docstrings, a third of NumPy's byte code, become empty ones: without any, NumPy does not import.
# Annotations of functions, a tenth of redis's, go too: nothing there reads them.
# Assertions stay. Unchecked: dates in a zip mean nothing, and a check would read every source at
# every cold start.
_COMPILER = """
import ast, importlib.util, json, marshal, sys
UNCHECKED_HASH = (1).to_bytes(4, "little")
WITH_DOCSTRINGS = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
for source, name, target in json.load(sys.stdin):
    with open(source, "rb") as file:
        text = file.read()
    tree = ast.parse(text, name)
    for node in ast.walk(tree):
        if isinstance(node, WITH_DOCSTRINGS) and ast.get_docstring(node, False):
            node.body[0].value.value = ""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    code = compile(tree, name, "exec", dont_inherit=True, optimize=0)
    head = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(text)
    with open(target, "wb") as file:
        file.write(head + marshal.dumps(code))
"""


@dataclass(frozen=True, slots=True)
class Part:
    """What one distribution weighs in the layer, in bytes; `bytecode` is part of `unpacked`."""

    name: str
    version: str
    n_files: int
    unpacked: int
    zipped: int
    bytecode: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Layer:
    path: str
    python: str
    arch: str
    compiled: bool
    parts: tuple[Part, ...]
    unpacked: int
    zipped: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Wheel:
    name: str
    version: str
    files: dict[str, bytes]
    left_out: int


def running_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def build_layer(
    output: str | os.PathLike[str],
    *,
    python: str,
    arch: str = "x86_64",
    find_links: Sequence[str | os.PathLike[str]] = (),
    no_index: bool = False,
    compile_python: bool = True,
) -> Layer:
    """Writes the layer's zip to `output`, whole or not at all.

    Parameters
    ----------
    python : "3.11" to "3.14", Lambda's runtime; arch : "x86_64" or "arm64"
    find_links : folders of wheels, looked through beside the package index
    no_index : take wheels from `find_links` only
    compile_python : put byte code in place of the sources, which needs that Python on this machine;
        without it every cold start compiles what it imports, a second or so

    Raises
    ------
    LayerError : no such runtime, wheel or interpreter, or more than Lambda takes
    """
    if python not in GLIBC:
        raise LayerError(f"python {python}: Lambda layers are built for {', '.join(GLIBC)}")
    if arch not in MACHINES:
        raise LayerError(f"arch {arch}: Lambda has {' and '.join(MACHINES)}")
    interpreter = _find_interpreter(python) if compile_python else None
    with tempfile.TemporaryDirectory(prefix="cirrus_fast_layer_") as folder:
        wheels = _fetch(Path(folder, "wheels"), python, arch, find_links, no_index)
        if interpreter is not None:
            wheels = _compile(interpreter, wheels, Path(folder, "compiled"))
    content, parts = _pack(wheels)
    unpacked = sum(part.unpacked for part in parts)
    for what, n_bytes, most in (
        ("zipped", len(content), MOST_ZIPPED),
        ("unpacked", unpacked, MOST_UNPACKED),
    ):
        if n_bytes > most:
            raise LayerError(f"{n_bytes:,} bytes {what}, and Lambda takes at most {most:,}")
    write_file(output, content)
    return Layer(
        path=os.fspath(output),
        python=python,
        arch=arch,
        compiled=interpreter is not None,
        parts=parts,
        unpacked=unpacked,
        zipped=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


# Wheels


def _fetch(
    folder: Path,
    python: str,
    arch: str,
    find_links: Sequence[str | os.PathLike[str]],
    no_index: bool,
) -> list[_Wheel]:
    """One wheel of each part, as pip chooses for the layer's machine."""
    machine = MACHINES[arch]
    pins = PINS | PINS_OF_PYTHON.get(python, {})
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    command += ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--implementation=cp", f"--python-version={python}"]
    for minor in range(GLIBC[python], 16, -1):
        command.append(f"--platform=manylinux_2_{minor}_{machine}")
    command.append(f"--platform=manylinux2014_{machine}")
    for links in find_links:
        if not Path(links).is_dir():
            raise LayerError(f"{os.fspath(links)}: no such folder of wheels")
        command += ["--find-links", os.fspath(Path(links).absolute())]
    if no_index:
        command.append("--no-index")
    command += [f"{name}=={version}" for name, version in pins.items()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        why = _last_words(result.stderr)
        raise LayerError(f"no wheels for a layer of Python {python} on {arch}: {why}")
    wheels = []
    for name, version in pins.items():
        (path,) = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        wheels.append(_read(path, name, version))
    return wheels


def _last_words(said: str) -> str:
    """What pip complains of, in one line, and what may help."""
    if "No module named pip" in said:
        return f"{sys.executable} has no pip, which fetches them: python -m ensurepip"
    errors = [line.partition("ERROR: ")[2] for line in said.splitlines() if "ERROR: " in line]
    why = errors[-1] if errors else said.strip() or "pip failed"
    hint = "; make wheels builds it from the source tree" if "cirrus-fast" in why else ""
    return f"{why} (folders of wheels: --find-links{hint})"


def _read(path: Path, name: str, version: str) -> _Wheel:
    files, left_out = {}, 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            inside = PurePosixPath(info.filename)
            if inside.is_absolute() or ".." in inside.parts:
                raise LayerError(f"{path.name}: {info.filename} leads out of the layer")
            if info.is_dir():
                continue
            if _LEFT_OUT.search(info.filename):
                left_out += info.file_size
                continue
            data = archive.read(info)
            if _EMPTY.search(info.filename):
                data = b""
            elif info.filename.endswith(".dist-info/METADATA"):
                data = data.partition(b"\n\n")[0] + b"\n"  # without the description
            elif ".so" in inside.suffixes:
                data = _without_symbols(data)
            files[info.filename] = data
            left_out += info.file_size - len(data)
    return _Wheel(name, version, files, left_out)


def _without_symbols(content: bytes) -> bytes:
    """A shared object with only what its program headers name, which is all that loading reads.

    What is cut off are section headers, symbol tables and debugging information: 2.5 MB of
    NumPy's and hiredis's modules. What is loaded stays at its place.
    """
    if content[:6] != b"\x7fELF\x02\x01":  # 64 bits, little endian
        return content
    (at,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    kept = [(0, 64), (at, at + size * count)]
    for i in range(count):
        _, _, offset, _, _, n_bytes, _, _ = struct.unpack_from("<IIQQQQQQ", content, at + i * size)
        kept.append((offset, offset + n_bytes))
    stripped = bytearray(max(end for _, end in kept))
    for begin, end in kept:
        stripped[begin:end] = content[begin:end]
    stripped[40:48] = bytes(8)  # where section headers are
    stripped[58:64] = bytes(6)  # their size, number, and which has their names
    return bytes(stripped)


# Byte code


def _find_interpreter(python: str) -> str:
    """A CPython of that minor version, released: its byte code is that of all of them."""
    ask = "import platform, sys; print(platform.python_implementation(), *sys.version_info[:4])"
    wanted = f"CPython {python.replace('.', ' ')} "
    for candidate in (sys.executable, shutil.which(f"python{python}")):
        if candidate is None:
            continue
        result = subprocess.run(
            [candidate, "-S", "-c", ask], capture_output=True, text=True, check=False
        )
        if result.stdout.startswith(wanted) and result.stdout.endswith(" final\n"):
            return candidate
    raise LayerError(
        f"no python{python} on this machine to compile the layer's modules; install one, or leave "
        "the byte code out (--no-pyc) and let every cold start compile, a second or so"
    )


def _compile(interpreter: str, wheels: Sequence[_Wheel], folder: Path) -> list[_Wheel]:
    """The wheels with the byte code of their modules in place of the sources."""
    folder.mkdir()
    jobs: list[tuple[str, str, str]] = []
    compiled = []
    for wheel in wheels:
        for name in sorted(wheel.files):
            if name.endswith(".py"):
                source = folder / f"{len(jobs)}.py"
                source.write_bytes(wheel.files[name])
                jobs.append((str(source), f"/opt/{_IN_ZIP}{name}", f"{source}c"))
    # One process, one order, one hash seed: what is written depends on what was compiled before.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        [interpreter, "-S", "-P", "-c", _COMPILER],
        input=json.dumps(jobs),
        env=environment | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise LayerError(f"{interpreter} cannot compile the layer: {result.stderr.strip()}")
    targets = iter(jobs)
    for wheel in wheels:
        files = dict(wheel.files)
        left_out = wheel.left_out
        for name in sorted(name for name in wheel.files if name.endswith(".py")):
            files[f"{name}c"] = Path(next(targets)[2]).read_bytes()
            left_out += len(files.pop(name))
        compiled.append(replace(wheel, files=files, left_out=left_out))
    return compiled


# The zip


def _pack(wheels: Sequence[_Wheel]) -> tuple[bytes, tuple[Part, ...]]:
    files = {name: data for wheel in wheels for name, data in wheel.files.items()}
    zipped: dict[str, int] = {}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(_IN_ZIP + name, _DATE)
            info.create_system = 3  # Unix, on whatever machine this is
            info.external_attr = (0o755 if ".so" in PurePosixPath(name).suffixes else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name], compresslevel=_COMPRESSION)
            zipped[name] = info.compress_size
    parts = tuple(
        Part(
            name=wheel.name,
            version=wheel.version,
            n_files=len(wheel.files),
            unpacked=sum(map(len, wheel.files.values())),
            zipped=sum(zipped[name] for name in wheel.files),
            bytecode=sum(len(data) for name, data in wheel.files.items() if name.endswith(".pyc")),
            left_out=wheel.left_out,
        )
        for wheel in wheels
    )
    return packed.getvalue(), parts
