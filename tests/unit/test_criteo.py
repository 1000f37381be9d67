"""The reader of Criteo rows: what is refused and where, what is accepted, the hash."""

import mmap
import pickle

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast._reference import criteo_id_reference, parse_criteo_reference
from cirrus_fast.data.criteo import (
    CriteoLayout,
    parse_criteo,
    parse_criteo_range,
    read_layout,
)
from cirrus_fast.errors import CirrusFastError, CriteoParseError, LibsvmParseError, OptionError

COLUMNS = "wrong number of columns"
LABEL = "label is not 0 or 1"
NUMBER = "integer column is not a number"
QUOTE = "cell in quotes"
HEADER = "header is not [Id,][Label,]I1,..,I13,C1,..,C26"
VALUE_RANGE = "number is outside the range of float32"
BYTE = "NUL byte or stray carriage return"

NAMES = [f"I{n}" for n in range(1, 14)] + [f"C{n}" for n in range(1, 27)]
INTEGERS = [b"1", b"0", b"-2", b"", b"260.0", b"7", b"8", b"9", b"10", b"11", b"12", b"", b"14"]
CATEGORIES = [b"%08x" % (n * 40503 * 65537 % 2**32) for n in range(1, 27)]


def row(label=b"1", separator=b"\t", ident=None, **cells):
    """A row of good cells, some replaced by name."""
    values = dict(zip(NAMES, INTEGERS + CATEGORIES, strict=True)) | cells
    leading = [cell for cell in (ident, label) if cell is not None]
    return separator.join([*leading, *values.values()])


def header(*leading, separator=","):
    return separator.join([*leading, *NAMES]).encode()


GOOD = row()
AFTER = len(GOOD) + 1  # where a second row begins
NAMED = len(header("Id", "label")) + 1

# text, reason, offset, line, column
REFUSALS = {
    "one column": (b"1\n", COLUMNS, 0, 1, 1),
    "other data": (b"1 1:0.5 3:1\n", LABEL, 0, 1, 1),
    "too few": (GOOD + b"\n" + b"\t".join([b"1", *INTEGERS[:-1]]), COLUMNS, AFTER, 2, 1),
    "too many": (GOOD + b"\tx\n", COLUMNS, len(GOOD), 1, len(GOOD) + 1),
    "one too many, empty": (GOOD + b"\t", COLUMNS, len(GOOD), 1, len(GOOD) + 1),
    "too few with commas": (row(separator=b",").rpartition(b",")[0], COLUMNS, 0, 1, 1),
    "no label": (row(label=None), NUMBER, 33, 1, 34),
    "label 2": (GOOD + b"\n" + row(label=b"2"), LABEL, AFTER, 2, 1),
    "label -1": (row(label=b"-1"), LABEL, 0, 1, 1),
    "label empty": (row(label=b""), LABEL, 0, 1, 1),
    "label 1e0x": (row(label=b"1e0x"), LABEL, 0, 1, 1),
    "label 0.5": (row(label=b"0.5"), LABEL, 0, 1, 1),
    "blank before a label": (row(label=b" 1"), LABEL, 0, 1, 1),
    "integer x": (row(I2=b"x"), NUMBER, 4, 1, 5),
    "integer 1x": (row(I2=b"1x"), NUMBER, 4, 1, 5),
    "integer -": (row(I2=b"-"), NUMBER, 4, 1, 5),
    "integer 0x1": (row(I2=b"0x1"), NUMBER, 4, 1, 5),
    "integer nan": (row(I2=b"nan"), NUMBER, 4, 1, 5),
    "integer 1,5": (row(I2=b"1,5"), NUMBER, 4, 1, 5),
    "integer with a blank": (row(I2=b"1 "), NUMBER, 4, 1, 5),
    "integer 1e39": (row(I2=b"1e39"), VALUE_RANGE, 4, 1, 5),
    "quoted label": (row(label=b'"1"'), QUOTE, 0, 1, 1),
    "quoted integer": (row(I2=b'"1"'), QUOTE, 4, 1, 5),
    "quoted category": (row(C26=b'"a'), QUOTE, len(GOOD) - 8, 1, len(GOOD) - 7),
    "quoted id": (header("Id", "label") + b"\n" + row(b"1", b",", b'"7"'), QUOTE, NAMED, 2, 1),
    "NUL in a category": (row(C1=b"ab\0cdefg"), BYTE, GOOD.index(CATEGORIES[0]) + 2, 1, None),
    "NUL after an integer": (row(I2=b"1\0"), BYTE, 5, 1, 6),
    "NUL for a row": (GOOD + b"\n\0\n", LABEL, AFTER, 2, 1),
    "stray carriage return": (row(C26=b"a\rb"), BYTE, len(GOOD) - 7, 1, len(GOOD) - 6),
    "header of other data": (b"click,hour,C1\n1,2,3\n", HEADER, 0, 1, 1),
    "header too short": (header("label")[:-4] + b"\n", HEADER, 0, 1, 1),
    "header too long": (header("label") + b",C27\n", HEADER, 0, 1, 1),
    "header out of order": (header("label", "Id") + b"\n", HEADER, 0, 1, 1),
    "header in quotes": (b'"label","I1"\n', QUOTE, 0, 1, 1),
    "header later": (GOOD + b"\n" + header("label", separator="\t"), LABEL, AFTER, 2, 1),
    "byte order mark": (b"\xef\xbb\xbf" + header("label") + b"\n", LABEL, 0, 1, 1),
}


