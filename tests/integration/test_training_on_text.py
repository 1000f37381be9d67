"""Training straight from LibSVM text."""

from __future__ import annotations

import gc
import gzip
import os
from pathlib import Path
from threading import current_thread

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import LibsvmParseError, LogisticRegression
from cirrus_fast.data import text_dataset
from cirrus_fast.data.text_dataset import TextDataset, open_text
from cirrus_fast.errors import DatasetError, OptionError, StorageError
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import MiniBatches

WIDTH = 1 << 19


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    for stream, (name, n_rows) in enumerate((("train.svm", 20_000), ("test.svm", 5000))):
        cirrus_fast.make_clicks(folder / name, n_rows, seed=1, stream=stream)
    return folder


@pytest.fixture
def small_pieces(monkeypatch, tmp_path):
    """Here and in worker processes."""
    monkeypatch.setattr(text_dataset, "PIECE_BYTES", 5000)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "from cirrus_fast.data import text_dataset\ntext_dataset.PIECE_BYTES = 5000\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))


def train(path: Path, **options):
    return LogisticRegression(
        {"dataset": str(path), "model_size": WIDTH, "epochs": 1, "n_workers": 1} | options
    ).run()


def test_a_model_from_text_is_as_good_as_one_from_a_data_set(clicks, storage_root):
    result = train(clicks / "train.svm", test_dataset=str(clicks / "test.svm"))
    cirrus_fast.load_libsvm(clicks / "train.svm", "train")
    cirrus_fast.load_libsvm(clicks / "test.svm", "test", like="train")
    loaded = LogisticRegression(dataset="train", test_dataset="test", epochs=1, n_workers=1).run()
    assert result.rows_processed == 20_000
    assert result.test_loss == pytest.approx(loaded.test_loss, rel=0.005)
    assert result.model.n_features == WIDTH
    assert result.model.index_base == 1
    assert result.model.evaluate("test").logloss == pytest.approx(result.test_loss, abs=1e-6)


