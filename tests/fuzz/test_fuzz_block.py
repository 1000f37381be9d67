"""A few seconds of the block fuzzer under sanitizers; `make fuzz` runs it for longer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.csr import CSR

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def test_block_fuzzer_finds_nothing(
    compile_core: Callable[..., Path], make_rows: Callable[..., CSR], tmp_path: Path
) -> None:
    try:
        program = compile_core(
            "fuzz_block",
            "tests/fuzz/fuzz_block.c",
            "tests/fuzz/driver_block.c",
            flags=SANITIZE,
        )
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no sanitizers")
    seeds = []
    for kind in ("ones", "numbers", "counts", "reals", "exceptions", "wide", "dense", "long"):
        dictionary = Dictionary.build(make_rows(kind, 2000))
        for n_rows in (0, 1, 5, 60):
            rows = make_rows(kind, n_rows, seed=7, weights=n_rows == 5)
            for used in (None, dictionary):
                block = encode_block(
                    rows.labels, rows.indptr, rows.indices, rows.data, rows.weights, used
                )
                serialised = used.to_bytes() if used else b""
                seed = tmp_path / f"{kind}-{n_rows}-{used is not None}"
                seed.write_bytes(len(serialised).to_bytes(2, "little") + serialised + block)
                seeds.append(seed)
    done = subprocess.run([program, "1", "20000", *seeds], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
