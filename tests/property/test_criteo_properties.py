"""Random Criteo rows, right and wrong, against the reference; splitting changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cirrus_fast import _kernels
from cirrus_fast._reference import criteo_id_reference, parse_criteo_reference
from cirrus_fast.data.criteo import parse_criteo, parse_criteo_range, read_layout
from cirrus_fast.errors import CriteoParseError

reproducible = settings(
    derandomize=True,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NAMES = [f"I{n}" for n in range(1, 14)] + [f"C{n}" for n in range(1, 27)]
INTEGERS = ["", "", "0", "1", "7", "42", "12345", "1234567", "12345678", "123456789"] * 3 + [
    *("-1", "-2.0", "260.0", "0.5", "-0", "+3", "1e3", "-12345678.0", "5.", ".5", "1.00"),
    *("x", "-", "1x", "1e39", "nan", '"1"', " 1", "1.0x", "--1", "1.0.0", "123456789x"),
]
CATEGORIES = ["", "68fd1e64", "80e26c9b", "fb936136", "25c83c98", "7e0ccccf"] * 5 + [
    *("a", "1", "ABC", "1234567", "123456789", "a category of many bytes", "/x", "\xff\xfe"),
    *('"a"', "a b", 'a"', "{}", "~~~~~~~~", "-1", "/" * 8),
]
LABELS = ["0", "1"] * 8 + ["1.0", "0.0", "", "2", "-1", "x", '"0"', "00", "1e0"]
ENDS = ["\n"] * 10 + ["\r\n", "\r\n", "\n\n", "\r", "", "\0\n"]


@st.composite
def rows(draw, separator, leading):
    # One draw a row, not one a cell: hypothesis would spend its time on choosing.
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    odd = rng.random() < 0.4

    def pick(choices, usual):
        return choices[rng.integers(len(choices) if odd else usual)]

    cells = [pick(LABELS, 16) if name == "label" else "1000" for name in leading]
    cells += [pick(INTEGERS, 30) for _ in range(13)] + [pick(CATEGORIES, 30) for _ in range(26)]
    cells = cells[: len(cells) + rng.integers(-4, 1)] if rng.random() < 0.2 else cells
    if odd and rng.random() < 0.3:
        cells = [*cells, "x"] if rng.random() < 0.5 else cells[: rng.integers(1, len(cells))]
    return separator.join(cells) + ENDS[rng.integers(len(ENDS) if odd else 10)]


@st.composite
def texts(draw):
    """(text, has_labels)"""
    separator = draw(st.sampled_from("\t,"))
    has_header = draw(st.booleans())
    leading = draw(st.sampled_from([["label"], ["label"], [], ["id", "label"], ["id"]]))
    if not has_header and "id" in leading:
        leading = leading[1:]
    parts = []
    if has_header:
        names = [name.capitalize() for name in leading] + NAMES
        parts.append(separator.join(names) + draw(st.sampled_from(["\n", "\r\n"])))
    parts += draw(st.lists(rows(separator, leading), max_size=5))
    text = bytearray("".join(parts), "latin-1")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        if text:
            text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text) + draw(st.sampled_from([b"", b"\n" * 40])), has_header or "label" in leading


def outcome(parse, *args, **options):
    try:
        return parse(*args, **options)
    except CriteoParseError as error:
        return error


@reproducible
@given(st.one_of(texts(), st.tuples(st.binary(max_size=120), st.booleans())), st.integers(5, 31))
def test_any_bytes_agree_with_the_reference(assert_same_rows, case, bits):
    text, labelled = case
    expected = outcome(parse_criteo_reference, text, bits, has_labels=labelled)
    actual = outcome(parse_criteo, text, bits, has_labels=None if labelled else False)
    if isinstance(actual, CriteoParseError) and "has_labels" in actual.reason:
        return  # a byte was changed into a header's
    if isinstance(expected, CriteoParseError):
        assert isinstance(actual, CriteoParseError)
        assert str(actual) == str(expected)
        assert 0 <= actual.offset < len(text)
        return
    assert_same_rows(actual, expected[0])


@reproducible
@given(texts())
def test_skipping_agrees_with_the_reference(assert_same_rows, case):
    text, labelled = case
    layout = outcome(read_layout, text, has_labels=None if labelled else False)
    if isinstance(layout, CriteoParseError):
        return
    expected, skipped = parse_criteo_reference(text, has_labels=labelled, skip_bad_rows=True)
    parsed = parse_criteo_range(text, layout.rows_begin, layout=layout, skip_bad_rows=True)
    assert_same_rows(parsed.rows, expected)
    assert parsed.n_skipped == len(skipped)
    if skipped:
        assert str(parsed.first_skipped) == str(skipped[0])


def joined(parts):
    return (
        np.concatenate([part.rows.labels for part in parts]).tobytes(),
        np.concatenate([np.diff(part.rows.indptr) for part in parts]).tobytes(),
        np.concatenate([part.rows.indices for part in parts]).tobytes(),
        np.concatenate([part.rows.data for part in parts]).tobytes(),
        sum(part.n_skipped for part in parts),
    )


@settings(reproducible, max_examples=30)
@given(texts())
def test_splitting_at_every_byte_and_joining_equals_one_parse(case):
    text, labelled = case
    layout = outcome(read_layout, text, has_labels=None if labelled else False)
    if isinstance(layout, CriteoParseError):
        return

    def parse(begin, end):
        return parse_criteo_range(text, begin, end, layout=layout, skip_bad_rows=True)

    first = layout.rows_begin
    whole = joined([parse(first, len(text))])
    for cut in range(first, len(text) + 1):
        assert joined([parse(first, cut), parse(cut, len(text))]) == whole, cut


@reproducible
@given(st.integers(1, 26), st.binary(min_size=1, max_size=40), st.integers(5, 31))
def test_hash_agrees_with_the_reference(column, cell, bits):
    index = _kernels.criteo_id(column, cell, bits)
    assert index == criteo_id_reference(column, cell, bits)
    assert 13 <= index < 2**bits


@pytest.mark.parametrize("separator", ["\t", ","])
def test_splitting_plain_rows_at_every_byte(separator):
    cells = ["1", *"1234567890", "", "-1", "260.0", *(f"{n:08x}" for n in range(26))]
    text = "\n".join(separator.join(cells) for _ in range(3)).encode()
    layout = read_layout(text)
    whole = joined([parse_criteo_range(text, layout=layout)])
    for cut in range(len(text) + 1):
        parts = [
            parse_criteo_range(text, 0, cut, layout=layout),
            parse_criteo_range(text, cut, layout=layout),
        ]
        assert joined(parts) == whole
