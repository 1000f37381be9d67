"""Deleting takes away what this package wrote, and nothing else."""

from pathlib import Path

import pytest

from cirrus_fast import LibsvmParseError, load_libsvm
from cirrus_fast.data.dataset import remove_dataset


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "rows.svm"
    path.write_text("1 1:1\n0 2:1\n")
    return path


def test_a_load_that_fails_says_why_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "bad.svm").write_text("1 1:1\nx\n")
    with pytest.raises(LibsvmParseError, match="line 2"):
        load_libsvm(tmp_path / "bad.svm", f"{tmp_path}/new")
    assert not (tmp_path / "new").exists()


def test_a_load_that_fails_leaves_the_folders_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "bad.svm").write_text("x\n")
    (tmp_path / "work" / "years").mkdir(parents=True)
    (tmp_path / "work" / "years" / "thesis").write_text("precious")
    with pytest.raises(LibsvmParseError):
        load_libsvm(tmp_path / "bad.svm", f"{tmp_path}/work")
    assert (tmp_path / "work" / "years" / "thesis").read_text() == "precious"


def test_removing_a_data_set_leaves_what_lies_inside_its_folder(text: Path, tmp_path: Path) -> None:
    outer, inner = f"{tmp_path}/outer", f"{tmp_path}/outer/inner"
    load_libsvm(text, outer)
    load_libsvm(text, inner)
    remove_dataset(outer)
    assert not (tmp_path / "outer" / "manifest.json").exists()
    remove_dataset(inner)
    assert list((tmp_path / "outer").iterdir()) == []
