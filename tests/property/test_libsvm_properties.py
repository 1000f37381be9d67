"""What holds for every text: agreement with the reference, round trips, splits."""

import io
import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cirrus_fast._reference import parse_libsvm_reference, parse_text_reference
from cirrus_fast.data import text as text_module
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.text import TextParser, parse_libsvm, parse_text, write_libsvm
from cirrus_fast.errors import LibsvmParseError

pytestmark = pytest.mark.filterwarnings("ignore::cirrus_fast.errors.SkippedRowsWarning")

reproducible = settings(
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LABELS = ["1", "0", "-1", "+1", "2.5", "1e-3", "-0"] * 3 + [
    *(
        "spam",
        "nan",
        "-inf",
        "1:2",
        "1:",
        "1:-1",
        "1:nan",
        "1e40",
        "0:0.5",
        "1:1:1",
        "1:1e39",
        "1.",
    ),
]
INDICES = [str(i) for i in range(12)] * 2 + [
    *("12345678", "123456789", "1234567890123456", "4294967294", "4294967295", "007"),
    *("18446744073709551615", "18446744073709551616", "+1", "-1", "1.0", "", "qid", "x"),
]
VALUES = ["1", "0.186651", "2", "-0.5", "1e-3", ".5", "5.", "-0"] * 3 + [
    *("1e-50", "1e39", "3.4028235677973366e38", "3.4028235677973362e38", "nan", "-Infinity"),
    *("nan(ind)", "1.#INF", "0x1", "1_0", "+3", "123456789.123456789", "0.30112345678901234"),
    *("1" * 30, "", "abc", "1e", "-", ".", "e5", "1,5", "9007199254740993", "1e" + "9" * 30),
]
BLANKS = [" "] * 12 + ["\t", "  ", " \t", ""]
ENDS = ["\n"] * 8 + [
    "\r\n",
    " \n",
    "\t\n",
    " # note 1:1\n",
    "#\n",
    "\n\n",
    "\r",
    "\0",
    "\n# c\n",
    "",
]


@st.composite
def lines(draw):
    parts = [draw(st.sampled_from(["", "", "", " ", "\t "])), draw(st.sampled_from(LABELS))]
    parts.append(draw(st.sampled_from([""] * 6 + [" qid:3", " qid:x", " qid:", "\tqid:99 qid:1"])))
    for index in draw(st.lists(st.integers(0, 30), max_size=8, unique=True).map(sorted)):
        odd = draw(st.integers(0, 9)) == 0
        parts += [
            draw(st.sampled_from(BLANKS)) if odd else " ",
            draw(st.sampled_from(INDICES)) if odd else str(index),
            ":",
            draw(st.sampled_from(VALUES)),
        ]
    return "".join(parts) + draw(st.sampled_from(ENDS))


@st.composite
def texts(draw):
    """Lines that are mostly right, a few bytes changed in some; long enough for the fast path."""
    text = bytearray("".join(draw(st.lists(lines(), max_size=6))), "latin-1")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        if text:
            text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text) + draw(st.sampled_from([b"", b"\n" + b" " * 64]))


hash_bits = st.sampled_from([None, None, 1, 3, 20, 32])
flags = {
    "label_weights": st.booleans(),
    "allow_nonfinite": st.booleans(),
    "skip_bad_rows": st.booleans(),
}


def outcome(parse, *args, **options):
    try:
        return parse(*args, **options)
    except LibsvmParseError as error:
        return error


@pytest.fixture
def assert_same_outcome(assert_same_rows):
    def check(actual, expected):
        if isinstance(expected, LibsvmParseError):
            assert isinstance(actual, LibsvmParseError)
            assert str(actual) == str(expected)  # reason, line, column and offset
            return
        assert not isinstance(actual, LibsvmParseError), actual
        assert_same_rows(actual, expected)
        if hasattr(expected, "first_skipped"):
            assert str(actual.first_skipped) == str(expected.first_skipped)

    return check


