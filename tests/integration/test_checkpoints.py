"""A run that stops and goes on is the run that did not stop."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import LogisticRegression, Record
from cirrus_fast.backend import checkpoint
from cirrus_fast.backend.checkpoint import Checkpoint
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.storage import file_writer, write_file
from cirrus_fast.errors import ModelError, OptionError, StorageError
from cirrus_fast.runtime.params.local import LocalStore


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


# The same data, whatever it is called


def test_the_data_set_may_have_moved(a9a: Dataset, tmp_path: Path) -> None:
    base = {"epsilon": 0, "consistency": "bsp", "epochs": 2}
    half = LogisticRegression(base, dataset="a9a", epochs=1, checkpoint_interval=3600).run()
    whole = LogisticRegression(base, dataset="a9a").run()
    Path(a9a.uri).rename(tmp_path / "elsewhere")
    for name in (str(tmp_path / "elsewhere"), f"file://{tmp_path}/elsewhere"):
        rest = LogisticRegression(base, dataset=name, resume_from=half.checkpoint).run()
        assert np.array_equal(rest.model.weights, whole.model.weights)


def test_the_test_data_set_is_known_by_what_it_is(
    a9a: Dataset, data_dir: Path, tmp_path: Path
) -> None:
    test = cirrus_fast.load_libsvm(data_dir / "a1a", "test", like="a9a")
    base = {"dataset": "a9a", "epochs": 1}
    half = LogisticRegression(base, test_dataset="test", checkpoint_interval=3600).run()
    shutil.copytree(test.uri, tmp_path / "copy")
    LogisticRegression(
        base, epochs=2, test_dataset=str(tmp_path / "copy"), resume_from=half.checkpoint
    ).run()
    cirrus_fast.load_libsvm(data_dir / "heart_scale", "test", like="a9a", overwrite=True)
    for other in ({"test_dataset": "test"}, {"test_fraction": 0.1}):
        with pytest.raises(OptionError, match="another test_dataset"):
            LogisticRegression(base | other, resume_from=half.checkpoint).run()


def test_what_was_decided_from_the_data_may_be_given(a9a: Dataset) -> None:
    base = {"dataset": "a9a", "epsilon": 0, "epochs": 1}
    half = LogisticRegression(base, checkpoint_interval=3600).run()
    decided = {n: half.params[n] for n in ("learning_rate", "model_size", "n_workers")}
    LogisticRegression(base | decided, resume_from=half.checkpoint).run()
    with pytest.raises(OptionError, match="that run had learning_rate="):
        LogisticRegression(base, learning_rate=0.77, resume_from=half.checkpoint).run()


def test_a_callbacks_stop_does_not_change_when_it_converges(a9a: Dataset) -> None:
    base = {"dataset": "a9a", "consistency": "bsp", "epochs": 50, "test_fraction": 0.2}
    base |= {"epsilon": 5.0, "patience": 4, "eval_interval": 1.0}
    whole = LogisticRegression(base).run()
    half = LogisticRegression(
        base, checkpoint_interval=3600, callbacks=lambda record: record.updates > 50_000
    ).run()
    assert half.stop_reason == "callback"
    rest = LogisticRegression(base, resume_from=half.checkpoint).run()
    assert whole.stop_reason == rest.stop_reason == "converged"
    assert [r.rows for r in rest.history] == [r.rows for r in whole.history]


def test_a_test_data_set_that_goes_away_does_not_end_the_run(a9a: Dataset, data_dir: Path) -> None:
    test = cirrus_fast.load_libsvm(data_dir / "a1a", "test", like="a9a")
    result = LogisticRegression(
        dataset="a9a", test_dataset="test", epochs=2, epsilon=0, checkpoint_interval=1e-9,
        callbacks=lambda _: shutil.rmtree(test.uri, ignore_errors=True),
    ).run()  # fmt: skip
    assert result.stop_reason == "epochs"
    assert Checkpoint.load(str(result.checkpoint)).test_dataset_id == test.id


# Damage


def rewritten(path: str, *, checksum: bool, **changes: Any) -> str:
    """A copy of a checkpoint with other arrays, and with `checksum` one that fits them."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "checksum"}
        old = str(file["checksum"])
    arrays |= changes
    arrays["checksum"] = np.array(checkpoint._checksum(arrays) if checksum else old)
    made = Path(path).with_name("changed.npz")
    np.savez(made, **arrays)
    return str(made)


