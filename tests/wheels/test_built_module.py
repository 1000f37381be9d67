"""What the compiled module asks of the machine it is loaded on: of the installed one, and of the
wheels named by CIRRUS_FAST_WHEELS (`make wheels`).
"""

from __future__ import annotations

import importlib.util
import os
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

WHEELS = [Path(name) for name in filter(None, os.environ.get("CIRRUS_FAST_WHEELS", "").split(":"))]
LARGEST_WHEEL = 1_500_000
GLIBC = (2, 17)  # of manylinux_2_17: CentOS 7; Lambda's python3.11 has 2.26
MACHINES = {62: "x86_64", 183: "aarch64"}

# All that the module may want from libc and libm. The core neither allocates nor prints: malloc,
# free and the formatting are the wrapper's (Cython's). Results of libm's that are not exactly
# rounded differ between versions: the core has its own (cf_math.h); what is left is only reported.
C_LIBRARY = {
    *("memcpy", "memmove", "memset", "memcmp", "bcmp", "memchr", "strlen", "strcmp", "strrchr"),
    *("malloc", "calloc", "realloc", "free", "vsnprintf", "snprintf", "__vsnprintf_chk"),
    *("__memcpy_chk", "__memmove_chk", "__memset_chk", "__snprintf_chk"),
    *("__stack_chk_fail", "abort", "__assert_fail"),
    "getauxval",  # what an ARM can do
    *("exp", "log", "log1p", "sqrt", "sqrtf", "fabs", "ldexp"),
    *("nearbyint", "nearbyintf", "rint", "rintf"),
}
# The linker's and the start-up code's, all weak.
START_UP = {"__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable"}
START_UP |= {"_ITM_registerTMCloneTable"}


@dataclass
class Module:
    """What an ELF64 shared object says of itself."""

    content: bytes
    machine: str
    sections: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    run_paths: set[str] = field(default_factory=set)
    undefined: dict[str, str] = field(default_factory=dict)  # symbol -> version, "" for none
    defined: set[str] = field(default_factory=set)