@pytest.mark.parametrize("pad", [b"", b"\n" * 64], ids=["as it is", "padded"])
@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_with_reason_and_place(case, pad):
    text, reason, offset, line, column = REFUSALS[case]
    with pytest.raises(CriteoParseError) as caught:
        parse_criteo(text + pad)
    error = caught.value
    assert (error.reason, error.offset, error.line) == (reason, offset, line)
    assert error.column == (offset + 1 if column is None else column)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (CriteoParseError, str(error))
    assert isinstance(error, CirrusFastError)
    assert isinstance(error, ValueError)
    assert not isinstance(error, LibsvmParseError)
    with pytest.raises(CriteoParseError) as expected:
        parse_criteo_reference(text)
    assert str(expected.value) == str(error)


def test_every_status_about_criteo_rows_is_reachable():
    texts = _kernels.status_texts()
    ours = texts[texts.index(COLUMNS) : texts.index(HEADER) + 1]
    assert len(ours) == 5
    assert set(ours) <= {reason for _, reason, *_ in REFUSALS.values()}


def entries(csr, i=0):
    span = slice(csr.indptr[i], csr.indptr[i + 1])
    return dict(zip(csr.indices[span].tolist(), csr.data[span].tolist(), strict=True))


def test_integers_keep_their_values_and_zero_differs_from_missing():
    found = entries(parse_criteo(GOOD))
    integers = {index: value for index, value in found.items() if index < 13}
    assert integers == {
        **{0: 1, 1: 0, 2: -2, 4: 260, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11, 10: 12, 12: 14},
    }


def test_categories_are_ones_at_their_hash():
    csr = parse_criteo(GOOD, 25)
    expected = {criteo_id_reference(n, cell, 25) for n, cell in enumerate(CATEGORIES, 1)}
    assert {index for index in entries(csr) if index >= 13} == expected
    assert all(value == 1 for index, value in entries(csr).items() if index >= 13)
    assert csr.n_features == 2**25
    assert (np.diff(csr.indices.astype(int)) > 0).all()


def test_categories_that_meet_are_summed():
    csr = parse_criteo(GOOD, 5)
    found = {index: value for index, value in entries(csr).items() if index >= 13}
    assert sum(found.values()) == 26
    assert len(found) <= 19
    assert max(found) < 32


def test_empty_rows_have_no_entries():
    csr = parse_criteo(b"0" + b"\t" * 39 + b"\n1" + b"\t" * 13 + b"\n")
    assert csr.labels.tolist() == [0, 1]
    assert csr.indptr.tolist() == [0, 0, 0]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("separator", [b"\t", b","])
@pytest.mark.parametrize("leading", [None, [], ["label"], ["Label"], ["Id", "Label"], ["ID"]])
def test_every_layout_gives_the_same_rows(leading, separator, last, ending, assert_same_rows):
    plain = parse_criteo(GOOD + b"\n" + row(b"0", I1=b"") + b"\n")
    named = [name.lower() for name in leading or []]
    labelled = leading is None or "label" in named
    lines = [] if leading is None else [header(*leading, separator=separator.decode())]
    for label, cells in ((b"1", {}), (b"0", {"I1": b""})):
        ident = b"1000" if "id" in named else None
        lines.append(row(label if labelled else None, separator, ident, **cells))
    csr = parse_criteo(ending.join(lines) + (ending if last else b""))
    if not labelled:
        assert not csr.labels.any()
        csr.labels[:] = plain.labels
    assert_same_rows(csr, plain)


def test_trimmed_rows_are_rows_with_empty_categories(assert_same_rows):
    cut = GOOD.rsplit(b"\t", 3)[0]
    assert_same_rows(parse_criteo(cut), parse_criteo(row(C24=b"", C25=b"", C26=b"")))
    with pytest.raises(CriteoParseError, match=COLUMNS):
        parse_criteo(cut.replace(b"\t", b","))


def test_lines_without_a_byte_are_no_rows(assert_same_rows):
    text = b"\n\r\n" + GOOD + b"\n\n\r\n" + GOOD + b"\r\n\r"
    assert_same_rows(parse_criteo(text), parse_criteo(GOOD + b"\n" + GOOD))


