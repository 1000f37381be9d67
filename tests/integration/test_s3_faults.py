"""Training from S3 while the server, the network and the disk fail: the right rows, or an error.

One worker is deterministic, so the model of a disturbed run must be that of the undisturbed one bit
for bit: a row missing, twice, or with another value would make another.
"""

from __future__ import annotations

import errno
import os
import threading
from functools import partial
from itertools import count

import numpy as np
import pytest
from s3_server import Faults

import cirrus_fast
from cirrus_fast.data import s3 as s3_module
from cirrus_fast.data import s3_source
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.s3 import S3Storage
from cirrus_fast.data.s3_get import Getter
from cirrus_fast.errors import CirrusFastError, DatasetError, StorageError
from cirrus_fast.notices import notice_once
from cirrus_fast.runtime import memory

N_ROWS, BLOCK_ROWS, EPOCHS = 3000, 60, 3
TIMEOUT_S = 1.0
SET = "s3://bucket/sets/clicks"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The text, and the objects of its data set in many blocks: by name."""
    folder = tmp_path_factory.mktemp("clicks")
    cirrus_fast.make_clicks(folder / "clicks.svm", N_ROWS, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", BLOCK_ROWS)
        cirrus_fast.load_libsvm(folder / "clicks.svm", str(folder / "set"))
    objects = {path.name: path.read_bytes() for path in (folder / "set").iterdir()}
    return (folder / "clicks.svm").read_bytes(), objects


@pytest.fixture
def clicks(s3, files, monkeypatch):
    """The data set in S3, read by workers that are small, hold few blocks, and do not wait."""
    for name, content in files[1].items():
        S3Storage(SET).write(name, content)
    monkeypatch.setattr(
        s3_module, "Getter", partial(Getter, timeout=TIMEOUT_S, pause=lambda _s: None)
    )
    monkeypatch.setattr(
        memory.Memory, "of", classmethod(lambda cls, *_sizes: cls(rows=90_000, group=20_000))
    )
    s3_module.forget()
    s3.application.requests.clear()
    return s3


def train(**options):
    usual = {"n_workers": 1, "epochs": EPOCHS, "epsilon": 0, "progress": False, "dataset": SET}
    return cirrus_fast.LogisticRegression(usual | options).run()


@pytest.fixture(scope="module")
def undisturbed():
    """Weights of a run without faults; the first test that needs them makes them."""
    return {}


@pytest.fixture
def weights(clicks, undisturbed):
    if not undisturbed:
        undisturbed["weights"] = train().model.weights
        clicks.application.requests.clear()
    s3_module.forget()
    return undisturbed["weights"]


def shard_requests(s3):
    return [path for _, path, _ in s3.application.requests if "/shard-" in path]


def after(n, what):
    """A plan under which the blocks' n-th request and those behind it find that `what` was done."""
    lock, seen = threading.Lock(), 0

    def plan(path):
        nonlocal seen
        if "/shard-" not in path:
            return None
        with lock:
            seen += 1
            return what() if seen >= n else None

    return plan


