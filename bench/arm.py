"""Instructions that the kernels execute on ARM, NEON beside scalar: `python -m bench.arm`.

There is no ARM to time them on. The core alone is compiled by aarch64-linux-gnu-gcc and run by
qemu's user mode with one instruction to a block, each of which it logs when it runs; a kernel's
count is what a second call adds. Needs Debian's gcc-aarch64-linux-gnu and qemu-user-static.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import cirrus_fast
from bench.instructions import HASH_BITS, ROWS

ROOT = Path(__file__).parents[1]
COMPILER = os.environ.get("CC", "aarch64-linux-gnu-gcc").split()
QEMU = ["qemu-aarch64-static", "-cpu", "neoverse-n1", "-singlestep", "-d", "exec,nochain"]
# The gradient of a mini-batch is one piece of C for all tables, in vectors of four.
KERNELS = {
    "count": "counting separators",
    "crc": "CRC-32C",
    "parse": "parsing",
    "decode": "decoding",
    "minibatches": "decoding and localising, mini-batches of 200",
    "gradient": "gradient of 200 rows",
    "adagrad": "adagrad pass",
    "ftrl": "ftrl pass",
    "sgd": "sgd pass",
}


def build(scratch: Path) -> Path:
    program = scratch / "arm"
    flags = ["-static", "-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-DNDEBUG"]
    sources = sorted((ROOT / "csrc").glob("*.c"))
    command = [*COMPILER, *flags, f"-I{ROOT}/csrc", ROOT / "bench/arm.c", *sources]
    subprocess.run([*command, "-lm", "-o", program], check=True)
    return program


def write_rows(scratch: Path) -> list[Path]:
    """The rows of bench.instructions as text, one block and its dictionary."""
    text, block, dictionary = (scratch / name for name in ("rows.svm", "block", "dictionary"))
    cirrus_fast.make_clicks(text, ROWS, seed=1, hash_bits=HASH_BITS)
    dataset = cirrus_fast.load_libsvm(text, str(scratch / "set"), n_threads=1)
    (only,) = dataset.blocks
    block.write_bytes(dataset.read_bytes(only))
    assert dataset.manifest.dictionary is not None
    dictionary.write_bytes((scratch / "set" / dataset.manifest.dictionary).read_bytes())
    return [text, block, dictionary]


def executed(command: list[object]) -> int:
    """Lines of qemu's log, which goes to its standard error."""
    with subprocess.Popen([*QEMU, *map(str, command)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        n = 0
        while part := process.stderr.read(1 << 20):
            n += part.count(b"\n")
    if process.returncode:
        raise SystemExit(f"{command[1]}: failed with {process.returncode}")
    return n


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        program, rows = build(scratch), write_rows(scratch)
        print(f"{ROWS:,} rows, instructions{'neon':>34}{'scalar':>12}{'ratio':>8}")
        for kernel, title in KERNELS.items():
            neon, scalar = (
                executed([program, kernel, table, 2, *rows])
                - executed([program, kernel, table, 1, *rows])
                for table in ("neon", "scalar")
            )
            print(f"{title:46}{neon:>12,}{scalar:>12,}{neon / scalar:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