def some_header(path: str, **changes: Any) -> Any:
    with np.load(path) as file:
        return np.array(json.dumps(json.loads(str(file["checkpoint"])) | changes))


@pytest.fixture
def kept(a9a: Dataset) -> str:
    """The checkpoint of a run with test rows, so with a best model."""
    path = LogisticRegression(dataset="a9a", epochs=1, checkpoint_interval=3600).run().checkpoint
    assert path is not None
    return path


def resume(path: str) -> None:
    LogisticRegression(dataset="a9a", epochs=2, resume_from=path).run()


def test_one_flipped_bit_anywhere_is_noticed(kept: str) -> None:
    with np.load(kept) as file:
        arrays = {name: file[name] for name in file.files}
    for name in ("state", "slots", "best_weights"):
        flipped = bytearray(arrays[name].tobytes())
        flipped[len(flipped) // 2] ^= 1
        changed = np.frombuffer(flipped, arrays[name].dtype).reshape(arrays[name].shape)
        with pytest.raises(ModelError, match=r"changed\.npz: damaged \(its checksum"):
            resume(rewritten(kept, checksum=False, **{name: changed}))
    for header in ({"stale": 7}, {"rows_repeated": 1}, {"seconds": 0}):
        with pytest.raises(ModelError, match="its checksum"):
            resume(rewritten(kept, checksum=False, checkpoint=some_header(kept, **header)))


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": np.zeros(1)},
        {"slots": np.zeros((1, 1))},
        {"slots": np.array("x")},
        {"slots": np.zeros(1, [("rows", np.int64)])},
        {"state": np.zeros(3, np.float32)},
        {"state": np.zeros((2, 124), np.float32)},
        {"state": np.zeros(248, np.float64)},
        {"state": np.array("x")},
        {"best_weights": np.zeros(3, np.float32)},
        {"best_weights": np.zeros(123)},
        {"best_weights": np.array(["x"])},
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_are_one_line(kept: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"^\S*changed\.npz: .*$") as caught:
        resume(rewritten(kept, checksum=True, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"stale": "x"},
        {"stale": None},
        {"round": [1]},
        {"rows_repeated": None},
        {"seconds": "soon"},
        {"best": 3},
        {"best": [1]},
        {"best": ["x", None, 0]},
        {"best": [1, None, None]},
        {"reference": "x"},
        {"history": [dict.fromkeys(Record.__slots__)]},
        {"history": [{"rows": 1}]},
        {"history": 3},
        {"options": None},
        {"format_version": 1},
        {"format_version": 99},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_one_line(kept: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"changed\.npz: "):
        resume(rewritten(kept, checksum=True, checkpoint=some_header(kept, **changes)))


def test_a_worker_that_stands_before_the_beginning_is_damage(kept: str) -> None:
    with np.load(kept) as file:
        slots = file["slots"].copy()
    slots["rows"] = -5
    with pytest.raises(ModelError, match="negative"):
        resume(rewritten(kept, checksum=True, slots=slots))


# Rows that may come twice


def test_rows_repeated_are_counted_on_after_a_resume(kept: str) -> None:
    path = rewritten(kept, checksum=True, checkpoint=some_header(kept, rows_repeated=1234))
    rest = LogisticRegression(dataset="a9a", epochs=2, resume_from=path).run()
    assert rest.rows_repeated == 1234


def test_rows_under_way_at_a_checkpoint_count_as_repeated(
    a9a: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that are not paced go on while the state is copied: what they had begun is in it."""
    stores: list[LocalStore] = []
    create = LocalStore.create.__func__  # type: ignore[attr-defined]

    def noted(cls: type[LocalStore], *args: Any, **more: Any) -> LocalStore:
        stores.append(create(cls, *args, **more))
        return stores[-1]

    monkeypatch.setattr(LocalStore, "create", classmethod(noted))
    saved: list[int] = []
    save = Checkpoint.save

    def begun(self: Checkpoint, path: str) -> None:
        saved.append(self.rows_repeated)
        save(self, path)
        stores[-1].slots["granted"] = 50  # as if two workers had these under way at the next one

    monkeypatch.setattr(Checkpoint, "save", begun)
    LogisticRegression(
        dataset="a9a", epochs=2, epsilon=0, checkpoint_interval=1e-9, eval_interval=1.0
    ).run()
    assert saved[0] == 0
    assert saved[-1] == 50


# A disk that is full


def failing(error: OSError, times: int) -> Callable[..., None]:
    """A write_file that fails so often, and then works."""
    left = [times]

    def write(path: str, data: bytes) -> None:
        if left[0]:
            left[0] -= 1
            raise error
        write_file(path, data)

    return write


FULL = StorageError(errno.ENOSPC, "No space left on device", "x.npz")


def test_a_run_outlives_a_checkpoint_that_cannot_be_written(
    a9a: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"dataset": "a9a", "epsilon": 0, "epochs": 3, "consistency": "bsp"}
    plain = LogisticRegression(options).run()
    monkeypatch.setattr(checkpoint, "write_file", failing(FULL, 10**6))
    result = LogisticRegression(options, checkpoint_interval=1e-9).run()
    assert result.stop_reason == "epochs"
    assert np.array_equal(result.model.weights, plain.model.weights)
    assert result.checkpoint is None
    assert result.checkpoint_error == "No space left on device"
    lines = [line for line in caplog.messages if "checkpoint not written" in line]
    assert len(lines) == 1  # and not one each time
    assert "No space left on device" in lines[0]


def test_the_last_good_checkpoint_is_kept(
    a9a: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"dataset": "a9a", "epsilon": 0, "consistency": "bsp"}
    options |= {"epochs": 4, "eval_interval": 1.0}

    def fill_up(record: object) -> None:
        if len(seen) == 2:
            monkeypatch.setattr(checkpoint, "write_file", failing(FULL, 10**6))
        seen.append(record)

    seen: list[object] = []
    result = LogisticRegression(options, checkpoint_interval=1e-9, callbacks=fill_up).run()
    assert result.checkpoint_error == "No space left on device"
    assert result.checkpoint is not None
    assert "the last good one is kept" in caplog.text
    monkeypatch.undo()
    rest = LogisticRegression(options, resume_from=result.checkpoint).run()
    assert np.array_equal(rest.model.weights, result.model.weights)
    assert not list(Path(result.checkpoint).parent.glob("*.tmp"))


def test_a_disk_with_room_again_is_used_again(
    a9a: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "write_file", failing(FULL, 1))
    result = LogisticRegression(
        dataset="a9a", epsilon=0, epochs=3, eval_interval=1.0, checkpoint_interval=1e-9
    ).run()
    assert result.checkpoint_error is None
    assert result.checkpoint is not None


def test_a_place_for_checkpoints_that_cannot_be_written_is_refused_at_once(
    a9a: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(a9a.uri).parent / "checkpoints").write_text("in the way")
    launched: list[object] = []
    monkeypatch.setattr(
        "cirrus_fast.backend.workers.Workers.launch", lambda self: launched.append(self)
    )
    task = LogisticRegression(dataset="a9a", checkpoint_interval=3600)
    with pytest.raises(
        StorageError, match=r"checkpoint_interval: .*checkpoints: cannot be written"
    ):
        task.run()
    assert not launched


def test_ctrl_c_does_not_tear_a_checkpoint_under_way(
    a9a: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes while the file is open: it ends the run, and the file is whole."""
    pressed: list[str] = []

    class Writer:
        def __init__(self, path: str) -> None:
            self.inner = file_writer(path)
            if not pressed:
                pressed.append(path)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)

        def write(self, data: bytes) -> None:
            self.inner.write(data)
            self.inner.commit()

    monkeypatch.setattr(checkpoint, "write_file", lambda path, data: Writer(path).write(data))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = LogisticRegression(
            dataset="a9a", epochs=10**6, epsilon=0, eval_interval=1.0, checkpoint_interval=1e-9
        ).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stop_reason == "interrupted"
    assert result.checkpoint == pressed[0]
    assert Checkpoint.load(pressed[0]).history[-1].rows == result.history[-1].rows
    assert [path.name for path in Path(pressed[0]).parent.iterdir()] == [Path(pressed[0]).name]
