"""Real LibSVM files, parsed by every implementation, against the reference, bit for bit."""

import gzip
import hashlib
import os
import re
from pathlib import Path

import pytest

from cirrus_fast import _kernels
from cirrus_fast._reference import parse_libsvm_reference
from cirrus_fast.data.text import parse_libsvm, parse_text, write_libsvm

OTHER_FORMATS = re.compile(r"\.(md|csv|tsv|vw|vw\.gz)$|ffm")


def folders():
    yield Path(__file__).parents[1] / "data"
    if extra := os.environ.get("CIRRUS_FAST_TEST_DATA"):
        yield Path(extra)


FILES = [
    path
    for folder in folders()
    for path in sorted(folder.iterdir())
    if path.is_file() and not OTHER_FORMATS.search(path.name)
]


def content(path):
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def test_the_files_are_there():
    assert len(FILES) >= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_agrees_with_the_reference(path, assert_same_rows, tmp_path):
    text = content(path)
    csr = parse_libsvm(text)
    assert_same_rows(csr, parse_libsvm_reference(text))
    assert_same_rows(parse_libsvm(text, n_threads=3), csr)

    zero_based = parse_text(text).min_index == 0
    write_libsvm(csr, tmp_path / "again.svm", zero_based=zero_based)
    again = (tmp_path / "again.svm").read_bytes()
    assert_same_rows(parse_libsvm(again, n_features=csr.n_features), csr)


DIGESTS = """
import gzip, hashlib, sys
from pathlib import Path
from cirrus_fast import _kernels
from cirrus_fast.data.text import parse_libsvm

print(_kernels.active_impl())
for path in map(Path, sys.argv[1:]):
    text = path.read_bytes()
    text = gzip.decompress(text) if path.suffix == ".gz" else text
    digest = hashlib.sha256()
    for options in ({}, {"hash_bits": 18}, {"zero_based": True, "n_threads": 2}):
        csr = parse_libsvm(text, **options)
        for array in (csr.labels, csr.indptr, csr.indices, csr.data):
            digest.update(array.tobytes())
    print(digest.hexdigest())
"""


def test_all_implementations_agree(run_python):
    outputs = {}
    for name in _kernels.implementations():
        active, *digests = run_python(DIGESTS, *FILES, CIRRUS_FAST_FORCE_IMPL=name).split()
        assert active == name
        assert len(digests) == len(FILES)
        outputs[name] = digests
    assert all(digests == outputs["scalar"] for digests in outputs.values())


def test_files_are_the_ones_described(data_dir):
    described = dict(
        re.findall(
            r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (data_dir / "README.md").read_text(), re.M
        )
    )
    for path in FILES:
        if path.parent == data_dir:
            assert described[path.name] == hashlib.sha256(content(path)).hexdigest()
