"""Real Criteo rows in every layout in circulation, against the reference, bit for bit."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast._reference import parse_criteo_reference
from cirrus_fast.data.criteo import parse_criteo, read_layout


def folders():
    yield Path(__file__).parents[1] / "data"
    if extra := os.environ.get("CIRRUS_FAST_TEST_DATA"):
        yield Path(extra)


FILES = [
    path
    for folder in folders()
    for path in sorted(folder.glob("criteo_*.[ct]sv"))
    if path.is_file()
]


def test_the_files_are_there():
    assert {path.name for path in FILES} >= {"criteo_200.csv", "criteo_300.tsv"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_agrees_with_the_reference(path, assert_same_rows):
    text = path.read_bytes()
    for bits in (19, 8):
        expected, _ = parse_criteo_reference(text, bits)
        assert_same_rows(parse_criteo(text, bits), expected)
    csr = parse_criteo(text)
    lines = text.rstrip(b"\r\n").count(b"\n") + 1 - (path.suffix == ".csv")
    assert csr.n_rows == lines
    assert set(csr.labels.tolist()) <= {0, 1}
    # Nothing is lost: an entry for each integer, a one for each category.
    layout = read_layout(text)
    rest = text[layout.rows_begin :].replace(b"\r", b"").rstrip(b"\n").split(b"\n")
    cells = [line.split(layout.separator.encode()) for line in rest]
    first = layout.has_id + layout.has_label
    assert sum(bool(cell) for row in cells for cell in row[first : first + 13]) == int(
        (csr.indices < 13).sum()
    )
    assert sum(bool(cell) for row in cells for cell in row[first + 13 :]) == int(
        csr.data[csr.indices >= 13].sum()
    )


def test_files_are_the_ones_described(data_dir):
    described = dict(
        re.findall(
            r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (data_dir / "README.md").read_text(), re.M
        )
    )
    for path in FILES:
        if path.parent == data_dir:
            assert described[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_both_files_have_the_published_counts(data_dir):
    csr = parse_criteo((data_dir / "criteo_200.csv").read_bytes())
    assert (csr.n_rows, int(csr.labels.sum())) == (200, 49)
    tsv = parse_criteo((data_dir / "criteo_300.tsv").read_bytes())
    assert tsv.n_rows == 300
    assert np.float32(-1) in tsv.data  # I2 goes down to -3