KINDS = {
    "503 SlowDown": "503 SlowDown",
    "503 ServiceUnavailable": "503 ServiceUnavailable",
    "500 InternalError": "500 InternalError",
    "the connection closed instead of an answer": "silence",
    "connections cut after some bytes": "reset",
    "bodies that end before what was announced": "short",
    "shorter bodies than asked for, announced as such": "truncated",
    "stalls": "stall",
}
# Those that are over at once and, unlike "truncated", seen in objects of unknown size.
QUICK = ["503 SlowDown", "500 InternalError", "silence", "reset", "short"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_what_passes_leaves_the_model_as_it_is(clicks, weights, kind):
    every, number = 20 if kind == "stall" else 8, count()
    plan = after(1, lambda: kind if next(number) % every == 3 else None)
    clicks.faults = Faults(plan, after=None, stall_s=TIMEOUT_S + 0.5)
    result = train()
    assert clicks.faults.injected[kind] > 0
    assert result.rows_processed == EPOCHS * N_ROWS
    assert result.rows_repeated == 0
    assert result.reads.retries >= clicks.faults.injected[kind]
    assert np.array_equal(result.model.weights, weights)


def test_all_of_it_at_once_leaves_the_model_as_it_is(clicks, weights):
    clicks.faults = Faults.some(0.3, QUICK, after=None)
    result = train()
    assert clicks.faults.injected.total() > 10
    assert np.array_equal(result.model.weights, weights)


def test_bits_that_turn_over_on_the_way_leave_the_model_as_it_is(clicks, weights, caplog):
    draw = np.random.default_rng(1)
    plan = after(1, lambda: "glitch" if draw.random() < 0.3 else None)
    clicks.faults = Faults(plan, after=None)
    result = train()
    assert clicks.faults.injected["glitch"] > 3
    assert caplog.text.count("; read again") == clicks.faults.injected["glitch"]
    assert np.array_equal(result.model.weights, weights)


@pytest.mark.parametrize("n_workers", [2, 3])
def test_rows_are_counted_right_whoever_reads_them(clicks, n_workers):
    clicks.faults = Faults.some(0.15, QUICK, after=None)
    result = train(n_workers=n_workers)
    assert clicks.faults.injected.total() > 5
    assert (result.rows_processed, result.rows_repeated) == (EPOCHS * N_ROWS, 0)
    # bsp adds the gradients up in the workers' order, so that it can be compared.
    clicks.faults = Faults()
    options = {"n_workers": n_workers, "consistency": "bsp", "minibatch_size": 100}
    expected = train(**options)
    clicks.faults = Faults.some(0.15, QUICK, after=None)
    found = train(**options)
    assert np.array_equal(found.model.weights, expected.model.weights)


def test_worker_processes_ask_again_too(clicks, files):
    """With the pauses and the memory that they really have."""
    options = {"executor": "processes", "epochs": 2}
    expected = train(**options)
    clicks.faults = Faults.first(4, "503 SlowDown", after=None)
    found = train(**options)
    assert clicks.faults.injected["503 SlowDown"] == 4
    assert found.rows_processed == 2 * N_ROWS
    assert np.array_equal(found.model.weights, expected.model.weights)


# What does not pass


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("503 SlowDown", r"shard-.*the server said 503 SlowDown \(attempt 6\)"),
        ("silence", r"shard-.*connection lost \(RemoteDisconnected.*\(attempt 6\)"),
        ("403 ExpiredToken", r"shard-.*the credentials have expired .403 ExpiredToken.; renew"),
        ("403 AccessDenied", r"shard-.*403 AccessDenied; may these credentials read it\?"),
        ("corrupt", r"shard-.*at byte \d+: checksum mismatch: the block is damaged"),
    ],
)
def test_what_begins_during_a_run_and_lasts_ends_it_with_the_objects_name(clicks, kind, says):
    clicks.faults = Faults(after(10, lambda: kind), after=None)
    with pytest.raises(CirrusFastError, match=f"{SET}/{says}") as caught:
        train()
    assert "\n" not in str(caught.value)
    assert shard_requests(clicks)


def test_a_shard_deleted_during_a_run_is_named(clicks, files):
    (shard,) = (name for name in files[1] if name.startswith("shard-"))
    clicks.faults = Faults(after(10, lambda: S3Storage(SET).delete(shard)))
    with pytest.raises(StorageError, match=f"no such object .*{SET}/{shard}"):
        train()


def test_a_shard_replaced_during_a_run_is_noticed_though_it_looks_the_same(clicks, files):
    """The same blocks in another order: sizes, checksums and counts may all agree."""
    (shard,) = (name for name in files[1] if name.startswith("shard-"))
    raw = files[1][shard]
    other = bytes(raw[:-1]) + bytes([raw[-1] ^ 1])
    clicks.faults = Faults(after(10, lambda: S3Storage(SET).write(shard, other)))
    with pytest.raises(StorageError, match=f"{SET}/{shard}: was replaced while it was being read"):
        train()


def test_a_data_set_loaded_anew_before_the_workers_open_it_is_noticed(clicks, files):
    text, _ = files
    lock, seen = threading.Lock(), 0

    def plan(path):
        nonlocal seen
        with lock:
            is_manifest = path.endswith("/manifest.json")
            seen += is_manifest
            again = is_manifest and seen == 2
        if again:
            S3Storage("s3://bucket/text").write("other.svm", text[: text.index(b"\n", 1000) + 1])
            cirrus_fast.load_libsvm("s3://bucket/text/other.svm", SET, overwrite=True)

    clicks.faults = Faults(plan)
    with pytest.raises(CirrusFastError, match="clicks: was replaced after the run began"):
        train()


