"""Files named by verdict: y_ must load, n_ must be refused at the byte in the sidecar, i_ are our
own choices, with the reason for each. Indices in the sidecars are as written."""

import json
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast._reference import parse_libsvm_reference
from cirrus_fast.data.text import parse_libsvm, parse_text
from cirrus_fast.errors import LibsvmParseError, SkippedRowsWarning

FILES = sorted(Path(__file__).parent.glob("*.svm"))
# The fast path leaves the last bytes of a text to the careful one: with this behind it, every
# line is tried by both.
PADDING = b"\n" + b" " * 64


def options_of(sidecar):
    return sidecar.get("options", {})


def sidecar_of(file):
    return json.loads(file.with_suffix(".json").read_text())


def accepted(prefix):
    return [f for f in FILES if f.name.startswith(prefix) and "rows" in sidecar_of(f)]


def refused(prefix):
    return [f for f in FILES if f.name.startswith(prefix) and "reason" in sidecar_of(f)]


def by_name(file):
    return file.stem


def test_every_file_has_a_verdict():
    assert {file.name[:2] for file in FILES} == {"y_", "n_", "i_"}
    assert len(accepted("y_")) == sum(file.name.startswith("y_") for file in FILES)
    assert len(refused("n_")) == sum(file.name.startswith("n_") for file in FILES)
    assert all("why" in sidecar_of(f) for f in FILES if f.name.startswith("i_"))


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["careful", "fast"])
@pytest.mark.parametrize("file", accepted("y_") + accepted("i_"), ids=by_name)
def test_loads(file, padding):
    sidecar = sidecar_of(file)
    text = file.read_bytes()
    if text.endswith(b"\r"):
        padding = b""  # only the end of the text makes that carriage return one
    parsed = parse_text(text + padding, **options_of(sidecar))
    rows = sidecar["rows"]
    entries = [entry for _, row in rows for entry in row.items()]
    same_bits(parsed.labels, [label for label, _ in rows])
    assert np.diff(parsed.indptr).tolist() == [len(row) for _, row in rows]
    assert parsed.indices.tolist() == [int(index) for index, _ in entries]
    same_bits(parsed.data, [float(value) for _, value in entries])
    assert parsed.n_skipped == sidecar.get("n_skipped", 0)
    if "weights" in sidecar:
        same_bits(parsed.weights, sidecar["weights"])


def same_bits(actual, expected):
    expected = np.array(expected, np.float32)
    np.testing.assert_array_equal(actual, expected)
    known = ~np.isnan(expected)
    assert np.signbit(actual[known]).tolist() == np.signbit(expected[known]).tolist()


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["careful", "fast"])
@pytest.mark.parametrize("file", refused("n_") + refused("i_"), ids=by_name)
def test_refuses(file, padding):
    sidecar = sidecar_of(file)
    text = file.read_bytes()
    with pytest.raises(LibsvmParseError) as caught:
        parse_libsvm(text + padding, **options_of(sidecar))
    error = caught.value
    assert (error.reason, error.offset) == (sidecar["reason"], sidecar["offset"])
    before = text[: error.offset]
    assert error.line == before.count(b"\n") + 1
    assert error.column == len(before.split(b"\n")[-1]) + 1


@pytest.mark.filterwarnings("ignore::cirrus_fast.errors.SkippedRowsWarning")
@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_agrees_with_the_reference(file, assert_same_rows):
    text = file.read_bytes()
    options = options_of(sidecar_of(file))
    if "reason" in sidecar_of(file):
        with pytest.raises(LibsvmParseError) as expected:
            parse_libsvm_reference(text, **options)
        with pytest.raises(LibsvmParseError) as caught:
            parse_libsvm(text, **options)
        assert str(caught.value) == str(expected.value)
    else:
        assert_same_rows(parse_libsvm(text, **options), parse_libsvm_reference(text, **options))


def test_a_skipped_row_is_announced():
    text = next(f for f in FILES if f.stem == "i_skipped").read_bytes()
    with pytest.warns(SkippedRowsWarning, match="skipped 2 bad rows, the first: label is not"):
        parse_libsvm(text, skip_bad_rows=True)
