"""A short, always equal run of the LibSVM fuzzer under the sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def fuzzer(repository, tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("fuzz")
    empty = folder / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    probe = subprocess.run(["cc", *SANITIZERS, empty, "-o", folder / "empty"], check=False)
    if probe.returncode != 0:
        pytest.skip("needs the sanitizers")
    sources = [HERE / "fuzz_libsvm.c", HERE / "driver.c", *sorted(repository.glob("csrc/*.c"))]
    program = folder / "fuzz_libsvm"
    command = ["cc", "-std=c11", "-O1", "-g", *SANITIZERS, "-I", repository / "csrc"]
    subprocess.run([*command, *sources, "-lm", "-o", program], check=True)
    return program


def test_replay_and_mutations(fuzzer):
    corpus = [*sorted(HERE.glob("corpus_libsvm/*")), *sorted(HERE.glob("../conformance/*.svm"))]
    ran = subprocess.run(
        [fuzzer, "1", "10000", *corpus],
        capture_output=True,
        text=True,
        check=False,
        # Leak checking needs ptrace, which some containers refuse.
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=4"},
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert ran.stdout == f"{10000 + len(corpus)} inputs\n"