@pytest.mark.parametrize("name", ["manifest", "dictionary", "columns"])
@pytest.mark.parametrize("kind", ["corrupt", "truncated"])
def test_what_is_damaged_beside_the_blocks_is_named(clicks, name, kind):
    clicks.faults = Faults(lambda path: kind if f"/{name}" in path else None, after=200)
    with pytest.raises(DatasetError, match=f"{SET}/{name}") as caught:
        train()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_temporary_folder_means_reading_again(clicks, weights, monkeypatch, caplog, number):
    def full(_descriptor, _data, _at):
        raise OSError(number, os.strerror(number))

    undisturbed = train()
    assert [reads.bytes for reads in undisturbed.reads_by_epoch[1:]] == [0] * (EPOCHS - 1)
    monkeypatch.setattr(os, "pwrite", full)
    notice_once.cache_clear()
    result = train()
    assert caplog.text.count("no room in the temporary folder") == 1
    assert result.reads_by_epoch[1].bytes > undisturbed.reads.bytes / 2
    assert np.array_equal(result.model.weights, weights)


def test_a_temporary_folder_that_fills_up_meanwhile_keeps_what_it_has(
    clicks, weights, monkeypatch, caplog
):
    pwrite, room = os.pwrite, 20_000

    def fill(descriptor, data, at):
        if at >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data[: room - at], at)

    monkeypatch.setattr(os, "pwrite", fill)
    notice_once.cache_clear()
    result = train()
    assert caplog.text.count("no room in the temporary folder") == 1
    assert np.array_equal(result.model.weights, weights)


# Loading


def test_text_is_loaded_right_or_not_at_all(clicks, files, monkeypatch):
    text, _ = files
    monkeypatch.setattr(s3_source, "RANGE_BYTES", 30_000)
    S3Storage("s3://bucket/text").write("a.svm", text)
    clicks.faults = Faults.some(0.3, QUICK, after=None)
    loaded = cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "s3://bucket/sets/loaded")
    assert clicks.faults.injected.total() > 5
    clicks.faults = Faults()
    expected = cirrus_fast.parse_libsvm(text)
    parts = list(iterate(loaded))
    for name in ("labels", "indices", "data"):
        found = np.concatenate([getattr(part, name) for part in parts])
        assert found.tobytes() == getattr(expected, name).tobytes()
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    assert np.array_equal(lengths, np.diff(expected.indptr))


def test_text_is_trained_on_as_it_is(clicks, files, monkeypatch):
    monkeypatch.setattr(s3_source, "RANGE_BYTES", 30_000)
    S3Storage("s3://bucket/text").write("a.svm", files[0])
    options = {"dataset": "s3://bucket/text/a.svm", "model_size": 2**20}
    expected = train(**options)
    clicks.faults = Faults.some(0.3, QUICK, after=None)
    found = train(**options)
    assert clicks.faults.injected.total() > 5
    assert found.rows_processed == EPOCHS * N_ROWS
    assert np.array_equal(found.model.weights, expected.model.weights)


def test_text_replaced_while_it_is_read_is_refused(clicks, files, monkeypatch):
    monkeypatch.setattr(s3_source, "RANGE_BYTES", 30_000)
    storage = S3Storage("s3://bucket/text")
    storage.write("a.svm", files[0])
    lock, seen = threading.Lock(), 0

    def plan(path):
        nonlocal seen
        with lock:
            seen += path.endswith("/a.svm")
            if seen == 8:
                seen += 1
                storage.write("a.svm", files[0][::-1])

    for use in (
        lambda: cirrus_fast.load_libsvm("s3://bucket/text/a.svm", "s3://bucket/sets/loaded"),
        lambda: train(dataset="s3://bucket/text/a.svm", model_size=2**20),
    ):
        seen = 0
        storage.write("a.svm", files[0])
        clicks.faults = Faults(plan)
        with pytest.raises(StorageError, match=r"text/a\.svm: was replaced while"):
            use()


def test_what_is_written_is_asked_again_too(clicks, files):
    storage = S3Storage("s3://bucket/other")
    clicks.faults = Faults.first(1, "503 SlowDown", methods=("PUT",))
    storage.write("object", b"content")
    assert clicks.faults.injected["503 SlowDown"] == 1
    assert storage.read("object") == b"content"
