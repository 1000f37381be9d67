"""Which kernels are chosen: the best this CPU has, unless one is forced."""

import os
import platform
from pathlib import Path

import pytest

from cirrus_fast import _kernels

ACTIVE = "from cirrus_fast import _kernels; print(_kernels.active_impl())"
AVX2 = {"avx2", "bmi1", "bmi2", "abm", "popcnt", "sse4_2"}
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vbmi2"}


def expected_implementations():
    """By what the kernel says of the CPU, which is not how cf_dispatch.c finds out. Under an
    emulator it says that of another one: tests/wheels/run_emulated.sh names those there are."""
    if named := os.environ.get("EXPECTED_IMPLEMENTATIONS"):
        return named.split()
    if platform.machine() == "aarch64":  # every ARM of 64 bits that Linux runs on has it
        return ["neon", "scalar"]
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return ["scalar"]
    lines = cpuinfo.read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    best = ["avx512"] if flags >= AVX2 | AVX512 else []
    return [*best, *(["avx2"] if flags >= AVX2 else []), "scalar"]


def test_every_implementation_the_cpu_can_run_is_offered():
    assert _kernels.implementations() == expected_implementations()


def test_the_best_one_is_chosen(run_python):
    assert run_python(ACTIVE, CIRRUS_FAST_FORCE_IMPL="").strip() == expected_implementations()[0]


@pytest.mark.parametrize("name", _kernels.implementations())
def test_each_can_be_forced(run_python, name):
    assert run_python(ACTIVE, CIRRUS_FAST_FORCE_IMPL=name).strip() == name


def test_an_unknown_one_is_refused_with_those_there_are(run_python):
    script = f"""
try:
    {ACTIVE}
except ImportError as error:
    print(error)
"""
    said = run_python(script, CIRRUS_FAST_FORCE_IMPL="sse9").strip()
    assert said == (
        "CIRRUS_FAST_FORCE_IMPL=sse9: this CPU and build have "
        + ", ".join(expected_implementations())
    )
