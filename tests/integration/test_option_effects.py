"""Every option changes what a run does. Each test here fails if its option were ignored."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast import CSR, Dataset, LogisticRegression, load_csr
from cirrus_fast.errors import DatasetError, OptionError
from cirrus_fast.notices import notice_once
from cirrus_fast.options import table
from cirrus_fast.runtime import minibatches, row_sources
from cirrus_fast.runtime import worker as worker_module
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.params.bitfield import Exchange
from cirrus_fast.runtime.worker import run_worker

N_ROWS, WIDTH = 3000, 30


def example(n_rows=N_ROWS, seed=0, noise=1.0):
    """Rows of 5 entries whose labels follow a linear model with an intercept of -1."""
    rng = np.random.default_rng([seed, 77])
    ids = np.sort(np.argsort(rng.random((n_rows, WIDTH)), axis=1)[:, :5], axis=1)
    data = rng.choice([0.5, 1.0, 2.0], (n_rows, 5)).astype(np.float32)
    truth = np.random.default_rng(1).normal(size=WIDTH)
    margins = (truth[ids] * data).sum(axis=1) - 1
    labels = (margins + noise * rng.logistic(size=n_rows) > 0).astype(np.float32)
    indptr = np.arange(0, 5 * n_rows + 1, 5)
    return CSR(labels, indptr, ids.ravel().astype(np.uint32), data.ravel(), WIDTH)


@pytest.fixture(autouse=True)
def small_blocks(storage_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data sets "d" and "other", in blocks of 256 rows."""
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 256)
    load_csr(example(), None, "d")
    load_csr(example(seed=5), None, "other", like="d")
    return storage_root


def train(**options):
    """A repeatable run that is long enough to show a difference."""
    base = {"dataset": "d", "epsilon": 0, "epochs": 2, "consistency": "bsp"}
    return LogisticRegression({**base, **options}).run()


def same(left, right):
    return (
        left.model.weights.tobytes() == right.model.weights.tobytes()
        and left.model.intercept == right.model.intercept
    )


def test_without_a_change_the_run_repeats():
    """What the comparisons below rest on."""
    assert same(train(), train())


def test_dataset():
    assert not same(train(dataset="other"), train(dataset="d"))
    with pytest.raises(DatasetError, match="nowhere: no data set"):
        train(dataset="nowhere")


def test_test_dataset():
    result = train(test_dataset="other")
    assert result.test_loss == pytest.approx(result.model.evaluate("other").logloss, rel=1e-9)
    assert result.rows_processed == 2 * N_ROWS  # nothing is held out of the training rows


def test_test_fraction():
    for fraction in (0.1, 0.5):
        trained = train(test_fraction=fraction).rows_processed / 2
        assert abs(trained - (1 - fraction) * N_ROWS) < 150
    assert train().test_loss is None


def test_model_size():
    assert train(model_size=100).model.n_features == 100
    assert train().model.n_features == WIDTH
    with pytest.raises(DatasetError, match=r"feature 29 .* beyond model_size=29"):
        train(model_size=29)


def test_fit_intercept():
    assert train(fit_intercept=False).model.intercept == 0
    assert train().model.intercept < -0.3


def test_optimizer():
    results = [train(optimizer=name) for name in ("adagrad", "ftrl", "sgd")]
    assert not any(same(a, b) for a, b in itertools.combinations(results, 2))


def test_learning_rate():
    sizes = [np.abs(train(learning_rate=rate, epochs=1).model.weights).max() for rate in (1e-4, 1)]
    assert sizes[0] < 0.1 * sizes[1]


def test_minibatch_size():
    for size, updates in ((1, N_ROWS), (300, 10), (700, 5), (10_000, 1)):
        result = train(minibatch_size=size, epochs=1, eval_interval=1)
        assert result.history[-1].updates == updates


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "sgd"])
def test_l1(optimizer):
    kept = [train(optimizer=optimizer, l1=l1).model.nnz for l1 in (0, 0.03, 10)]
    assert kept[0] == WIDTH
    assert 0 < kept[1] < WIDTH
    assert kept[2] == 0


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "sgd"])
def test_l2(optimizer):
    size = [np.linalg.norm(train(optimizer=optimizer, l2=l2).model.weights) for l2 in (0, 0.1, 10)]
    assert size[0] > 2 * size[1] > 10 * size[2] > 0


