"""Instructions that our kernels execute, counted by callgrind: the same whatever else the machine
does, so a regression shows where times cannot show it.

`python -m bench.instructions` counts again and compares with the committed instructions.json; it
fails where a kernel executes more than 3 % more. Meant or unavoidable? `--accept` writes the new
counts, and the commit says why. Counted is what runs in the compiled module alone, under scalar and
AVX2 (valgrind knows no AVX-512).
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
COMMITTED = HERE / "instructions.json"
IMPLEMENTATIONS = ("scalar", "avx2")
TOLERANCE = 0.03
ROWS, HASH_BITS = 2_000, 14

# Tells valgrind when to count; nothing outside of it.
_REQUESTS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""


def kernels(scratch: Path) -> tuple[str, dict[str, Callable[[], object]]]:
    """A digest of the rows, and what is counted, by name."""
    import numpy as np

    import cirrus_fast
    from bench import ours

    path = scratch / "rows.svm"
    cirrus_fast.make_clicks(path, ROWS, seed=1, hash_bits=HASH_BITS)
    text = path.read_bytes()
    rows = cirrus_fast.parse_libsvm(text, n_features=1 << HASH_BITS)
    coded = ours.coded(ours.load(path, scratch / "set", 1))
    passes = {
        f"{optimizer} pass{by}": ours.Trainer(rows, optimizer, minibatch_size=size).one_pass
        for optimizer, size, by in (
            ("adagrad", 1, ""),
            ("adagrad", 200, ", mini-batches of 200"),
            ("ftrl", 1, ""),
            ("sgd", 1, ""),
        )
    }
    passes |= {
        f"16 models, {optimizer} pass{by}": ours.GridTrainer(
            rows, optimizer, minibatch_size=size
        ).one_pass
        for optimizer, size, by in (
            ("adagrad", 1, ""),
            ("adagrad", 200, ", mini-batches of 200"),
            ("ftrl", 1, ""),
            ("sgd", 1, ""),
        )
    }
    scaling = ours.MaxAbs(rows)
    weights = np.random.default_rng(3).normal(0, 0.01, rows.n_features).astype(np.float32)
    margins = ours.score(rows, weights, 0.1)
    return hashlib.sha256(text).hexdigest()[:16], {
        "parse to a CSR": lambda: ours.parse_csr(text),
        "parse, streaming": lambda: ours.parse_blocks(text),
        "build a dictionary": lambda: ours.build_dictionary(rows),
        "encode a block": lambda: ours.encode(rows, coded.dataset.dictionary),
        "decode": lambda: list(ours.decode(coded, ordered=False)),
        "decode, ids in order": lambda: list(ours.decode(coded, ordered=True)),
        "decode and localise, mini-batches of 200": lambda: ours.decode_minibatches(coded, 200),
        "column statistics": lambda: ours.statistics(rows),
        "scale columns": lambda: scaling.scale(rows),
        "make entries ready": ours.Entries(rows).make_ready,
        "gradient of 200 rows": ours.Gradient(rows).compute,
        **passes,
        "score": lambda: ours.score(rows, weights, 0.1),
        "evaluate": lambda: ours.evaluate(margins, rows),
    }


def run_kernels(library: str) -> None:
    """In the process that valgrind runs: each kernel once unseen, once counted."""
    requests = ctypes.CDLL(library)
    with tempfile.TemporaryDirectory() as scratch:
        digest, found = kernels(Path(scratch))
        print(f"rows {digest}", flush=True)
        for name, run in found.items():
            run()
            requests.start()
            run()
            requests.stop(name.encode())


def module_instructions(dump: str) -> int:
    """Instructions inside our compiled module, from a callgrind file: those of each function
    itself, what it calls left out, since that has lines of its own."""
    names: dict[str, str] = {}
    total, here, after_call = 0, False, False
    for line in dump.splitlines():
        if line.startswith("ob="):
            number, _, name = line[3:].partition(" ")
            names.setdefault(number, name)
            here = "_kernels" in names[number]
        elif line.startswith("cob="):  # may be where an object is named first
            number, _, name = line[4:].partition(" ")
            names.setdefault(number, name)
        elif line.startswith("calls="):
            after_call = True
        elif re.match(r"[\d+*-]", line):
            if here and not after_call:
                total += int(line.split()[-1])
            after_call = False
    return total


def count(impl: str, scratch: Path) -> tuple[str, dict[str, int]]:
    """The rows' digest, and instructions by kernel."""
    source, library = scratch / "requests.c", scratch / "requests.so"
    if not library.exists():
        source.write_text(_REQUESTS)
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-shared", "-fPIC", "-O2", source, "-o", library], check=True)
    folder = scratch / impl
    folder.mkdir()
    program = (
        f"import sys; sys.path.append({str(HERE.parent)!r}); "
        f"from bench.instructions import run_kernels; run_kernels({str(library)!r})"
    )
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-line=no", "-q"]
    run = subprocess.run(
        [*valgrind, f"--callgrind-out-file={folder}/out", sys.executable, "-c", program],
        env=os.environ | {"CIRRUS_FAST_FORCE_IMPL": impl, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = {}
    for path in sorted(folder.glob("out.*"), key=lambda path: int(path.suffix[1:])):
        dump = path.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (.*)$", dump, re.MULTILINE)
        if name:
            found[name[1]] = module_instructions(dump)
    return run.stdout.split()[1], found


def compiler_version() -> str:
    command = [*os.environ.get("CC", "cc").split(), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]


def measure() -> dict[str, object]:
    counts: dict[str, dict[str, int]] = {}
    digest = ""
    with tempfile.TemporaryDirectory() as scratch:
        for impl in IMPLEMENTATIONS:
            digest, found = count(impl, Path(scratch))
            for name, instructions in found.items():
                counts.setdefault(name, {})[impl] = instructions
    return {
        "machine": platform.machine(),
        "compiler": compiler_version(),
        "rows": {"count": ROWS, "digest": digest},
        "instructions": counts,
    }


def compare(before: dict, now: dict) -> list[str]:
    """What got worse, one line each; prints every kernel."""
    worse = []
    old, new = before["instructions"], now["instructions"]
    print(f"{'instructions':44}{'impl':8}{'committed':>12}{'now':>12}{'change':>9}")
    for name in {**old, **new}:
        for impl in IMPLEMENTATIONS:
            was, found = (counts.get(name, {}).get(impl) for counts in (old, new))
            shown = ["none" if n is None else f"{n:,}" for n in (was, found)]
            change = f"{found / was - 1:+9.1%}" if was and found else ""
            print(f"{name:44}{impl:8}{shown[0]:>12}{shown[1]:>12}{change}")
            if found is None:
                worse.append(f"{name}, {impl}: is committed, and was not counted now")
            elif was is None:
                worse.append(f"{name}, {impl}: is new, and has no committed count")
            elif found > was * (1 + TOLERANCE):
                worse.append(f"{name}, {impl}: {found / was - 1:+.1%}")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.instructions", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="write the counts as the new ones")
    chosen = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("counting instructions needs valgrind (Debian: apt-get install valgrind)")
        return 2
    now = measure()
    before = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else None
    worse = compare(before, now) if before else []
    if chosen.accept:
        COMMITTED.write_text(json.dumps(now, indent=1) + "\n")
        print(f"wrote {COMMITTED.name}; say in the commit why they changed")
        return 0
    if before is None:
        print(f"there is no {COMMITTED.name} to compare with: --accept makes one")
        return 2
    for key in ("machine", "compiler", "rows"):
        if before[key] != now[key]:
            print(f"note: {key} differs, which changes counts: {before[key]} -> {now[key]}")
    if worse:
        print(f"\nworse by more than {TOLERANCE:.0%}, or unknown:", *worse, sep="\n  ")
        print(
            "Make it as good as before; or, if the change is meant, accept the counts with\n"
            "  python -m bench.instructions --accept\nand say in the commit what they buy. With "
            "another compiler than the committed counts' first\naccept counts of the code as it "
            "was, then compare."
        )
        return 1
    print(f"no kernel executes more than {TOLERANCE:.0%} more instructions than committed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
