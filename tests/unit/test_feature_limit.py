"""load_libsvm(n_features=...): an id beyond it is refused with file, line, column and byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cirrus_fast import load_libsvm
from cirrus_fast.data.sources import Source
from cirrus_fast.errors import LibsvmParseError, OptionError

pytestmark = pytest.mark.usefixtures("storage_root")

ONE_BASED = b"1 1:1\n" + b"0 2:1\n" * 50 + b"1 3:1 6:1\n" + b"0 2:1\n" * 50
ZERO_BASED = ONE_BASED.replace(b"1 3:1", b"1 0:1 3:1")
LATE_ZERO = ONE_BASED + b"0 0:1\n"  # only the last row says that ids start at 0
AT = ONE_BASED.index(b"6:1")


@pytest.fixture(params=["plain", "gz"])
def write(request: pytest.FixtureRequest, tmp_path: Path):
    def to(text: bytes) -> Path:
        path = tmp_path / ("rows.svm" if request.param == "plain" else "rows.svm.gz")
        path.write_bytes(text if request.param == "plain" else gzip.compress(text))
        return path

    return to


@pytest.mark.parametrize("chunk_bytes", [30, 1 << 20])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    ("text", "options", "limit", "offset"),
    [
        (ONE_BASED, {"zero_based": False}, 6, AT),
        (ONE_BASED, {"zero_based": True}, 7, AT),
        (ZERO_BASED, {"zero_based": True}, 7, AT + 4),
        (ONE_BASED, {}, 6, AT),
        (ZERO_BASED, {}, 7, AT + 4),
        (LATE_ZERO, {}, 7, AT),
        (LATE_ZERO, {"skip_bad_rows": True}, 7, AT),
        (b"x\n" * 30 + LATE_ZERO, {"skip_bad_rows": True}, 7, AT + 60),
    ],
)
def test_names_the_place(
    write,
    text: bytes,
    options: dict[str, bool],
    limit: int,
    offset: int,
    n_threads: int,
    chunk_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Source.chunks, "__defaults__", (chunk_bytes,))
    path = write(text)
    assert load_libsvm(path, "fits", n_features=limit, **options).n_features == limit
    with pytest.raises(LibsvmParseError, match="feature index is too large") as caught:
        load_libsvm(path, "narrow", n_features=limit - 1, n_threads=n_threads, **options)
    error = caught.value
    assert (error.source, error.offset) == (str(path), offset)
    assert error.line == text.count(b"\n", 0, offset) + 1
    assert error.column == offset - text.rindex(b"\n", 0, offset)


def test_like_fixes_the_base(tmp_path: Path) -> None:
    (tmp_path / "train.svm").write_bytes(b"1 0:1\n0 5:1\n")
    (tmp_path / "test.svm").write_bytes(b"1 1:1\n0 6:1\n")
    load_libsvm(tmp_path / "train.svm", "train")
    with pytest.raises(LibsvmParseError, match=r"line 2, column 3, byte 8"):
        load_libsvm(tmp_path / "test.svm", "test", like="train", n_features=6)
    assert load_libsvm(tmp_path / "test.svm", "test", like="train").n_features == 7


def test_a_row_beyond_may_be_skipped_where_the_base_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.svm").write_bytes(ONE_BASED)
    made = load_libsvm(tmp_path / "a.svm", "a", zero_based=False, n_features=5, skip_bad_rows=True)
    assert made.n_rows == 101
    assert "1 rows could not be read" in caplog.text


def test_hashing_has_a_width_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.svm").write_bytes(ONE_BASED)
    with pytest.raises(OptionError, match="n_features=6 contradicts hash_bits=4"):
        load_libsvm(tmp_path / "a.svm", "a", hash_bits=4, n_features=6)
    assert load_libsvm(tmp_path / "a.svm", "a", hash_bits=4, n_features=16).n_features == 16


@pytest.mark.parametrize("limit", [-1, 1.5, True, 2**32 + 1])
def test_the_limit_is_checked(tmp_path: Path, limit: object) -> None:
    (tmp_path / "a.svm").write_bytes(ONE_BASED)
    with pytest.raises(OptionError, match="n_features="):
        load_libsvm(tmp_path / "a.svm", "a", n_features=limit)  # type: ignore[arg-type]