@pytest.mark.parametrize(("epochs", "n_workers"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("executor", ["local", "processes"])
@pytest.mark.usefixtures("small_pieces")
def test_every_row_once_an_epoch(clicks, epochs, n_workers, executor):
    result = train(
        clicks / "test.svm", epochs=epochs, n_workers=n_workers, executor=executor, epsilon=0,
        minibatch_size=10,
    )  # fmt: skip
    assert result.rows_processed == epochs * 5000


@pytest.mark.usefixtures("small_pieces")
def test_one_worker_repeats_bit_for_bit_and_resumes_exactly(clicks, storage_root):
    options = {"epochs": 4, "epsilon": 0, "seed": 5, "eval_interval": 4.0}
    whole = train(clicks / "test.svm", **options)
    again = train(clicks / "test.svm", **options)
    assert np.array_equal(whole.model.weights, again.model.weights)
    half = train(clicks / "test.svm", **options | {"epochs": 2}, checkpoint_interval=1000.0)
    rest = train(clicks / "test.svm", **options, resume_from=half.checkpoint)
    assert np.array_equal(whole.model.weights, rest.model.weights)


@pytest.mark.parametrize(("n_workers", "cores", "ahead"), [(1, 1, 1), (2, 2, 0), (2, 3, 1)])
def test_rows_are_made_ready_ahead_where_a_core_is_left_for_it(
    clicks, monkeypatch, n_workers, cores, ahead
):
    monkeypatch.setattr("cirrus_fast.runtime.worker.available_cores", lambda: cores)
    threads, prepare = [], MiniBatches._prepare

    def noted(*arguments):
        threads.append(current_thread().name)
        return prepare(*arguments)

    monkeypatch.setattr(MiniBatches, "_prepare", noted)
    result = train(clicks / "train.svm", n_workers=n_workers, minibatch_size=10)
    assert result.n_workers == n_workers
    assert {name.startswith("cirrus-decode") for name in threads} == {bool(ahead)}


@pytest.mark.usefixtures("small_pieces")
def test_a_text_goes_when_its_run_does(clicks):
    gc.disable()
    try:
        train(clicks / "test.svm", n_workers=2)
        assert not list(text_dataset._opened)
    finally:
        gc.enable()


def test_held_out_rows_are_not_learnt_from(clicks):
    result = train(clicks / "test.svm", test_fraction=0.3)
    assert result.rows_processed == pytest.approx(3500, abs=150)
    assert result.test_loss is not None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.usefixtures("small_pieces")
def test_rows_are_counted_exactly_whatever_stands_between_them(tmp_path, end):
    lines = [b"# a comment", b"", b"1 3:1 # one", b"  ", b"-1 2:0.5", b"\t-1", b" # none", b"1 1:2"]
    text = (b"\n".join(lines) + b"\n") * 2000 + b"1 7:1" + end
    path = tmp_path / "odd.svm"
    path.write_bytes(text)
    dataset = TextDataset(str(path), 10)
    assert len(dataset.blocks) > 10
    assert dataset.n_rows == 8001
    assert sum(b.n_rows for b in dataset.blocks) == 8001
    parsed = cirrus_fast.parse_libsvm(text, n_features=10)
    found = [dataset.read_block(block) for block in dataset.blocks]
    assert np.array_equal(np.concatenate([f.labels for f in found]), parsed.labels)
    assert np.array_equal(np.concatenate([f.indices for f in found]), parsed.indices)
    assert np.array_equal(np.concatenate([f.data for f in found]), parsed.data)
    result = LogisticRegression(
        dataset=str(path), model_size=10, epochs=2, n_workers=1, epsilon=0
    ).run()
    assert result.rows_processed == 16_002


def test_sorted_labels_are_found_and_learnt(tmp_path):
    path = tmp_path / "sorted.svm"
    path.write_bytes(b"-1 1:1\n" * 30_000 + b"1 2:1\n" * 10)
    result = LogisticRegression(
        dataset=str(path), model_size=3, epochs=3, n_workers=1, epsilon=0
    ).run()
    p = result.model.predict_proba(np.array([[1, 0, 0], [0, 1, 0]], np.float32))[:, 1]
    assert p[0] < 0.01 < 0.3 < p[1]


def test_columns_that_the_sample_has_not_still_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(text_dataset, "SAMPLED_PIECES", 1)
    monkeypatch.setattr(text_dataset, "PIECE_BYTES", 1000)
    common = b"-1 1:0.01 2:0.02\n1 1:0.02 2:0.01\n"
    path = tmp_path / "rare.svm"
    path.write_bytes(common * 500 + (common + b"1 9:0.01\n-1 8:0.01\n") * 500)
    result = LogisticRegression(
        dataset=str(path), model_size=9, epochs=5, n_workers=1, epsilon=0
    ).run()
    rows = np.zeros((2, 9), np.float32)
    rows[0, 8] = rows[1, 7] = 0.01
    p = result.model.predict_proba(rows)[:, 1]
    assert p[0] > 0.8
    assert p[1] < 0.2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_size": None}, "model_size: .*train.svm is text.*load_libsvm"),
        ({"class_weight": "balanced"}, "class_weight: nobody has counted the classes"),
        ({"l2": 0.1}, 'l1, l2: .*adagrad needs that; take optimizer="ftrl"'),
        ({"l1": 0.1, "optimizer": "sgd"}, "l1, l2: .*sgd needs that"),
    ],
)
def test_what_only_a_data_set_can_know_is_refused(clicks, options, says):
    with pytest.raises(OptionError, match=says):
        train(clicks / "train.svm", **options)


def test_penalties_of_ftrl_need_no_counts(clicks):
    free = train(clicks / "test.svm", optimizer="ftrl")
    bound = train(clicks / "test.svm", optimizer="ftrl", l1=1e-3)
    assert bound.model.nnz < free.model.nnz / 2


def bad(tmp_path: Path, last: bytes) -> Path:
    """A text whose last piece is not in the sample."""
    path = tmp_path / "bad.svm"
    row = b"1 1:1" + b" " * 100 + b"\n-1 2:1\n"
    n_rows = 2 * text_dataset.SAMPLED_PIECES * text_dataset.PIECE_BYTES // len(row) - 10
    path.write_bytes(row * n_rows + last)
    return path