def read_module(content: bytes) -> Module:
    """https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic.html"""
    assert content[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
    (machine,) = struct.unpack_from("<H", content, 18)
    (at,) = struct.unpack_from("<Q", content, 40)
    size, count, names = struct.unpack_from("<HHH", content, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", content, at + i * size) for i in range(count)]

    def body(i: int) -> bytes:
        return content[headers[i][4] : headers[i][4] + headers[i][5]]

    def text(table: bytes, start: int) -> str:
        return table[start : table.index(0, start)].decode()

    by_name = {text(body(names), header[0]): i for i, header in enumerate(headers)}
    module = Module(content, MACHINES[machine], set(by_name))
    strings = body(by_name[".dynstr"])
    for tag, value in struct.iter_unpack("<qQ", body(by_name[".dynamic"])):
        if tag == 1:
            module.needed.add(text(strings, value))
        elif tag in (15, 29):  # RPATH, RUNPATH
            module.run_paths.add(text(strings, value))
    wanted, versions, start = body(by_name[".gnu.version_r"]), {}, 0
    while True:
        _, n, _, first, following = struct.unpack_from("<HHIII", wanted, start)
        inner = start + first
        for _ in range(n):
            _, _, number, name, step = struct.unpack_from("<IHHII", wanted, inner)
            versions[number] = text(strings, name)
            inner += step
        if not following:
            break
        start += following
    numbers = struct.unpack(f"<{len(body(by_name['.gnu.version'])) // 2}H",
                            body(by_name[".gnu.version"]))  # fmt: skip
    symbols = struct.iter_unpack("<IBBHQQ", body(by_name[".dynsym"]))
    for (name, *_, section, _, _), number in zip(symbols, numbers, strict=True):
        if section:
            module.defined.add(text(strings, name))
        elif name:
            module.undefined[text(strings, name)] = versions.get(number & 0x7FFF, "")
    return module


def installed_path() -> Path:
    package = importlib.util.find_spec("cirrus_fast")
    if package is None or not package.submodule_search_locations:
        pytest.skip("cirrus_fast is not installed")
    for folder in package.submodule_search_locations:
        for path in Path(folder).glob("_kernels.*.so"):
            return path
    # An editable install may keep it elsewhere.
    found = importlib.util.find_spec("cirrus_fast._kernels")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)


def module_in(wheel: Path) -> tuple[str, bytes]:
    ((name, content),) = ((n, c) for n, c in compiled_in(wheel).items() if n.endswith(".abi3.so"))
    return PurePosixPath(name).name, content


def compiled_in(wheel: Path) -> dict[str, bytes]:
    """Python's module, and the one for Redis."""
    with zipfile.ZipFile(wheel) as archive:
        found = {n: archive.read(n) for n in archive.namelist() if n.endswith(".so")}
    assert len(found) == 2
    return found


@pytest.fixture(params=[None, *WHEELS], ids=lambda wheel: wheel.stem if wheel else "installed")
def named_module(request: pytest.FixtureRequest) -> tuple[str, Module]:
    if request.param is None:
        path = installed_path()
        name, content = path.name, path.read_bytes()
        if b"__asan_report_load" in content or b"__gcov" in content:
            pytest.skip("a build with a sanitizer or with counters asks for more")
    else:
        name, content = module_in(request.param)
    return name, read_module(content)


def test_one_module_serves_every_python(named_module: tuple[str, Module]) -> None:
    name, module = named_module
    assert name == "_kernels.abi3.so"
    assert not {symbol for symbol in module.undefined if symbol.startswith("_Py_")} - {
        "_Py_NoneStruct",
        "_Py_TrueStruct",
        "_Py_FalseStruct",
        "_Py_EllipsisObject",
        "_Py_NotImplementedStruct",
        "_Py_Dealloc",
        "_Py_IncRef",
        "_Py_DecRef",
    }


def test_the_c_library_is_asked_only_for_names_on_the_list(
    named_module: tuple[str, Module],
) -> None:
    _, module = named_module
    ours = {name for name in module.undefined if not name.startswith(("Py", "_Py"))}
    assert ours <= C_LIBRARY | START_UP


def test_it_needs_no_library_but_the_c_library(named_module: tuple[str, Module]) -> None:
    _, module = named_module
    loaders = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert module.needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"} | loaders


def test_nothing_but_its_start_is_visible(named_module: tuple[str, Module]) -> None:
    _, module = named_module
    assert module.defined - {"_init", "_fini"} == {"PyInit__kernels"}


@pytest.mark.parametrize(
    "wheel", [None, *WHEELS], ids=lambda wheel: wheel.stem if wheel else "here"
)
def test_the_module_for_redis_knows_no_python(wheel: Path | None) -> None:
    if wheel is None:
        path = Path(pytest.importorskip("cirrus_fast").redis_module_path())
        mode, content = path.stat().st_mode, path.read_bytes()
    else:
        with zipfile.ZipFile(wheel) as archive:
            mode = archive.getinfo("cirrus_fast/cirrus.so").external_attr >> 16
            content = archive.read("cirrus_fast/cirrus.so")
    assert mode & 0o111 == 0o111  # Redis loads no file that is not executable
    module = read_module(content)
    assert not {name for name in module.undefined if name.startswith(("Py", "_Py"))}
    if b"__asan_report_load" in content or b"__gcov" in content:
        return  # which shows and wants more
    assert module.defined - {"_init", "_fini"} == {"RedisModule_OnLoad", "RedisModule_OnUnload"}
    assert module.needed <= {"libc.so.6", "libm.so.6"}


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.stem)
class TestWheel:
    """What only a wheel promises."""

    __test__ = bool(WHEELS)

    def test_its_name_says_what_it_needs(self, wheel: Path) -> None:
        _, _, python, abi, platform = wheel.stem.split("-")
        _, content = module_in(wheel)
        module = read_module(content)
        assert (python, abi) == ("cp311", "abi3")
        assert platform == f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{module.machine}"
        assert {read_module(c).machine for c in compiled_in(wheel).values()} == {module.machine}

    def test_every_symbol_is_in_that_old_a_glibc(self, wheel: Path) -> None:
        for name, content in compiled_in(wheel).items():
            for symbol, version in read_module(content).undefined.items():
                if version:
                    numbers = version.removeprefix("GLIBC_").split(".")
                    assert tuple(map(int, numbers)) <= GLIBC, f"{name}: {symbol}@{version}"

    def test_the_c_library_serves_what_it_is_faster_at(self, wheel: Path) -> None:
        _, content = module_in(wheel)
        assert {"memcpy", "memset", "exp"} <= read_module(content).undefined.keys()

    def test_it_is_stripped_and_knows_no_folder_it_was_made_in(self, wheel: Path) -> None:
        for content in compiled_in(wheel).values():
            sections = read_module(content).sections
            assert not {name for name in sections if name.startswith((".debug", ".symtab"))}
            assert not read_module(content).run_paths
            for folder in (b"/build/wheels", b"/site-packages", b"/include/python", b"/home/"):
                assert folder not in content

    def test_it_is_small_and_holds_the_package_alone(self, wheel: Path) -> None:
        assert wheel.stat().st_size <= LARGEST_WHEEL
        with zipfile.ZipFile(wheel) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
            dates = {info.date_time for info in archive.infolist()}
        assert {name.parts[0].partition("-")[0] for name in names} == {"cirrus_fast"}
        package = [name for name in names if name.parts[0] == "cirrus_fast"]
        assert {name.suffix or name.name for name in package} == {".py", ".pyi", ".so", ".typed"}
        assert len(dates) == 1


def test_a_list_of_wheels_is_of_both_architectures() -> None:
    machines = [read_module(module_in(wheel)[1]).machine for wheel in WHEELS]
    assert sorted(machines) in ([], ["aarch64", "x86_64"])