def test_class_weight():
    mean = {}
    for weight in (None, "balanced", (1.0, 9.0), (9.0, 1.0)):
        model = train(class_weight=weight, epochs=4).model
        mean[str(weight)] = model.predict_proba("d")[:, 1].mean()
    share = Dataset("d").manifest.n_positive / N_ROWS
    assert abs(mean["None"] - share) < 0.03
    assert mean["(9.0, 1.0)"] < share - 0.1
    assert mean["(1.0, 9.0)"] > mean["balanced"] > share + 0.05
    # Balanced is n / (2 n_class).
    negative, positive = 0.5 / (1 - share), 0.5 / share
    assert same(train(class_weight="balanced"), train(class_weight=(negative, positive)))


def test_epochs():
    for epochs in (1, 3):
        assert train(epochs=epochs).rows_processed == epochs * N_ROWS


def test_epsilon():
    stopped = train(epsilon=0.5, epochs=50)
    assert stopped.stop_reason == "converged"
    assert stopped.rows_processed < 10 * N_ROWS
    assert train(epsilon=0, test_fraction=0.05, epochs=5).stop_reason == "epochs"
    assert train(epsilon=1e-4, epochs=1).test_loss is not None  # holds rows out of itself


def test_patience():
    records = [
        len(train(epsilon=5.0, epochs=20, eval_interval=1, patience=patience).history)
        for patience in (2, 6)
    ]
    # The first evaluation is progress, and no later one is.
    assert records == [3, 7]


def test_eval_interval():
    for interval, records in ((0.1, 20), (0.25, 8), (1, 2), (5, 1)):
        assert len(train(eval_interval=interval).history) == records
    assert len(train().history) == 2  # small data: an epoch apart