@reproducible
@given(
    st.one_of(texts(), st.binary(max_size=200)),
    st.fixed_dictionaries({"zero_based": st.sampled_from([None, False]), "hash_bits": hash_bits}),
    st.fixed_dictionaries(flags),
)
@example(b"1 1:1.#INF", {}, {})
@example(b"\r", {}, {})
@example(b"1 1:1\r", {}, {})
def test_any_bytes_agree_with_the_reference(assert_same_outcome, text, options, choices):
    options = {**options, **choices}
    expected = outcome(parse_text_reference, text, **options)
    assert_same_outcome(outcome(parse_text, text, **options), expected)


@reproducible
@given(
    texts(),
    st.sampled_from(["auto", True, False]),
    st.sampled_from([None, None, 0, 5, 12, 2**32]),
    st.integers(1, 5),
    st.fixed_dictionaries(flags),
)
def test_base_width_and_threads_agree_with_the_reference(
    assert_same_outcome, text, zero_based, n_features, n_threads, choices
):
    options = {"zero_based": zero_based, "n_features": n_features, **choices}
    expected = outcome(parse_libsvm_reference, text, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "MIN_BYTES_PER_THREAD", 1)
        actual = outcome(parse_libsvm, text, n_threads=n_threads, **options)
    assert_same_outcome(actual, expected)


@reproducible
@given(texts(), st.fixed_dictionaries(flags))
def test_an_error_lies_in_the_text_and_its_line_counts_newlines(text, choices):
    error = outcome(parse_libsvm, text, **choices)
    if not isinstance(error, LibsvmParseError):
        return
    assert 0 <= error.offset < len(text)
    assert error.line == text.count(b"\n", 0, error.offset) + 1
    assert error.column == error.offset - (text.rfind(b"\n", 0, error.offset) + 1) + 1
    # Nothing before it is at fault: the rows above parse by themselves.
    above = text[: text.rfind(b"\n", 0, error.offset) + 1]
    assert not isinstance(outcome(parse_text, above, **choices), LibsvmParseError)


def joined(parts):
    return (
        np.concatenate([part.labels for part in parts]).tobytes(),
        np.concatenate([np.diff(part.indptr) for part in parts]).tobytes(),
        np.concatenate([part.indices for part in parts]).tobytes(),
        np.concatenate([part.data for part in parts]).tobytes(),
        sum(part.n_skipped for part in parts),
    )


def check_every_split(text, **options):
    whole = joined([parse_text(text, **options)])
    for cut in range(len(text) + 1):
        parts = [parse_text(text, 0, cut, **options), parse_text(text, cut, **options)]
        assert joined(parts) == whole, cut


@settings(reproducible, max_examples=60)
@given(texts(), hash_bits)
def test_splitting_at_every_byte_and_joining_equals_one_parse(text, bits):
    check_every_split(text, skip_bad_rows=True, label_weights=True, hash_bits=bits)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_splitting_real_looking_text_at_every_byte(newline):
    text = newline.join(
        [
            b"# header: 1:1",
            b"1 1:0.5 3:2 12345678:1",
            b"",
            b"  -1\t2:1 # 4:4",
            b"0",
            b"+1 qid:5 1:1e-3 2:.5 9:7 ",
            b"1 5:0.30112345678901234",
        ]
    )
    check_every_split(text)
    check_every_split(text + newline + b" " * 64)


@settings(reproducible, max_examples=60)
@given(texts(), st.lists(st.integers(0, 10_000), max_size=5))
def test_many_cuts(text, cuts):
    cuts = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parts = [
        parse_text(text, begin, end, skip_bad_rows=True) for begin, end in itertools.pairwise(cuts)
    ]
    assert joined(parts) == joined([parse_text(text, skip_bad_rows=True)])