@pytest.mark.parametrize(
    ("last", "kind", "says"),
    [
        (b"1 3:x\n", LibsvmParseError, r"bad\.svm: .*not a number \(line \d+, column 5, byte"),
        (b"1 0:1\n", LibsvmParseError, r"bad\.svm: .*index 0 .*line \d+"),
        (b"1 20:1\n", LibsvmParseError, r"bad\.svm: .*index is too large .*line \d+"),
        (
            b"# a line\r\n\n1 1:1\n3 1:1\n1 1:1\n",
            DatasetError,
            r"bad\.svm, line {line}: label 3 is neither negative .-1. nor positive .1.",
        ),
    ],
)
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_what_is_wrong_with_the_text_is_placed(tmp_path, last, kind, says, executor):
    path = bad(tmp_path, last)
    lines = path.read_bytes().split(b"\n")
    says = says.format(line=1 + lines.index(b"3 1:1")) if b"3 1:1" in lines else says
    with pytest.raises(kind, match=says) as caught:
        LogisticRegression(dataset=str(path), model_size=10, n_workers=1, executor=executor).run()
    if kind is LibsvmParseError:
        assert caught.value.source == str(path)
        assert caught.value.line == len(lines) - 1


def test_text_with_ids_beyond_the_model_is_not_told_to_leave_its_size_out(tmp_path):
    (tmp_path / "wide.svm").write_bytes(b"1 20:1\n-1 1:1\n")
    with pytest.raises(DatasetError, match=r"make it at least 20$"):
        train(tmp_path / "wide.svm", model_size=10)


def test_files_that_hold_no_text_to_train_on_are_refused(tmp_path, storage_root):
    (tmp_path / "empty.svm").write_bytes(b"")
    (tmp_path / "comments.svm").write_bytes(b"# nothing\n\n")
    (tmp_path / "packed.svm.gz").write_bytes(gzip.compress(b"1 1:1\n"))
    (tmp_path / "three.svm").write_bytes(b"1 1:1\n2 1:1\n3 1:1\n")
    for name, says in (
        ("empty.svm", "the file is empty"),
        ("comments.svm", "the file holds no rows"),
        ("packed.svm.gz", "compressed text cannot be read piece by piece"),
        ("three.svm", "two classes are needed.*load_libsvm"),
    ):
        with pytest.raises(DatasetError, match=says):
            train(tmp_path / name)
    with pytest.raises(DatasetError, match=r"no data set in .* and no text file of that name"):
        train(tmp_path / "none.svm")
    with pytest.raises(StorageError, match="No such file"):
        open_text(str(tmp_path / "none.svm"), 10)


def test_a_bare_name_is_a_file_of_the_current_folder_unless_a_data_set_has_it(
    clicks, storage_root, monkeypatch
):
    monkeypatch.chdir(clicks)
    near = train(Path("test.svm"))
    assert near.rows_processed == pytest.approx(4750, abs=60)
    cirrus_fast.load_libsvm("train.svm", "test.svm")
    assert train(Path("test.svm")).rows_processed == pytest.approx(19_000, abs=200)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("change", ["cut", "touched"])
def test_a_text_that_changes_meanwhile_is_an_error_and_no_crash(
    clicks, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(Memory, "of", lambda *_: Memory(64_000, 8000))  # read again each epoch
    path = tmp_path / "text.svm"
    path.write_bytes((clicks / "test.svm").read_bytes())

    def meddle(_record):
        if change == "cut":
            os.truncate(path, 10_000)
        else:
            os.utime(path, ns=(0, 0))

    with pytest.raises(DatasetError, match=r"text\.svm: changed while it was read"):
        train(path, epochs=5, worker_size=128, eval_interval=1.0, callbacks=[meddle])


def test_workers_of_one_process_share_what_was_counted(clicks):
    first = open_text(str(clicks / "test.svm"), WIDTH)
    assert open_text(str(clicks / "test.svm"), WIDTH) is first
    assert open_text(str(clicks / "test.svm"), WIDTH + 1) is not first


def test_the_command_line_trains_from_text_too(clicks, tmp_path, run_python):
    out = tmp_path / "model.npz"
    run_python(
        "import sys; from cirrus_fast.cli import main; sys.exit(main())",
        "train", clicks / "test.svm", "--model-size", WIDTH, "--epochs", 1, "-o", out,
    )  # fmt: skip
    assert cirrus_fast.LinearModel.load(out).n_features == WIDTH
