"""Builds what is published: the source archive and, from it, a wheel for each architecture.

    python .ci/wheels.py [--output dist] [--twice]

One limited-API module serves every CPython from 3.11 on. zig, which comes from the package index,
links it against glibc 2.17 for either architecture on either of them. Everything is made below
build/wheels/, from the files git knows (or from an unpacked source archive). The same files, gcc,
Python minor version and pinned tools (wheels-requirements.txt) give the same bytes; --twice builds
again in another folder and compares.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheels"
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC = "2.17"
# What compiles: the first of these on the path; elsewhere zig's clang. On x86-64 it is the compiler
# that development is done with, so that what was measured there is what users get (clang's kernels
# execute up to 1.5 times the instructions); only the linking is zig's.
COMPILERS = {"x86_64": ("x86_64-linux-gnu-gcc", "gcc")}
PLATFORM = f"manylinux_{GLIBC.replace('.', '_')}"

# The headers of the Python that runs serve both architectures, if their pyconfig.h holds for both.
PYCONFIG_CHECK = """
#include <Python.h>
#include <wchar.h>
_Static_assert(SIZEOF_VOID_P == sizeof(void *) && SIZEOF_SIZE_T == sizeof(size_t), "pointers");
_Static_assert(SIZEOF_INT == sizeof(int) && SIZEOF_LONG == sizeof(long), "integers");
_Static_assert(SIZEOF_LONG_LONG == sizeof(long long) && SIZEOF_SHORT == sizeof(short), "integers");
_Static_assert(SIZEOF_DOUBLE == sizeof(double) && SIZEOF_FLOAT == sizeof(float), "reals");
_Static_assert(SIZEOF_WCHAR_T == sizeof(wchar_t), "wide characters");
#if defined(WORDS_BIGENDIAN) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error byte order
#endif
"""


def run(*command: str | Path, **options: object) -> str:
    result = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}\nfailed: {result.returncode}")
    return str(result.stdout)


def git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    return run("git", "-C", ROOT, *arguments)


def source_date() -> int:
    """Of everything inside the archives: SOURCE_DATE_EPOCH, else the commit's, else that of the
    files of an unpacked archive, which carry it."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    committed = git("log", "-1", "--format=%ct")
    return int(committed or (ROOT / "setup.py").stat().st_mtime)


def tool_environment() -> Path:
    """The Python of an environment with the pinned tools, made anew when the pins change."""
    pins = Path(__file__).with_name("wheels-requirements.txt")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = WORK / f"tools-{version}"
    stamp = folder / "stamp"
    if not stamp.exists() or stamp.read_text() != pins.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--requirement", pins)
        stamp.write_text(pins.read_text())
    return folder / "bin/python"


def copy_tree(target: Path) -> None:
    """The source files, with the modes that a fresh checkout gives them."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed is None:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
        names = [name for name in names if not name.startswith(("build/", "dist/"))]
    else:
        names = [name for name in listed.split("\0")[:-1] if (ROOT / name).exists()]
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
        copy.chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)


def build_sdist(python: Path, tree: Path, output: Path, epoch: int) -> Path:
    backend = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    raw = tree.parent / "sdist"
    raw.mkdir()
    run(python, "-c", backend, raw, cwd=tree)
    (made,) = raw.iterdir()
    return normalized(made, output / made.name, epoch)


def normalized(archive: Path, target: Path, epoch: int) -> Path:
    """The same files without what differs from one making to the next: order, owner, dates."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = epoch
        member.pax_headers = {}
        return member

    with (
        tarfile.open(archive) as read,
        target.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as write,
    ):
        for member in sorted(read.getmembers(), key=lambda member: member.name):
            write.addfile(plain(member), read.extractfile(member) if member.isfile() else None)
    return target


def find_compiler(architecture: str) -> str | None:
    """A gcc for that architecture, or None where zig's clang is to do it."""
    names = COMPILERS.get(architecture, ())
    for name in filter(shutil.which, names):
        if re.match(rf"{architecture}-(\w+-)?linux-gnu$", run(name, "-dumpmachine").strip()):
            return name
    if names:
        debian = f"gcc-{architecture.replace('_', '-')}-linux-gnu"
        sys.exit(f"no gcc for {architecture} (Debian: apt-get install {debian})")
    return None


