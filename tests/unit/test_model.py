"""A linear model: scoring, evaluation, and its file."""

from __future__ import annotations

import json
import pickletools
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from cirrus_fast import (
    CSR,
    Dataset,
    LinearModel,
    load_csr,
    load_libsvm,
    normalize,
    parse_libsvm,
)
from cirrus_fast.data.columns import SCALINGS, ColumnStatistics, Scaling
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.errors import CirrusFastError, DatasetError, LibsvmParseError, ModelError

pytestmark = pytest.mark.usefixtures("storage_root")

F32 = np.float32
LABELS = LabelMap((-1.0,), (1.0,))


def text_of(n_rows=40, seed=0):
    """One-based text over 6 columns; column 1 is in every row, column 6 in few."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n_rows):
        pairs = [f"1:{rng.normal():.4g}"]
        pairs += [f"{j}:{rng.integers(-5, 9)}" for j in range(2, 7) if rng.random() < 1 / (j - 1)]
        lines.append(f"{1 if rng.random() < 0.4 or i == 0 else -1} {' '.join(pairs)}")
    return ("\n".join(lines) + "\n").encode()


def model_of(n=6, seed=1, **fields):
    weights = np.random.default_rng(seed).normal(size=n).astype(F32)
    return LinearModel(weights=weights, intercept=-0.3, label_map=LABELS, **fields)


@pytest.fixture
def loaded(storage_root, tmp_path):
    path = tmp_path / "rows.svm"
    path.write_bytes(text_of())
    return load_libsvm(path, "raw")


# Scoring


@pytest.mark.parametrize("scaling", [None, *SCALINGS])
def test_every_kind_of_rows_scores_alike(loaded, scaling):
    fitted = None
    if scaling is not None:
        normalize("raw", "scaled", scaling)
        fitted = Dataset("scaled").scaling
    model = model_of(scaling=fitted)
    text = text_of()
    rows = parse_libsvm(text)
    expected = model.decision_function(text)
    assert expected.dtype == F32
    sparse = rows.to_scipy()
    kinds = [rows, sparse, sparse.tocsc(), scipy.sparse.csr_array(sparse), "raw", loaded]
    kinds += [bytearray(text), memoryview(text)]
    if scaling is None or not fitted.shift.any():  # a dense 0 is an absent entry
        kinds.append(sparse.toarray())
    if scaling is not None:
        kinds += ["scaled", Dataset("scaled")]
    for kind in kinds:
        np.testing.assert_array_equal(model.decision_function(kind), expected)
        unlabelled = scipy.sparse.issparse(kind) or isinstance(kind, np.ndarray)
        assert model.evaluate(kind, rows.labels if unlabelled else None) == model.evaluate(text)


@pytest.mark.usefixtures("loaded")
def test_margins_are_weights_times_values_plus_intercept():
    model = model_of()
    dense = parse_libsvm(text_of()).to_scipy().toarray().astype(float)
    expected = dense @ model.weights.astype(float) - 0.3
    np.testing.assert_allclose(model.decision_function("raw"), expected, atol=1e-5)
    p = 1 / (1 + np.exp(-expected))
    both = model.predict_proba("raw")
    np.testing.assert_allclose(both, np.stack([1 - p, p], 1), atol=1e-6)
    np.testing.assert_array_equal(model.predict("raw"), np.where(expected > 0, 1, -1))


def test_columns_the_model_never_saw_count_as_nothing():
    model = model_of(3, index_base=0)
    known = model.decision_function(np.array([[1.0, 2, 3]]))
    np.testing.assert_array_equal(model.decision_function(np.array([[1.0, 2, 3, 99]])), known)
    np.testing.assert_array_equal(model.decision_function(b"0 0:1 1:2 2:3 4000000000:9"), known)


def test_text_is_read_with_the_models_base_and_hashing():
    one, zero = model_of(), model_of(index_base=0)
    assert one.decision_function(b"1 1:2")[0] == zero.decision_function(b"1 0:2")[0]
    with pytest.raises(LibsvmParseError, match="index 0 in one-based"):
        one.decision_function(b"1 0:2")
    hashed = model_of(16, index_base=0, hash_bits=4)
    rows = parse_libsvm(b"1 123456789012:2", hash_bits=4)
    expected = hashed.weights[rows.indices[0]] * 2 - F32(0.3)
    assert hashed.decision_function(b"1 123456789012:2")[0] == expected


@pytest.mark.usefixtures("loaded")
def test_no_rows_have_no_scores():
    assert model_of().decision_function(b"").shape == (0,)
    assert model_of().predict_proba(b"").shape == (0, 2)
    assert model_of().predict(np.empty((0, 3))).shape == (0,)
    for rows, y in ((b"", None), (np.empty((0, 3)), [])):
        with pytest.raises(DatasetError, match="no rows to evaluate"):
            model_of().evaluate(rows, y)


@pytest.mark.usefixtures("loaded")
def test_a_data_set_scaled_otherwise_is_refused():
    normalize("raw", "a")
    normalize("raw", "b", "max_abs")
    with pytest.raises(DatasetError, match="b: was scaled otherwise"):
        model_of(scaling=Dataset("a").scaling).evaluate("b")
    with pytest.raises(DatasetError, match="a: was scaled otherwise"):
        model_of().evaluate("a")


@pytest.mark.usefixtures("loaded")
def test_a_data_set_with_another_base_or_hashing_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="raw: ids start at 1, the model's at 0"):
        model_of(index_base=0).evaluate("raw")
    load_libsvm(tmp_path / "rows.svm", "hashed", hash_bits=5)
    for hash_bits in (None, 6):
        with pytest.raises(DatasetError, match=r"hashed: has .*, the model has"):
            model_of(index_base=0, hash_bits=hash_bits).evaluate("hashed")
    model_of(32, index_base=0, hash_bits=5).evaluate("hashed")
    load_libsvm(tmp_path / "rows.svm", "zero", zero_based=True)
    with pytest.raises(DatasetError, match=r"zero: has .*, the model has"):
        model_of(32, index_base=0, hash_bits=5).evaluate("zero")


@pytest.mark.usefixtures("loaded")
def test_labels_of_evaluated_rows_must_be_the_models():
    model = model_of()
    with pytest.raises(DatasetError, match="label 3 is neither negative"):
        model.evaluate(b"3 1:1\n")
    with pytest.raises(DatasetError, match="no labels of their own"):
        model.evaluate(np.ones((2, 6)))
    with pytest.raises(DatasetError, match="raw: has labels of its own"):
        model.evaluate("raw", [1])
    with pytest.raises(DatasetError, match="y has shape"):
        model.evaluate(np.ones((2, 6)), [1])
    with pytest.raises(DatasetError, match="no data set"):
        model.evaluate("absent")


def test_sample_weights_weigh_the_evaluation():
    model = model_of(2, index_base=0)
    rows = CSR(
        np.array([1, -1], F32),
        np.array([0, 1, 2]),
        np.array([0, 1], np.uint32),
        np.ones(2, F32),
        2,
        np.array([1, 3], F32),
    )
    alone = [model.evaluate(b"1 0:1").logloss, model.evaluate(b"-1 1:1").logloss]
    expected = (alone[0] + 3 * alone[1]) / 4
    np.testing.assert_allclose(model.evaluate(rows).logloss, expected, rtol=1e-6)
    load_csr(rows, None, "weighed")
    np.testing.assert_allclose(model.evaluate("weighed").logloss, expected, rtol=1e-6)


def test_a_class_of_several_labels_is_predicted_as_its_smallest():
    label_map = LabelMap((1.0, 2.0), (3.0, 9.0))
    model = replace(model_of(1, index_base=0), weights=np.ones(1, F32), label_map=label_map)
    assert model.predict(np.array([[5.0], [-5.0]])).tolist() == [3, 1]
    assert model.evaluate(b"9 0:5\n2 0:-5\n").accuracy == 1


# The file


def full_model():
    rows = parse_libsvm(text_of())
    found = ColumnStatistics.scan(rows.indices, rows.data, 6)
    weights = np.zeros(1000, F32)
    weights[[0, 4, 999]] = 1.5, -2e-20, np.float32(1) / 3
    return LinearModel(
        weights=weights,
        intercept=-0.1234567890123,
        label_map=LabelMap((1.0, 2.0), (5.0,)),
        index_base=0,
        hash_bits=20,
        scaling=Scaling.fit("min_max", found, 40),
        params={"l1": 0.5, "optimizer": "ftrl"},
    )


def assert_same_model(left, right):
    assert left.weights.tobytes() == right.weights.tobytes()
    for name in ("intercept", "label_map", "index_base", "hash_bits", "params"):
        assert getattr(left, name) == getattr(right, name), name
    assert (left.scaling and left.scaling.id) == (right.scaling and right.scaling.id)


@pytest.mark.parametrize("make", [model_of, full_model])
def test_a_model_survives_its_file(tmp_path, make):
    model = make()
    model.save(tmp_path / "m")
    assert_same_model(LinearModel.load(tmp_path / "m"), model)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # no suffix added, nothing left


def test_a_sparse_model_makes_a_small_file(tmp_path):
    weights = np.zeros(5_000_000, F32)
    weights[17] = 1
    replace(model_of(), weights=weights).save(tmp_path / "m")
    assert (tmp_path / "m").stat().st_size < 5000
    assert LinearModel.load(tmp_path / "m").nnz == 1


def test_the_file_is_plain_arrays_and_json_without_any_pickle(tmp_path):
    full_model().save(tmp_path / "m")
    with np.load(tmp_path / "m", allow_pickle=False) as archive:
        assert json.loads(str(archive["model"]))["format"] == "cirrus_fast linear model"
        assert archive["ids"].tolist() == [0, 4, 999]
    with zipfile.ZipFile(tmp_path / "m") as archive:
        for name in archive.namelist():
            raw = archive.read(name)
            assert raw.startswith(b"\x93NUMPY")
            assert b"'|O'" not in raw[:128]  # no array of objects, which would be a pickle
            with pytest.raises(ValueError, match=r"."):
                list(pickletools.genops(raw))


def test_a_pickle_in_place_of_a_model_is_not_run(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "evil.npz", model=np.array([print], dtype=object))
    for name in ("evil.npy", "evil.npz"):
        with pytest.raises(ModelError, match=name):
            LinearModel.load(tmp_path / name)


def test_damage_anywhere_is_a_model_error_or_harmless(tmp_path):
    model = full_model()
    path = tmp_path / "m"
    model.save(path)
    raw = path.read_bytes()
    for at in range(0, len(raw), 3):
        bent = bytearray(raw)
        bent[at] ^= 0x55
        path.write_bytes(bent)
        try:
            assert_same_model(LinearModel.load(path), model)
        except ModelError as error:
            assert str(path) in str(error)  # noqa: PT017
    for keep in (0, 1, 50, len(raw) - 1):
        path.write_bytes(raw[:keep])
        with pytest.raises(ModelError, match="is it a saved model"):
            LinearModel.load(path)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="absent: No such file"):
        LinearModel.load(tmp_path / "absent")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    with pytest.raises(ModelError, match="damaged or not a model"):
        LinearModel.load(tmp_path / "other.npz")

    def write(**change):
        arrays = full_model().to_arrays()
        arrays["model"] = json.dumps(json.loads(arrays["model"]) | change)
        np.savez(tmp_path / "m.npz", **arrays)
        return tmp_path / "m.npz"

    LinearModel.load(write())
    for change, says in (
        ({"format_version": 2}, "newer than this package reads"),
        ({"format": "x"}, "not a cirrus_fast model"),
        ({"n_features": 999}, "damaged"),  # an id beyond it
        ({"n_features": -1}, "damaged"),
        ({"labels": {}}, "damaged"),
    ):
        with pytest.raises(ModelError, match=says):
            LinearModel.load(write(**change))


def test_saving_where_nothing_can_be_saved_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CirrusFastError, match="file"):
        model_of().save(tmp_path / "file" / "m")


# Others' formats


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("scaling", [None, *SCALINGS])
def test_scikit_learn_scores_raw_rows_as_we_do(scaling):
    fitted = None
    if scaling is not None:
        normalize("raw", "scaled", scaling)
        fitted = Dataset("scaled").scaling
    model = model_of(scaling=fitted)
    X = parse_libsvm(text_of()).to_scipy()
    theirs = model.to_sklearn()
    for rows in (X, X.toarray()):
        np.testing.assert_allclose(
            theirs.decision_function(rows), model.decision_function(X), atol=2e-5
        )
        np.testing.assert_array_equal(theirs.predict(rows), model.predict(X))
        np.testing.assert_allclose(theirs.predict_proba(rows), model.predict_proba(X), atol=1e-5)


def test_scikit_learn_knows_the_labels():
    theirs = replace(model_of(), label_map=LabelMap((2.0,), (4.0,))).to_sklearn()
    assert theirs.classes_.tolist() == [2, 4]


@pytest.mark.parametrize("base", [0, 1])
def test_text_lists_the_weights_with_ids_as_in_the_data(base):
    weights = np.array([0, 0.1, 0, -3e-30], F32)
    model = replace(model_of(), weights=weights, index_base=base)
    lines = model.to_text().splitlines()
    assert lines[0] == "intercept -0.3"
    pairs = dict(line.split() for line in lines[1:])
    assert list(pairs) == [str(1 + base), str(3 + base)]
    np.testing.assert_array_equal(np.array(list(pairs.values()), F32), weights[[1, 3]])
    assert model.nnz == 2
    assert model.n_features == 4
