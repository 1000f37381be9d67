"""A few seconds of every fuzz target under the sanitizers, always the same inputs.

Each line of targets.txt is a test; `make fuzz` runs them for longer.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
# Mutations by target, for about three seconds each.
FEWER = {"libsvm": 4_000, "encode": 1_000, "block": 5_000, "train": 10_000, "grid": 5_000}
USUAL = 30_000


def targets() -> list[tuple[str, list[Path]]]:
    lines = (HERE / "targets.txt").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [(name, [HERE / start for start in starts]) for name, *starts in words]


@pytest.fixture(scope="session")
def sanitizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("sanitizers")
    source = folder / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    try:
        command = ["cc", *SANITIZERS, str(source), "-o", str(folder / "empty")]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a C compiler with sanitizers")
    return SANITIZERS


def run(program: Path, *arguments: object, found: Path) -> subprocess.CompletedProcess[str]:
    # Leak checking needs ptrace, which some containers refuse: run_sanitized.sh does that.
    options = {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=4", "FUZZ_FOUND": str(found)}
    ours = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "UBSAN_OPTIONS")}
    return subprocess.run(
        [program, *map(str, arguments)],
        env=ours | options,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("name", "starts"), targets(), ids=[name for name, _ in targets()])
def test_target_finds_nothing(
    name: str,
    starts: list[Path],
    compile_core: Callable[..., Path],
    sanitizers: tuple[str, ...],
    tmp_path: Path,
) -> None:
    driver = "tests/fuzz/driver.c"
    program = compile_core(f"fuzz_{name}", f"tests/fuzz/fuzz_{name}.c", driver, flags=sanitizers)
    n = FEWER.get(name, USUAL)
    ran = run(program, n, 1, *starts, found=tmp_path)
    assert ran.returncode == 0, ran.stderr[-4000:]
    said = re.fullmatch(r"(\d+) executions, \d+ exec/s\n", ran.stdout)
    assert said is not None
    assert int(said[1]) > n
    assert list(tmp_path.iterdir()) == []


def test_every_target_is_listed() -> None:
    assert sorted(path.stem for path in HERE.glob("fuzz_*.c")) == sorted(
        f"fuzz_{name}" for name, _ in targets()
    )


PLANTED = """
#include "fuzz.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    uint8_t *copy = copy_exactly(data, n);
    volatile int sum = 2147483600;
    if (n > 2 && copy[0] == 'a' && copy[1] == 'b')
        sum += copy[2] == 'o' ? copy[n] : copy[2] == 'u' ? 100 : 0;
    CHECK(n < 3 || copy[2] != 'c');
    free(copy);
    return 0;
}
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("abo", "heap-buffer-overflow"),
        ("abu", "signed integer overflow"),
        ("abc", "not so: n < 3"),
    ],
)
def test_findings_are_kept_and_reported(
    text: str,
    says: str,
    compile_core: Callable[..., Path],
    sanitizers: tuple[str, ...],
    tmp_path: Path,
) -> None:
    source = tmp_path / "planted.c"
    source.write_text(PLANTED)
    program = compile_core("planted", str(source), "tests/fuzz/driver.c", flags=sanitizers)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a").write_text("ab")
    (tmp_path / "corpus" / "b").write_text(text)
    (tmp_path / "found").mkdir()
    ran = run(program, 0, 1, tmp_path / "corpus", found=tmp_path / "found")
    assert ran.returncode == 1, ran.stderr
    assert says in ran.stderr
    (kept,) = (tmp_path / "found").iterdir()
    assert kept.read_text() == text


def test_driver_refuses_what_it_cannot_use(
    compile_core: Callable[..., Path], sanitizers: tuple[str, ...], tmp_path: Path
) -> None:
    program = compile_core(
        "fuzz_number", "tests/fuzz/fuzz_number.c", "tests/fuzz/driver.c", flags=sanitizers
    )
    for arguments in [(), ("1",), ("x", "1"), ("1", "x"), ("1m", "1"), ("1", "1", "nowhere")]:
        assert run(program, *arguments, found=tmp_path).returncode == 2
