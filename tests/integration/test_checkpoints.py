"""A run that stops and goes on is the run that did not stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import LogisticRegression
from cirrus_fast.backend.checkpoint import Checkpoint
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.errors import ModelError, OptionError


@pytest.fixture
def a9a(storage_root: Path, data_dir: Path) -> Dataset:
    return cirrus_fast.load_libsvm(data_dir / "a9a.gz", "a9a")


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "sgd"])
@pytest.mark.parametrize("more", [{}, {"minibatch_size": 7}, {"l1": 1e-4, "l2": 1e-4}])
def test_four_epochs_are_two_and_two(a9a: Dataset, optimizer: str, more: dict) -> None:
    base = {"dataset": "a9a", "epsilon": 0, "consistency": "bsp", "optimizer": optimizer} | more
    whole = LogisticRegression(base, epochs=4).run()
    half = LogisticRegression(base, epochs=2, checkpoint_interval=3600).run()
    rest = LogisticRegression(base, epochs=4, resume_from=half.checkpoint).run()
    assert half.rows_processed == 2 * a9a.n_rows
    assert rest.rows_processed == whole.rows_processed == 4 * a9a.n_rows
    assert np.array_equal(rest.model.weights, whole.model.weights)
    assert rest.model.intercept == whole.model.intercept
    assert not np.array_equal(half.model.weights, whole.model.weights)


def test_a_run_stopped_anywhere_goes_on_exactly(a9a: Dataset) -> None:
    base = {"dataset": "a9a", "consistency": "bsp", "epochs": 3, "epsilon": 0}
    base |= {"test_fraction": 0.2, "eval_interval": 0.13}
    whole = LogisticRegression(base).run()
    stopped = LogisticRegression(
        base, checkpoint_interval=3600, callbacks=lambda record: record.rows > 40_000
    ).run()
    assert stopped.stop_reason == "callback"
    rest = LogisticRegression(base, resume_from=stopped.checkpoint).run()
    assert [r.rows for r in rest.history] == [r.rows for r in whole.history]
    assert [r.test_loss for r in rest.history] == [r.test_loss for r in whole.history]
    assert np.array_equal(rest.model.weights, whole.model.weights)
    assert rest.test_loss == whole.test_loss
    assert rest.seconds > stopped.seconds


def test_checkpoints_are_written_during_the_run(a9a: Dataset) -> None:
    seen: list[int] = []

    def look(record: object) -> None:
        seen.append(len(list(Path(a9a.uri).parent.glob("checkpoints/*.npz"))))

    result = LogisticRegression(
        dataset="a9a", epochs=3, epsilon=0, checkpoint_interval=1e-6, callbacks=look
    ).run()
    assert result.checkpoint is not None
    assert seen[0] == 0
    assert seen[-1] == 1


def test_without_the_option_nothing_is_written(a9a: Dataset) -> None:
    result = LogisticRegression(dataset="a9a", epochs=1).run()
    assert result.checkpoint is None
    assert not (Path(a9a.uri).parent / "checkpoints").exists()


def test_workers_in_step_resume_too(a9a: Dataset) -> None:
    base = {"dataset": "a9a", "epsilon": 0, "consistency": "bsp", "n_workers": 2}
    base |= {"minibatch_size": 100}
    half = LogisticRegression(base, epochs=1, checkpoint_interval=3600).run()
    rest = LogisticRegression(base, epochs=2, resume_from=half.checkpoint).run()
    assert rest.rows_processed == 2 * a9a.n_rows


@pytest.mark.parametrize("change", [{"seed": 1}, {"minibatch_size": 2}, {"l2": 1.0}])
def test_other_options_are_refused(a9a: Dataset, change: dict) -> None:
    base = {"dataset": "a9a", "epsilon": 0, "epochs": 1}
    half = LogisticRegression(base, checkpoint_interval=3600).run()
    (name,) = change
    with pytest.raises(OptionError, match=f"that run had {name}="):
        LogisticRegression(base | change, resume_from=half.checkpoint).run()


def test_another_data_set_is_refused(a9a: Dataset, data_dir: Path) -> None:
    half = LogisticRegression(dataset="a9a", epochs=1, checkpoint_interval=3600).run()
    cirrus_fast.load_libsvm(data_dir / "a1a", "a9a", overwrite=True)
    with pytest.raises(OptionError, match="another data set"):
        LogisticRegression(dataset="a9a", epochs=2, resume_from=half.checkpoint).run()


def test_a_damaged_or_missing_checkpoint_is_one_clear_error(a9a: Dataset, tmp_path: Path) -> None:
    half = LogisticRegression(dataset="a9a", epochs=1, checkpoint_interval=3600).run()
    assert half.checkpoint is not None
    whole = Path(half.checkpoint).read_bytes()
    damaged = tmp_path / "damaged.npz"
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"damaged\.npz"):
            Checkpoint.load(str(damaged))
    half.model.save(tmp_path / "model.npz")
    with pytest.raises(ModelError, match="not a checkpoint"):
        Checkpoint.load(str(tmp_path / "model.npz"))
    with pytest.raises(ModelError, match="No such file"):
        LogisticRegression(dataset="a9a", resume_from=str(tmp_path / "none.npz")).run()


def test_two_and_two_epochs_are_four_with_test_rows_too(a9a: Dataset) -> None:
    # Two epochs end between evaluations: what is measured there is no part of the longer run.
    base = {"dataset": "a9a", "epsilon": 0, "test_fraction": 0.1, "consistency": "bsp"}
    base |= {"eval_interval": 0.9}
    whole = LogisticRegression(base, epochs=4).run()
    half = LogisticRegression(base, epochs=2, checkpoint_interval=3600).run()
    rest = LogisticRegression(base, epochs=4, resume_from=half.checkpoint).run()
    assert [(r.rows, r.test_loss) for r in rest.history] == [
        (r.rows, r.test_loss) for r in whole.history
    ]
    assert rest.test_loss == whole.test_loss
    assert np.array_equal(rest.model.weights, whole.model.weights)