@settings(reproducible, max_examples=100)
@given(texts(), st.lists(st.integers(0, 10_000), max_size=5), hash_bits, st.booleans())
def test_reused_memory_holds_what_fresh_memory_does(
    assert_same_rows, text, cuts, bits, label_weights
):
    options = {"skip_bad_rows": True, "hash_bits": bits, "label_weights": label_weights}
    parser = TextParser(**options)
    cuts = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for begin, end in itertools.pairwise(cuts):
        parsed, expected = (
            parse(text, begin, end)
            for parse in (parser.parse, lambda *range_: parse_text(*range_, **options))
        )
        assert_same_rows(parsed, expected)
        assert parsed.n_skipped == expected.n_skipped
        assert str(parsed.first_skipped) == str(expected.first_skipped)


click_values = st.sampled_from(["1"] * 6 + ["0.186651", "12", "-0.5", "1e-05", "0.0757212"])


@st.composite
def click_rows(draw):
    """Rows of a click log, one piece of it changed now and then."""
    ids = draw(st.lists(st.integers(1, 2**20), min_size=1, max_size=120, unique=True).map(sorted))
    values = draw(st.lists(click_values, min_size=len(ids), max_size=len(ids)))
    row = " ".join(["1", *(f"{i}:{v}" for i, v in zip(ids, values, strict=True))]) + "\n"
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(row) - 1))
        row = row[:place] + draw(st.sampled_from(" \t\n\r:.-e#x9")) + row[place + 1 :]
    return row


@settings(reproducible, max_examples=100)
@given(st.lists(click_rows(), min_size=1, max_size=12), st.booleans())
def test_long_rows_agree_with_the_reference(assert_same_outcome, rows, skip):
    text = "".join(rows).encode() + b" " * 128
    expected = outcome(parse_text_reference, text, skip_bad_rows=skip)
    assert_same_outcome(outcome(parse_text, text, skip_bad_rows=skip), expected)


floats32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
weights32 = st.floats(0, width=32, allow_nan=False, allow_infinity=False)


@st.composite
def csrs(draw):
    rows = draw(
        st.lists(
            st.tuples(
                floats32,
                st.dictionaries(st.integers(0, 2**32 - 3), floats32, max_size=6),
                weights32,
            ),
            max_size=6,
        )
    )
    entries = [entry for _, row, _ in rows for entry in sorted(row.items())]
    weighted = draw(st.booleans())
    canonical = np.array([np.nan, -np.nan], np.float32)  # the payload of a NaN has no text

    def array(values):
        values = np.array(values, np.float32)
        odd = np.isnan(values)
        values[odd] = np.where(np.signbit(values[odd]), canonical[1], canonical[0])
        return values

    return CSR(
        labels=array([label for label, _, _ in rows]),
        indptr=np.cumsum([0, *(len(row) for _, row, _ in rows)], dtype=np.int64),
        indices=np.array([index for index, _ in entries], np.uint32),
        data=array([value for _, value in entries]),
        n_features=2**32 - 2,
        weights=np.array([weight for *_, weight in rows], np.float32) if weighted else None,
    )


@reproducible
@given(csrs(), st.booleans())
def test_parsing_what_was_written_is_the_identity(assert_same_rows, csr, zero_based):
    file = io.BytesIO()
    write_libsvm(csr, file, zero_based=zero_based)
    back = parse_libsvm(
        file.getvalue(),
        zero_based=zero_based,
        n_features=csr.n_features,
        label_weights=csr.weights is not None,
        allow_nonfinite=True,
    )
    assert_same_rows(back, csr)


def test_every_kind_of_float32_survives_writing(assert_same_rows):
    """A few hundred thousand bit patterns, all exponents."""
    rng = random.Random(7)
    patterns = np.array([rng.getrandbits(32) for _ in range(200_000)], np.uint32)
    data = patterns.view(np.float32)
    data = data[np.isfinite(data)]
    n = len(data)
    csr = CSR(data, np.arange(n + 1), np.arange(n, dtype=np.uint32), data, n)
    file = io.BytesIO()
    write_libsvm(csr, file)
    assert_same_rows(parse_libsvm(file.getvalue(), n_threads=2), csr)
