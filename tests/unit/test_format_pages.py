"""docs/data.md and docs/model-format.md are exact: their code is run, their tables are compared."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cirrus_fast import (
    Dataset,
    LinearModel,
    LogisticRegression,
    TrainResult,
    _kernels,
    load_criteo,
    load_libsvm,
    normalize,
    parse_libsvm,
)
from cirrus_fast.backend.checkpoint import Checkpoint
from cirrus_fast.data.columns import SCALINGS
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.errors import ModelError

pytestmark = pytest.mark.usefixtures("storage_root")


def page(repository: Path, name: str) -> str:
    return (repository / "docs" / name).read_text()


def run_code(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(code, names)
    return names


def keys(text: str, heading: str) -> set[str]:
    """What stands in backquotes in the first column of a section's tables."""
    section = re.split(r"^##+ ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture
def trained(data_dir: Path) -> TrainResult:
    load_libsvm(data_dir / "heart_scale", "heart")
    normalize("heart", "scaled", "standard")
    options = {"epochs": 2, "checkpoint_interval": 1e-9, "consistency": "bsp", "seed": 3}
    return LogisticRegression(options, dataset="scaled").run()


def test_hashes_are_as_described(repository: Path) -> None:
    code = run_code(page(repository, "data.md"))
    rng = np.random.default_rng(1)
    for index in [0, 1, 2**64 - 1, *rng.integers(0, 2**63, 50).tolist()]:
        for bits in (1, 19, 32):
            assert code["hash_index"](index, bits) == _kernels.libsvm_hash(index, bits)
    for n in range(1, 40):
        cell, column = rng.bytes(n), int(rng.integers(1, 27))
        for bits in (5, 19, 31):
            expected = _kernels.criteo_id(column, cell, bits)
            assert code["hash_category"](column, cell, bits) == expected


def test_hold_out_is_as_described(repository: Path, data_dir: Path) -> None:
    mix = run_code(page(repository, "data.md"))["mix"]
    blocks = load_libsvm(data_dir / "heart_scale", "heart").blocks
    mask = HoldOut.plan(blocks, 0.3, 11).mask(0, blocks[0])

    def h(x: int) -> int:
        return int(mix((x + 0x9E3779B97F4A7C15) % 2**64))

    described = [h((r + h(11)) % 2**64) >> 11 < round(0.3 * 2**53) for r in range(270)]
    assert mask.tolist() == described
    assert 50 < sum(described) < 110


def test_every_error_text_is_described(repository: Path) -> None:
    text, texts = page(repository, "data.md"), _kernels.status_texts()
    first = texts.index("label is not a number")
    last = texts.index("header is not [Id,][Label,]I1,..,I13,C1,..,C26")
    assert [reason for reason in texts[first : last + 1] if f"`{reason}`" not in text] == []


def test_manifest_has_the_keys_described(repository: Path, data_dir: Path) -> None:
    made = load_criteo(data_dir / "criteo_300.tsv", "c", 10)
    raw = json.loads((Path(made.uri) / "manifest.json").read_text())
    assert set(raw) == keys(page(repository, "data.md"), "manifest.json")
    assert set(raw["shards"][0]) == {"object", "bytes", "blocks"}
    whole = (Path(made.uri) / "manifest.json").read_bytes()
    is_whole = run_code(page(repository, "data.md"))["is_whole"]
    is_whole.__globals__["crc32c"] = _kernels.crc32c
    assert is_whole(whole)
    assert not is_whole(whole.replace(b"300", b"301"))
    objects = {path.name: path.read_bytes() for path in Path(made.uri).glob("*-*")}
    assert raw["crc32c"] == {n: f"{_kernels.crc32c(x):08x}" for n, x in objects.items()}
    names = {re.sub("[0-9a-f]{8}", "TOKEN", path.name) for path in Path(made.uri).iterdir()}
    normalized = normalize("c", "n")
    names |= {re.sub("[0-9a-f]{8}", "TOKEN", path.name) for path in Path(normalized.uri).iterdir()}
    assert names == keys(page(repository, "data.md"), "On disk")


def test_numpy_alone_reads_a_model(
    repository: Path, trained: TrainResult, data_dir: Path, tmp_path: Path
) -> None:
    text = page(repository, "model-format.md")
    predict = run_code(text)["predict"]
    rows = parse_libsvm((data_dir / "heart_scale").read_bytes(), n_features=20)
    for save, name in ((trained.model.save, "model.npz"), (trained.save, "result.npz")):
        save(tmp_path / name)
        expected = LinearModel.load(tmp_path / name).predict_proba(rows)[:, 1]
        for i in range(20):
            span = slice(rows.indptr[i], rows.indptr[i + 1])
            found = predict(tmp_path / name, rows.indices[span], rows.data[span].astype(float))
            assert found == pytest.approx(expected[i], abs=1e-6)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        scaling = keys(text, "Scaling")
        described = (keys(text, "Model") - {"scaling_*"}) | scaling
        header = json.loads(str(file["model"]))
        assert set(file.files) | set(header) == described
        assert [file[key].dtype for key in ("ids", "weights")] == [np.uint32, np.float32]
        digest = hashlib.blake2b(str(file["scaling_method"]).encode(), digest_size=8)
        for key in ("scaling_ids", "scaling_shift", "scaling_divisor"):
            digest.update(file[key].tobytes())
        assert digest.hexdigest() == header["scaling_id"]
        assert str(file["scaling_method"]) in SCALINGS
    with np.load(tmp_path / "result.npz", allow_pickle=False) as file:
        result = json.loads(str(file["result"]))
    assert set(result["history"][0]) <= set(re.findall(r"`([a-z_]+)`", text))
    assert set(result) == set(TrainResult.__slots__) - {"model"}


def test_numpy_alone_reads_column_statistics(repository: Path, data_dir: Path) -> None:
    text = page(repository, "model-format.md")
    made = load_criteo(data_dir / "criteo_300.tsv", "c", 12)
    raw = (Path(made.uri) / made.manifest.columns).read_bytes()
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        assert set(file.files) == keys(text, "Column statistics")
        ids = np.cumsum(file["id_steps"], dtype=np.uint32)
        low, high = np.ones(len(ids), np.float32), np.ones(len(ids), np.float32)
        count = file["count"].astype(np.uint64)
        count[count == 255] = file["many"]
        assert len(file["many"])
        squares = count.astype(np.float64)
        low[file["other"]], high[file["other"]] = file["min"], file["max"]
        squares[file["other"]] = file["sum_squares"]
        statistics = Dataset("c").columns
        assert np.array_equal(ids, statistics.ids)
        for name, found in (("count", count), ("min", low), ("max", high)):
            assert np.array_equal(found, statistics.columns[name])
        assert np.array_equal(squares, statistics.columns["sum_squares"])


def test_checkpoints_have_the_keys_described(repository: Path, trained: TrainResult) -> None:
    text = page(repository, "model-format.md")
    assert trained.checkpoint is not None
    with np.load(trained.checkpoint, allow_pickle=False) as file:
        header = json.loads(str(file["checkpoint"]))
        assert set(file.files) | set(header) == keys(text, "Checkpoint")
        assert file["state"].dtype == np.float32
        assert len(file["state"]) == 2 * (trained.model.n_features + 1)  # adagrad
        assert {"rows", "updates", "loss_sum", "weight_sum"} <= set(file["slots"].dtype.names)
    assert Checkpoint.load(trained.checkpoint).best is not None


def test_newer_versions_and_other_formats_are_refused(trained: TrainResult, tmp_path: Path) -> None:
    trained.model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    for change, says in (
        ({"format_version": 2}, "format version 2 is newer"),
        ({"format": "other"}, "not a cirrus_fast model"),
    ):
        header = json.loads(str(arrays["model"])) | change
        np.savez(tmp_path / "other.npz", **(arrays | {"model": json.dumps(header)}))
        with pytest.raises(ValueError, match=says):
            LinearModel.load(tmp_path / "other.npz")
    header = json.loads(str(arrays["model"])) | {"a_later_key": 1}
    del header["text_format"]
    np.savez(tmp_path / "other.npz", **(arrays | {"model": json.dumps(header), "later": 1}))
    assert LinearModel.load(tmp_path / "other.npz").text_format == "libsvm"


def test_results_ignore_keys_they_do_not_know(trained: TrainResult, tmp_path: Path) -> None:
    trained.save(tmp_path / "result.npz")
    with np.load(tmp_path / "result.npz") as file:
        arrays = dict(file)
    summary = json.loads(str(arrays["result"])) | {"a_later_key": [1], "model": "no model"}
    summary["history"][0]["a_later_key"] = 1
    np.savez(tmp_path / "later.npz", **(arrays | {"result": json.dumps(summary), "later": 1}))
    loaded = TrainResult.load(tmp_path / "later.npz")
    assert loaded.history == trained.history
    assert loaded.model.weights.tobytes() == trained.model.weights.tobytes()
    del summary["checkpoint_error"]  # a key of a later version than the file's
    np.savez(tmp_path / "earlier.npz", **(arrays | {"result": json.dumps(summary)}))
    assert TrainResult.load(tmp_path / "earlier.npz").checkpoint_error is None
    for wrong in ({"history": [3]}, {"history": None}, {"history": [{"rows": 1}]}):
        np.savez(tmp_path / "bad.npz", **(arrays | {"result": json.dumps(summary | wrong)}))
        with pytest.raises(ModelError, match=r"bad\.npz: damaged result"):
            TrainResult.load(tmp_path / "bad.npz")