def build_wheel(
    python: Path, sdist: Path, architecture: str, folder: Path, output: Path, epoch: int
) -> Path:
    folder.mkdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    linker = f"{python} -m ziglang cc -target {architecture}-linux-gnu.{GLIBC}"
    gcc = find_compiler(architecture)
    # What gcc calls is in gcc's library. zig's own has the like, but brings a memcpy and an exp
    # along that go before libc's.
    helpers = run(gcc, "-print-libgcc-file-name").strip() if gcc else ""
    environment = {
        **os.environ,
        "CC": gcc or linker,
        "LDSHARED": f"{linker} -shared",
        # No debug information, symbols or path of this machine.
        "CFLAGS": f"-g0 -DNDEBUG -fwrapv -ffile-prefix-map={tree}=.",
        "LDFLAGS": f"-Wl,-s {helpers}",
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig-cache"),
        "SOURCE_DATE_EPOCH": str(epoch),
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",
        "PYTHONHASHSEED": "0",
    }
    for name in ("CPPFLAGS", "CIRRUS_FAST_DEBUG", "CIRRUS_FAST_SANITIZE", "CIRRUS_FAST_COVERAGE"):
        environment.pop(name, None)
    include = run(python, "-c", "import sysconfig; print(sysconfig.get_path('include'))").strip()
    (folder / "check.c").write_text(PYCONFIG_CHECK)
    run(*environment["CC"].split(), f"-I{include}", "-c", "check.c", cwd=folder, env=environment)
    backend = (
        "import sys; from setuptools import build_meta; "
        "build_meta.build_wheel(sys.argv[1], {'--build-option': ['--plat-name', sys.argv[2]]})"
    )
    made = folder / "wheel"
    run(python, "-c", backend, made, f"{PLATFORM}_{architecture}", cwd=tree, env=environment)
    (wheel,) = made.iterdir()
    return Path(shutil.copyfile(wheel, output / wheel.name))


def build(python: Path, folder: Path, output: Path, epoch: int) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tree").mkdir(parents=True)
    output.mkdir(parents=True, exist_ok=True)
    copy_tree(folder / "tree")
    sdist = build_sdist(python, folder / "tree", output, epoch)

    def wheel(architecture: str) -> Path:
        return build_wheel(python, sdist, architecture, folder / architecture, output, epoch)

    with ThreadPoolExecutor() as pool:
        return [sdist, *pool.map(wheel, ARCHITECTURES)]


def check(python: Path, wheels: list[Path]) -> None:
    """By the tools the field trusts, then by the project's own tests."""
    for wheel in wheels:
        shown = " ".join(run(python, "-m", "auditwheel", "show", wheel).split())
        architecture = wheel.stem.partition("manylinux_")[2].split("_", 2)[2]
        found = re.search(rf'following platform tag: "manylinux_2_(\d+)_{architecture}"', shown)
        if found is None or int(found[1]) > int(GLIBC.partition(".")[2]):
            sys.exit(f"auditwheel finds {wheel.name} to be of another platform:\n{shown}")
        run(python.with_name("abi3audit"), "--strict", "--summary", wheel)
    environment = {**os.environ, "CIRRUS_FAST_WHEELS": os.pathsep.join(map(str, wheels))}
    run(
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest",
        ROOT / "tests/wheels/test_built_module.py", cwd=WORK, env=environment,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--twice", action="store_true", help="build again and compare the bytes")
    arguments = parser.parse_args()
    os.umask(0o022)
    WORK.mkdir(parents=True, exist_ok=True)
    epoch, began = source_date(), time.monotonic()
    python = tool_environment()
    made = build(python, WORK / "first", arguments.output, epoch)
    check(python, made[1:])
    print(f"built and checked in {time.monotonic() - began:.0f} s")
    if arguments.twice:
        again = build(python, WORK / "another", WORK / "another-dist", epoch)
        for one, other in zip(made, again, strict=True):
            if one.read_bytes() != other.read_bytes():
                sys.exit(f"{one} and {other} differ: the build is not reproducible")
        print("built again: the same bytes")
    for path in made:
        content = path.read_bytes()
        print(f"{hashlib.sha256(content).hexdigest()}  {path}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