def test_threshold_loss():
    whole = train(test_fraction=0.2, eval_interval=0.1)
    assert whole.stop_reason == "epochs"
    losses = [record.test_loss for record in whole.history]
    threshold = sorted(losses)[len(losses) // 2]
    result = train(test_fraction=0.2, eval_interval=0.1, threshold_loss=threshold)
    assert result.stop_reason == "threshold_loss"
    assert [record.test_loss for record in result.history] == losses[: len(result.history)]
    assert result.history[-1].test_loss <= threshold < result.history[-2].test_loss


def test_timeout():
    short, long = (train(timeout=seconds, epochs=1_000_000) for seconds in (0.2, 1.0))
    for result in (short, long):
        assert result.stop_reason == "timeout"
    assert 0 < short.rows_processed < long.rows_processed < 1_000_000 * N_ROWS


def test_checkpoint_interval(small_blocks):
    assert train().checkpoint is None
    assert not (small_blocks / "checkpoints").exists()
    result = train(checkpoint_interval=1000)  # at the end in any case
    assert Path(result.checkpoint).is_file()
    written = []

    def look(_record):
        written.append(len(list((small_blocks / "checkpoints").glob("*.npz"))))
        time.sleep(0.002)

    train(checkpoint_interval=1e-3, epochs=5, callbacks=look)
    assert written[0] == 1
    assert written[-1] == 2  # this run's own, before it ended


def test_resume_from():
    whole = train(epochs=4)
    half = train(epochs=2, checkpoint_interval=1000)
    rest = train(epochs=4, resume_from=half.checkpoint)
    assert same(rest, whole)
    assert not same(half, whole)
    assert rest.rows_processed == 4 * N_ROWS
    with pytest.raises(OptionError, match="that run had l2="):
        train(epochs=4, resume_from=half.checkpoint, l2=1)
    with pytest.raises(OptionError, match="of another data set"):
        train(dataset="other", epochs=4, resume_from=half.checkpoint)


@pytest.fixture
def several_workers(monkeypatch):
    """Several workers on little data, which a plan would not allow."""
    monkeypatch.setattr("cirrus_fast.backend.plan.FEW_ROWS", 0)


@pytest.mark.usefixtures("several_workers")
def test_consistency():
    """bsp: two workers step together, so theirs are as good as equal runs of one with twice the
    rows a step, and alike each time."""
    options = {"n_workers": 2, "minibatch_size": 50, "epochs": 2}
    results = {name: train(consistency=name, **options) for name in ("async", "ssp", "bsp")}
    for result in results.values():
        assert result.n_workers == 2
        assert result.rows_processed == 2 * N_ROWS
    assert same(train(consistency="bsp", **options), results["bsp"])
    # sgd with one step an epoch: the sum over all rows, whoever has them.
    big = {"minibatch_size": N_ROWS, "optimizer": "sgd", "learning_rate": 1e-4, "epochs": 1}
    one, two = (train(consistency="bsp", n_workers=n, **big).model for n in (1, 2))
    np.testing.assert_allclose(one.weights, two.weights, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("several_workers")
def test_staleness(monkeypatch):
    """A worker that is slow holds the other up, once that one is as far ahead as it may be."""
    monkeypatch.setattr(worker_module, "CHUNK_ROWS", 1)
    train_chunk = worker_module.Worker._train
    leads = {}
    for staleness in (0, 8):
        done, seen = [0, 0], []

        def slowly(self, rows, order, done=done, seen=seen):
            worker = self._spec.worker
            time.sleep(0.002 * worker)
            train_chunk(self, rows, order)
            done[worker] += len(order)
            seen.append(done[0] - done[1])

        monkeypatch.setattr(worker_module.Worker, "_train", slowly)
        options = {"n_workers": 2, "minibatch_size": 1, "timeout": 0.7}
        train(consistency="ssp", staleness=staleness, **options)
        leads[staleness] = max(seen)
    assert leads[0] <= 2  # one learnt, one not yet counted here
    assert 3 <= leads[8] <= 10


def test_ssp_with_one_worker_is_noticed(caplog):
    notice_once.cache_clear()  # other tests may have heard it
    assert train(consistency="ssp", staleness=3).n_workers == 1
    assert 'consistency="ssp" changes nothing' in caplog.text


@pytest.mark.usefixtures("several_workers")
def test_n_workers():
    for wanted in (1, 3):
        result = train(consistency="async", n_workers=wanted)
        assert result.n_workers == wanted
        assert result.rows_processed == 2 * N_ROWS


def test_max_cost():
    """Its effect is in test_lambda_cost.py, where there are costs."""
    with pytest.raises(OptionError, match="max_cost: means nothing with executor='local'"):
        train(max_cost=1)
    assert train(max_cost=None).cost == 0


def in_redis(server, **options):
    base = {"param_store": server.url, "n_workers": 1, "consistency": "async"}
    return train(**base | options)


def test_sync_rows(redis_server):
    often, seldom = (in_redis(redis_server, sync_rows=rows) for rows in (300, 1500))
    assert often.exchanges["exchanges"] > 2 * seldom.exchanges["exchanges"]
    with pytest.raises(OptionError, match="sync_rows=300: means nothing with param_store='memory'"):
        train(sync_rows=300)


def test_pipeline_depth(redis_server, monkeypatch):
    """So many exchanges are under way at once, and no more."""
    most = []
    submit = Exchange.submit

    def watched(self, *arguments, **more):
        request = submit(self, *arguments, **more)
        most.append(self.n_under_way)
        return request

    monkeypatch.setattr(Exchange, "submit", watched)
    monkeypatch.setattr("cirrus_fast.backend.redis_run.pays", lambda n_ids, sync_rows: False)
    for depth in (1, 3):
        most.clear()
        in_redis(redis_server, sync_rows=100, pipeline_depth=depth)
        assert max(most) == depth
    with pytest.raises(OptionError, match="pipeline_depth=2: means nothing with param_store='mem"):
        train(pipeline_depth=2)


def test_n_ps(redis_server):
    """In memory there is one server, so anything else is refused rather than ignored."""
    found = []

    def look(_record):
        with redis_server.client() as client:
            found.append(len(client.keys("*:model")))

    in_redis(redis_server, n_ps=3, callbacks=look, eval_interval=1)
    assert found[0] == 3
    train(n_ps=1)
    with pytest.raises(OptionError, match="n_ps=2: means nothing with param_store='memory'"):
        train(n_ps=2)


def test_worker_size(monkeypatch):
    """Too small for all rows: blocks are read again each epoch, and still every row comes once."""
    given = Memory.of
    small = Memory(64_000, 8000)
    monkeypatch.setattr(
        Memory, "of", lambda size, model: small if size == 128 else given(size, model)
    )
    monkeypatch.setattr(row_sources, "_NEAR_AHEAD_BYTES", 5000)
    reads, rows_seen = [], []
    read_into, read = Dataset.read_into, minibatches.MiniBatches._read

    def counted(self, block, out, arrived):
        reads.append(block)
        read_into(self, block, out, arrived)

    def watched(self, *arguments):
        rows, training = read(self, *arguments)
        rows_seen.append(rows.n_rows)
        return rows, training

    monkeypatch.setattr(Dataset, "read_into", counted)
    monkeypatch.setattr(minibatches.MiniBatches, "_read", watched)
    n_blocks = len(Dataset("d").blocks)
    for size, times in ((10_240, 1), (128, 2)):  # how often the rows are made ready
        reads.clear()
        rows_seen.clear()
        result = train(worker_size=size)
        assert len(reads) == n_blocks if times == 1 else len(reads) > n_blocks
        assert sum(rows_seen) == times * N_ROWS
        assert result.rows_processed == 2 * N_ROWS


def test_executor(monkeypatch):
    threads = []
    real = ThreadPoolExecutor.submit

    def submit(self, *arguments):
        if arguments[0] is run_worker:
            threads.append(self)
        return real(self, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    here = train()
    assert (here.executor, len(threads)) == ("local", 1)
    elsewhere = train(executor="processes")
    assert (elsewhere.executor, len(threads)) == ("processes", 1)
    with ThreadPoolExecutor(1) as mine:
        given = train(executor=mine)
        assert given.executor == "ThreadPoolExecutor"
        assert threads[1:] == [mine]
    # Where it runs does not change what is learnt.
    assert same(here, elsewhere)
    assert same(here, given)


def test_param_store(redis_server):
    assert train(param_store="memory").param_store == "memory"
    assert in_redis(redis_server).param_store == f"{redis_server.url}?store=bitfield"
    with pytest.raises(OptionError, match="param_store='elsewhere' is not known"):
        train(param_store="elsewhere")


def test_seed():
    assert not same(train(seed=0), train(seed=1))  # another order
    held = [train(seed=seed, test_fraction=0.1, epochs=1).test_loss for seed in (0, 1)]
    assert held[0] != held[1]


def test_progress(capfd):
    train(progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "rows" in lines[0]
    assert "train" in lines[0]
    train(progress=False)
    train()  # standard error is no terminal here
    assert capfd.readouterr().err == ""


def test_callbacks():
    seen = []
    result = train(callbacks=[seen.append], eval_interval=0.3)
    assert seen == result.history
    stopped = train(callbacks=lambda record: record.rows >= 1200, eval_interval=0.1)
    assert stopped.stop_reason == "callback"
    assert stopped.rows_processed == 1200
    with pytest.raises(ZeroDivisionError):
        train(callbacks=lambda _: 1 / 0)


def test_every_option_is_tested_here():
    here = set(globals())
    untested = {row.name for row in table()} - {
        name.removeprefix("test_") for name in here if name.startswith("test_")
    }
    assert not untested
