"""A hashed id means nothing to a model that hashes otherwise, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from cirrus_fast import LogisticRegression, load_csr, load_libsvm, make_clicks, normalize
from cirrus_fast.errors import DatasetError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "rows.svm"
    make_clicks(path, 2000, seed=3, hash_bits=12)
    return path


def test_refuses_data_hashed_to_another_width(text: Path, tmp_path: Path) -> None:
    load_libsvm(text, f"{tmp_path}/ten", hash_bits=10)
    load_libsvm(text, f"{tmp_path}/eleven", hash_bits=11)
    model = LogisticRegression(dataset=f"{tmp_path}/ten", epochs=1).run().model
    with pytest.raises(DatasetError, match="hashed to 11 bits, the model has ids hashed to 10"):
        model.evaluate(f"{tmp_path}/eleven")
    with pytest.raises(DatasetError, match="hashed to 11 bits"):
        LogisticRegression(dataset=f"{tmp_path}/ten", test_dataset=f"{tmp_path}/eleven").run()


def test_refuses_data_that_is_not_hashed(text: Path, tmp_path: Path) -> None:
    load_libsvm(text, f"{tmp_path}/hashed", hash_bits=12)
    load_csr(np.eye(4), [0, 1, 0, 1], f"{tmp_path}/arrays")
    model = LogisticRegression(dataset=f"{tmp_path}/hashed", epochs=1).run().model
    with pytest.raises(DatasetError, match="ids as written"):
        model.evaluate(f"{tmp_path}/arrays")


def test_arrays_loaded_like_hashed_text_count_as_hashed(text: Path, tmp_path: Path) -> None:
    load_libsvm(text, f"{tmp_path}/hashed", hash_bits=12)
    load_csr(np.eye(4), [0, 1, 0, 1], f"{tmp_path}/arrays", like=f"{tmp_path}/hashed")
    model = LogisticRegression(dataset=f"{tmp_path}/hashed", epochs=1).run().model
    assert model.evaluate(f"{tmp_path}/arrays").n_rows == 4


def test_refuses_the_scaling_of_data_hashed_otherwise(text: Path, tmp_path: Path) -> None:
    for bits in (10, 11):
        load_libsvm(text, f"{tmp_path}/{bits}", hash_bits=bits)
    normalize(f"{tmp_path}/10", f"{tmp_path}/scaled")
    with pytest.raises(DatasetError, match="hash them differently"):
        normalize(f"{tmp_path}/11", f"{tmp_path}/other", like=f"{tmp_path}/scaled")
