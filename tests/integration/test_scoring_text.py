"""Text is scored as the model's training data was read: sample weights, nan and infinity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cirrus_fast import (
    Dataset,
    LinearModel,
    LogisticRegression,
    export_libsvm,
    load_criteo,
    load_csr,
    load_libsvm,
    normalize,
    parse_libsvm,
)
from cirrus_fast.cli import cli
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.model import npz_bytes
from cirrus_fast.errors import LibsvmParseError

pytestmark = pytest.mark.usefixtures("storage_root")


def text_of(n_rows: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n_rows):
        label = int(rng.random() < 0.4)
        weight = f":{rng.integers(1, 9)}" if i % 5 else ""  # some rows have none
        ids = np.flatnonzero(rng.random(5) < 0.6) + 1
        pairs = [f"{j}:{rng.integers(1, 5) * (label + 1)}" for j in ids]
        lines.append(f"{label}{weight} {' '.join(pairs)}\n")
    return "".join(lines).encode()


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., LinearModel]:
    """A model of weighted rows, saved as model.npz and read from there."""

    def make(scaled: bool = False, **options: bool) -> LinearModel:
        (tmp_path / "train.svm").write_bytes(text_of(400, 1))
        load_libsvm(tmp_path / "train.svm", "train", **options)
        if scaled:
            normalize("train", "scaled", "max_abs")
        name = "scaled" if scaled else "train"
        LogisticRegression(dataset=name, epochs=2, seed=1).run().model.save(tmp_path / "model.npz")
        return LinearModel.load(tmp_path / "model.npz")

    return make


def run(*args: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == status, result.output
    return result


def expected_rows(text: bytes) -> CSR:
    return parse_libsvm(text, label_weights=True, allow_nonfinite=True, zero_based=False)


@pytest.mark.parametrize("scaled", [False, True])
def test_weighted_text_is_evaluated_by_weight(
    train: Callable[..., LinearModel], tmp_path: Path, scaled: bool
) -> None:
    model = train(scaled, label_weights=True)
    assert (model.label_weights, model.allow_nonfinite) == (True, False)
    test = text_of(300, 2)
    (tmp_path / "test.svm").write_bytes(test)
    expected = model.evaluate(expected_rows(test))
    load_libsvm(tmp_path / "test.svm", "test", label_weights=True, like="train")
    for data in (test, "test"):
        assert model.evaluate(data).logloss == pytest.approx(expected.logloss, rel=1e-6)
    for data in (tmp_path / "test.svm", "test"):
        found = json.loads(run("evaluate", tmp_path / "model.npz", data, "--json").stdout)
        assert found["logloss"] == pytest.approx(expected.logloss, rel=1e-6)
        assert found["auc"] == pytest.approx(expected.auc, rel=1e-6)
        assert found["accuracy"] == pytest.approx(expected.accuracy, rel=1e-6)
        lines = run("predict", tmp_path / "model.npz", data, "--proba").stdout.split()
        np.testing.assert_array_equal(np.array(lines, np.float32), model.predict_proba(test)[:, 1])


def test_the_weights_count_in_text(train: Callable[..., LinearModel]) -> None:
    """What the test above compares with would differ without them."""
    model = train(label_weights=True)
    light, heavy = (model.evaluate(b"1:1 1:1\n0:%d 2:1\n" % weight) for weight in (1, 9))
    assert light.logloss != heavy.logloss


def test_nan_and_infinity_are_scored_where_they_were_trained_on(
    train: Callable[..., LinearModel], tmp_path: Path
) -> None:
    model = train(label_weights=True, allow_nonfinite=True)
    (tmp_path / "odd.svm").write_bytes(b"1 1:1 900:inf\n0:2 2:1 901:nan\n")  # columns never seen
    expected = model.predict(b"1 1:1\n0 2:1\n").tolist()
    assert model.predict((tmp_path / "odd.svm").read_bytes()).tolist() == expected
    lines = run("predict", tmp_path / "model.npz", tmp_path / "odd.svm").stdout.split()
    assert [float(line) for line in lines] == expected


def test_other_models_refuse_such_text(train: Callable[..., LinearModel], tmp_path: Path) -> None:
    model = train(label_weights=True)
    with pytest.raises(LibsvmParseError, match="nan or infinity without allow_nonfinite=True"):
        model.predict(b"1 1:inf\n")
    (tmp_path / "plain.svm").write_bytes(b"1 1:1\n0 2:1\n" * 20)
    load_libsvm(tmp_path / "plain.svm", "plain")
    plain = LogisticRegression(dataset="plain", epochs=1).run().model
    with pytest.raises(LibsvmParseError, match="label:weight without label_weights=True"):
        plain.predict(b"1:2 1:1\n")


def test_a_data_set_of_weighted_arrays_has_weighted_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    X, y = rng.random((60, 4)), np.arange(60) % 2
    load_csr(X, y, "arrays", sample_weight=np.arange(60) + 1)
    export_libsvm("arrays", tmp_path / "arrays.svm")
    model = LogisticRegression(dataset="arrays", epochs=1, epsilon=0).run().model
    model.save(tmp_path / "model.npz")
    expected = model.evaluate("arrays")
    assert model.evaluate((tmp_path / "arrays.svm").read_bytes()) == expected
    run("evaluate", tmp_path / "model.npz", tmp_path / "arrays.svm")
    load_csr(X, y, "plain")
    assert not Dataset("plain").manifest.label_weights


def test_scaling_and_criteo_keep_how_text_is_read(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "w.svm").write_bytes(b"1:2 1:nan\n0 2:1\n")
    load_libsvm(tmp_path / "w.svm", "w", label_weights=True, allow_nonfinite=True)
    manifest = normalize("w", "n").manifest
    assert (manifest.label_weights, manifest.allow_nonfinite) == (True, True)
    rows = load_criteo(data_dir / "criteo_300.tsv", "c", 5)
    made = load_csr(np.eye(4), [0, 1, 0, 1], "a", sample_weight=[1, 2, 1, 1], like="c")
    for dataset in (rows, made):  # Criteo text has no weights
        assert not dataset.manifest.label_weights


def test_a_model_file_without_these_keys_reads_plain_text(
    train: Callable[..., LinearModel], tmp_path: Path
) -> None:
    arrays = train(label_weights=True, allow_nonfinite=True).to_arrays()
    header = json.loads(arrays["model"])
    assert header.pop("label_weights") is header.pop("allow_nonfinite") is True
    (tmp_path / "old.npz").write_bytes(npz_bytes(arrays | {"model": json.dumps(header)}))
    old = LinearModel.load(tmp_path / "old.npz")
    assert (old.label_weights, old.allow_nonfinite) == (False, False)