def test_text_without_header_and_labels(assert_same_rows):
    csr = parse_criteo(row(None), has_labels=False)
    assert csr.labels.tolist() == [0]
    assert entries(csr) == entries(parse_criteo(GOOD))
    with pytest.raises(CriteoParseError, match=COLUMNS):
        parse_criteo(GOOD, has_labels=False)
    with pytest.raises(CriteoParseError, match="header has a label column: has_labels is wrong"):
        parse_criteo(header("label"), has_labels=False)
    with pytest.raises(CriteoParseError, match="header has no label column"):
        parse_criteo(header("Id"), has_labels=True)


def test_labels_may_be_written_as_reals():
    assert parse_criteo(row(b"1.0") + b"\n" + row(b"0.0")).labels.tolist() == [1, 0]


def test_nothing_gives_no_rows():
    for text in (b"", b"\n", header("Id", "Label"), header("label") + b"\r\n"):
        csr = parse_criteo(text)
        assert (csr.n_rows, csr.nnz, csr.indptr.tolist()) == (0, 0, [0])


def test_bad_rows_can_be_skipped():
    text = b"\n".join([GOOD, row(b"7"), row(I3=b"x"), GOOD, b"1\t2", b""])
    parsed = parse_criteo_range(text, layout=CriteoLayout(), skip_bad_rows=True)
    assert (parsed.rows.n_rows, parsed.n_skipped) == (2, 3)
    assert str(parsed.first_skipped) == f"{LABEL} (line 2, column 1, byte {AFTER})"


@pytest.mark.parametrize("bits", [4, 32, -1, 2.5, True, "19"])
def test_bits_are_checked(bits):
    with pytest.raises(OptionError, match="give a whole number from 5 to 31"):
        parse_criteo(GOOD, bits)


def test_any_buffer_will_do(tmp_path, assert_same_rows):
    text = GOOD + b"\n"
    (tmp_path / "rows.tsv").write_bytes(text)
    with (tmp_path / "rows.tsv").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for buffer in (bytearray(text), memoryview(text), mapped, np.frombuffer(text, np.uint8)):
        assert_same_rows(parse_criteo(buffer), parse_criteo(text))


def test_layout_is_that_of_the_first_line_with_a_byte():
    assert read_layout(b"\n" + GOOD) == CriteoLayout("\t", False, True, 1)
    text = header("Id", "Label") + b"\r\n"
    assert read_layout(text) == CriteoLayout(",", True, True, len(text))


# column, cell, bits -> id. Data sets and models depend on these.
FIXED = [
    (1, b"68fd1e64", 19),
    (26, b"68fd1e64", 19),
    (1, b"a", 19),
    (2, b"a longer category of bytes", 31),
    (13, bytes(range(1, 9)), 5),
    (13, b"\xff" * 9, 24),
]


@pytest.mark.parametrize(("column", "cell", "bits"), FIXED)
def test_hash_agrees_with_the_reference(column, cell, bits):
    assert _kernels.criteo_id(column, cell, bits) == criteo_id_reference(column, cell, bits)


def test_hash_never_changes():
    found = [_kernels.criteo_id(*case) for case in FIXED]
    assert found == [380698, 455222, 174322, 1644911482, 28, 16194118]


def test_hash_spreads_evenly_over_all_ids():
    cells = [b"%08x" % n for n in range(2000)]
    counts = np.bincount([_kernels.criteo_id(c, cell, 8) for c in range(1, 27) for cell in cells])
    assert counts[:13].sum() == 0
    assert len(counts) == 256
    expected = 26 * 2000 / 243
    assert (np.abs(counts[13:] - expected) < 6 * expected**0.5).all()


def test_columns_hash_apart():
    """No two columns give the same ids to the same, or to neighbouring, cells."""
    cells = [b"%08x" % (n * 2654435761 % 2**32) for n in range(300)]
    ids = [_kernels.criteo_id(c, cell, 31) for c in range(1, 27) for cell in cells]
    assert len(ids) - len(set(ids)) <= 1


def fill(n_rows, n_entries):
    return _kernels.criteo_fill(
        GOOD,
        0,
        len(GOOD),
        np.empty(n_rows, np.float32),
        np.empty(n_rows, np.int64),
        np.empty(n_entries, np.uint32),
        np.empty(n_entries, np.float32),
        separator=9,
        has_id=False,
        has_label=True,
        bits=19,
        skip=True,
    )


@pytest.mark.parametrize("room", [(0, 99), (1, 0), (1, 12), (1, 36)])
def test_too_little_room_is_never_written_past(room):
    with pytest.raises(RuntimeError, match="changed while it was parsed"):
        fill(*room)


def test_exact_room_is_enough():
    assert fill(1, 37)[:2] == (1, 37)
