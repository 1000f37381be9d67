"""Workers as threads, processes and on other people's executors: the same thing everywhere."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Event

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import LogisticRegression
from cirrus_fast.backend.plan import Plan
from cirrus_fast.backend.processes import ProcessExecutor, WorkerDiedError, _report
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.errors import (
    CirrusFastError,
    DatasetError,
    KernelError,
    LibsvmParseError,
    OptionError,
    TrainingError,
)
from cirrus_fast.options import parse_options
from cirrus_fast.runtime import worker as worker_module
from cirrus_fast.runtime.params.local import (
    ACTIVE,
    FINISHED,
    WAITING,
    Layout,
    LocalStore,
    connect,
    shared_url,
)
from cirrus_fast.runtime.worker import CHUNK_ROWS, run_worker


@pytest.fixture
def clicks(storage_root: Path, tmp_path: Path) -> Dataset:
    cirrus_fast.make_clicks(tmp_path / "clicks.svm", 20_000, seed=3, hash_bits=12)
    return cirrus_fast.load_libsvm(tmp_path / "clicks.svm", "clicks")


def options(dataset: Dataset, **more: object) -> dict[str, object]:
    return {"dataset": dataset.uri, "epsilon": 0, "epochs": 2, "minibatch_size": 50} | more


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def test_bsp_gives_the_same_model_bit_for_bit_on_every_executor(clicks: Dataset) -> None:
    wanted = options(clicks, consistency="bsp", n_workers=2, minibatch_size=500)
    models = [LogisticRegression(wanted).run().model]
    models.append(LogisticRegression(wanted, executor="processes").run().model)
    with ThreadPoolExecutor(2) as threads:
        models.append(LogisticRegression(wanted, executor=threads).run().model)
    with pool() as processes:
        models.append(LogisticRegression(wanted, executor=processes).run().model)
    for model in models[1:]:
        assert np.array_equal(model.weights, models[0].weights)
        assert model.intercept == models[0].intercept


def test_two_workers_in_step_learn_as_one_with_twice_the_mini_batch(storage_root: Path) -> None:
    # Rows so few and full that both ways see all of them in every step: only then is the order
    # in which they are drawn of no account.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8192, 5)), rng.integers(0, 2, 8192)
    cirrus_fast.load_csr(X, y, "few")
    shared = {"dataset": "few", "epsilon": 0, "epochs": 3, "consistency": "bsp"}
    one = LogisticRegression(shared, minibatch_size=8192).run()
    two = LogisticRegression(shared, minibatch_size=4096, n_workers=2).run()
    assert (one.n_workers, two.n_workers) == (1, 2)
    assert np.allclose(one.model.weights, two.model.weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("executor", ["local", "processes"])
@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
def test_rows_are_accounted_exactly_without_faults(
    clicks: Dataset, executor: str, consistency: str
) -> None:
    result = LogisticRegression(
        options(clicks, executor=executor, consistency=consistency, n_workers=3)
    ).run()
    assert result.n_workers == 3
    assert result.rows_processed == 2 * clicks.n_rows
    assert result.rows_repeated == 0
    assert result.stop_reason == "epochs"
    assert result.executor == executor


def test_the_loss_is_the_same_everywhere(clicks: Dataset) -> None:
    wanted = options(clicks, test_dataset=clicks.uri, n_workers=2)
    losses = [LogisticRegression(wanted).run().test_loss]
    losses.append(LogisticRegression(wanted, executor="processes").run().test_loss)
    with pool() as processes:
        losses.append(LogisticRegression(wanted, executor=processes).run().test_loss)
    assert all(loss is not None for loss in losses)
    assert max(losses) - min(losses) < 0.01 * min(losses)


def test_loky_runs_workers(clicks: Dataset) -> None:
    loky = pytest.importorskip("loky")
    executor = loky.get_reusable_executor(max_workers=2)
    try:
        result = LogisticRegression(options(clicks, executor=executor, n_workers=2)).run()
    finally:
        executor.shutdown()
    assert result.rows_processed == 2 * clicks.n_rows


def test_what_is_no_executor_is_refused(clicks: Dataset) -> None:
    with pytest.raises(OptionError, match="or a concurrent"):
        LogisticRegression(options(clicks, executor=print))
    with pytest.raises(OptionError, match="did you mean processes"):
        LogisticRegression(options(clicks, executor="process"))


def test_worker_processes_run_nothing_else() -> None:
    executor = ProcessExecutor()
    with pytest.raises(TrainingError, match="run_worker only"):
        executor.submit(print, "x")
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(run_worker, "{}")


def test_an_error_of_a_worker_process_arrives_as_itself() -> None:
    with ProcessExecutor() as executor, pytest.raises(TrainingError, match="wrong fields"):
        executor.submit(run_worker, "{}").result(30)


def test_what_a_worker_process_noticed_is_passed_on(
    clicks: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from cirrus_fast.notices import notice\n"
        "from cirrus_fast.runtime import worker\n"
        "plain = worker.run_worker\n"
        "def run_worker(spec):\n"
        "    notice('no room')\n"
        "    notice('read again')\n"
        "    return plain(spec)\n"
        "worker.run_worker = run_worker\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    LogisticRegression(options(clicks, executor="processes", n_workers=1)).run()
    told = [record.getMessage() for record in caplog.records if record.name == "cirrus_fast"]
    assert told == ["no room", "read again"]


@pytest.mark.parametrize(
    "error",
    [
        LibsvmParseError("bad", offset=7, line=2, column=3, source="x.svm"),
        KernelError("bad", 5),
        DatasetError("x: bad"),
    ],
)
def test_errors_cross_processes_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: CirrusFastError
) -> None:
    def fail(spec: str) -> str:
        raise error

    monkeypatch.setattr(worker_module, "run_worker", fail)
    monkeypatch.setattr(worker_module, "_exit_with_parent", lambda: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}\n"))
    assert worker_module.main() == 0
    with pytest.raises(type(error)) as caught:
        _report(capsys.readouterr().out, 0, "")
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


def _wait_for(condition, seconds: float = 30.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def test_a_killed_worker_process_is_replaced_and_rows_are_accounted(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = catching_process_executors(monkeypatch)
    epochs = 200
    run = LogisticRegression(
        options(clicks, executor="processes", n_workers=2, epochs=epochs, eval_interval=1.0)
    ).start()
    first = _wait_for(run.progress)
    victim = made[0].pids[0]
    os.kill(victim, signal.SIGKILL)
    result = run.result(120)
    assert first.rows < epochs * clicks.n_rows, "the run was over before the kill"
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * clicks.n_rows
    assert 0 <= result.rows_repeated <= 16_384
    assert "another takes its place" in caplog.text


def test_workers_are_started_anew_where_the_process_that_forks_them_is_killed(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = catching_process_executors(monkeypatch)
    killed: list[int] = []

    def kill(_: object) -> None:
        nursery = made[0]._nursery
        if nursery is not None and not killed:
            killed.append(nursery._process.pid)
            os.kill(killed[0], signal.SIGKILL)

    wanted = options(clicks, executor="processes", epochs=40, n_workers=2, eval_interval=1.0)
    result = LogisticRegression(wanted, callbacks=kill).run()
    assert killed
    assert result.rows_processed == 40 * clicks.n_rows
    assert "another takes its place" in caplog.text
    _wait_for(lambda: _is_gone(killed[0]))


def test_workers_that_keep_dying_end_the_run(clicks: Dataset) -> None:
    class Doomed(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future: Future[str] = Future()
            future.set_exception(WorkerDiedError("a worker process died (signal SIGKILL)"))
            return future

    with Doomed() as executor, pytest.raises(TrainingError, match="given up after 6 deaths"):
        LogisticRegression(options(clicks, executor=executor, n_workers=1)).run()


def test_a_broken_pool_is_one_clear_error(clicks: Dataset) -> None:
    with pool() as processes:
        processes.submit(os._exit, 1)
        with pytest.raises(TrainingError, match="the executor broke"):
            LogisticRegression(options(clicks, executor=processes, n_workers=2)).run()


def test_workers_that_wait_for_one_never_started_end_the_run(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._START_S", 0.2)
    with ThreadPoolExecutor(1) as executor:
        task = LogisticRegression(
            options(clicks, executor=executor, n_workers=2, consistency="bsp")
        )
        with pytest.raises(TrainingError, match="started 1 of 2 workers"):
            task.run()


def test_more_workers_than_threads_take_turns(clicks: Dataset) -> None:
    with ThreadPoolExecutor(1) as executor:
        result = LogisticRegression(options(clicks, executor=executor, n_workers=3)).run()
    assert result.rows_processed == 2 * clicks.n_rows


def test_worker_processes_end_when_their_supervisor_is_killed(
    clicks: Dataset, tmp_path: Path
) -> None:
    code = f"""
        import cirrus_fast, sys, time
        from cirrus_fast.backend import processes
        plain = processes.ProcessExecutor.submit
        def submit(self, *args, **kwargs):
            future = plain(self, *args, **kwargs)
            print(self.pids[-1], flush=True)
            return future
        processes.ProcessExecutor.submit = submit
        cirrus_fast.LogisticRegression(dataset={clicks.uri!r}, epsilon=0, epochs=10**6,
                                       executor="processes", n_workers=1).run()
    """
    home = str(Path(cirrus_fast.__file__).parents[1])
    supervisor = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    with supervisor.stdout:
        worker = int(supervisor.stdout.readline())
        supervisor.kill()
        supervisor.wait()

    _wait_for(lambda: _is_gone(worker))


def test_a_program_without_main_guard_runs_worker_processes(
    clicks: Dataset, run_python, tmp_path: Path
) -> None:
    out = run_python(
        "import cirrus_fast, sys\n"
        "result = cirrus_fast.LogisticRegression(dataset=sys.argv[1], executor='processes',\n"
        "                                        n_workers=2, epochs=1, epsilon=0).run()\n"
        "print(result.rows_processed, 'multiprocessing' in sys.modules)\n",
        clicks.uri,
    )
    assert out.split() == [str(clicks.n_rows), "False"]


def test_a_store_out_of_reach_says_so() -> None:
    with pytest.raises(TrainingError, match="must run on the supervisor's machine"):
        connect("shared:/proc/self/fd/9999", "t")


def test_a_shared_store_is_seen_by_both_sides() -> None:
    from cirrus_fast.data.training_scale import TrainingScale

    ids = np.arange(10, dtype=np.uint32)
    scale = TrainingScale(ids, ids, np.full(10, 2, np.float32), None)
    store = LocalStore.create(
        "ftrl",
        0.1,
        scale,
        model_size=12,
        n_workers=2,
        intercept=0.5,
        exchange_rows=5,
        task="t",
        shared=True,
    )
    try:
        other = connect(shared_url(store, inherited=False), "t")
        assert other.layout == store.layout == Layout(**vars_of(store.layout))
        other.state[4] = 7
        other.stop()
        assert store.state[4] == 7
        assert store.control["stop"] == 1
        weights, intercept = store.snapshot()
        assert (len(weights), intercept) == (12, pytest.approx(0.5))
    finally:
        store.close()


def vars_of(layout: Layout) -> dict[str, object]:
    return {name: getattr(layout, name) for name in layout.__slots__}


def test_a_fault_in_a_worker_process_is_no_death(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProcessExecutor() as executor, pytest.raises(TrainingError, match="JSONDecodeError"):
        executor.submit(run_worker, "no JSON").result(30)


def test_a_worker_of_a_run_that_is_over_cannot_reach_another(clicks: Dataset) -> None:
    from cirrus_fast.data.training_scale import TrainingScale

    ids = np.arange(3, dtype=np.uint32)
    scale = TrainingScale(ids, ids, np.ones(3, np.float32), None)
    store = LocalStore.create("sgd", 0.1, scale, model_size=3, n_workers=1, task="new", shared=True)
    try:
        with pytest.raises(TrainingError, match="run old is over"):
            connect(shared_url(store, inherited=False), "old")
    finally:
        store.close()


# Faults


def catching_process_executors(monkeypatch: pytest.MonkeyPatch) -> list[ProcessExecutor]:
    """The executors that runs make from now on."""
    made: list[ProcessExecutor] = []
    plain = ProcessExecutor.__init__

    def noted(self: ProcessExecutor, inherited=()) -> None:
        plain(self, inherited)
        made.append(self)

    monkeypatch.setattr(ProcessExecutor, "__init__", noted)
    return made


@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
def test_rows_are_accounted_when_every_worker_is_killed_once(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, consistency: str
) -> None:
    made = catching_process_executors(monkeypatch)
    epochs, size = 60, 100
    wanted = options(clicks, executor="processes", n_workers=2, epochs=epochs, minibatch_size=size)
    run = LogisticRegression(wanted, consistency=consistency, eval_interval=1.0).start()
    _wait_for(run.progress)
    victims = made[0].pids
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    result = run.result(120)
    assert len(victims) == 2
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * clicks.n_rows
    assert 0 <= result.rows_repeated <= len(victims) * max(size, CHUNK_ROWS)
    assert result.test_loss is None
    assert np.isfinite(result.model.evaluate(clicks).logloss)
    assert not made[0].pids


@pytest.mark.parametrize("consistency", ["async", "bsp"])
def test_a_worker_that_gives_no_sign_is_replaced_and_its_rows_are_learnt(
    clicks: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    consistency: str,
) -> None:
    made = catching_process_executors(monkeypatch)
    epochs, size = 40, 200
    wanted = options(clicks, executor="processes", epochs=epochs, minibatch_size=size)
    run = LogisticRegression(
        wanted, consistency=consistency, n_workers=2, eval_interval=1.0
    ).start()
    _wait_for(run.progress)
    victim = made[0].pids[-1]
    os.kill(victim, signal.SIGSTOP)
    # Long enough for the one in its place to start on a machine that is busy.
    monkeypatch.setattr("cirrus_fast.backend.workers._LATE_S", 8.0)
    monkeypatch.setattr("cirrus_fast.backend.workers._LOOKING_S", 8.0)
    result = run.result(120)
    assert result.stop_reason == "epochs"
    assert result.rows_processed == epochs * clicks.n_rows
    ended = caplog.text.count("another takes its place")  # one, but on a machine that is too busy
    assert result.rows_repeated <= ended * max(size, CHUNK_ROWS)
    assert "has given no sign for 8 s; it is ended" in caplog.text
    _wait_for(lambda: _is_gone(victim))


def test_who_holds_the_others_up(clicks: Dataset) -> None:
    store = Plan.make(
        parse_options(options(clicks, consistency="bsp", n_workers=3, executor="local"))
    ).create_store("task")
    slots = store.slots
    slots["state"] = ACTIVE

    def late() -> list[int]:
        return [worker for worker in range(3) if store.holds_up(worker)]

    assert late() == [0, 1, 2]
    slots["ready"] = 1, 0, 1
    assert late() == [1]
    slots["ready"] = 1  # the first running is to merge
    assert late() == [0]
    slots["updates"] = 1, 0, 0  # and has begun to
    assert late() == [0]
    slots["updates"] = 0
    slots[0]["state"] = FINISHED
    assert late() == [1]
    store.control["round"] = 1  # it has merged
    store.allow(0)  # the model is being measured
    assert late() == []
    store.allow(10**9)
    slots["ready"] = 0
    slots["updates"] = 5, 7, 6
    assert late() == [2]
    slots[1]["state"] = WAITING
    assert late() == [1, 2]


def test_workers_that_wait_while_the_model_is_measured_are_not_late(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._LATE_S", 2.5)
    pauses = iter([4.0])
    result = LogisticRegression(
        options(clicks, executor="processes", consistency="bsp", n_workers=2, eval_interval=1.0),
        callbacks=[lambda _record: time.sleep(next(pauses, 0.0))],
    ).run()
    assert result.rows_processed == 2 * clicks.n_rows
    assert "no sign" not in caplog.text


def test_a_worker_killed_as_the_run_ends_is_not_replaced(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catching_process_executors(monkeypatch)
    wanted = options(clicks, executor="processes", n_workers=1, epochs=10**6, eval_interval=1.0)

    def kill(record: object) -> bool:
        for pid in made[0].pids:
            os.kill(pid, signal.SIGKILL)
        return True

    result = LogisticRegression(wanted, callbacks=kill).run()
    assert result.stop_reason == "callback"
    assert len(made[0].pids) == 0


def test_a_worker_that_hangs_does_not_keep_the_run_from_ending(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped, as by a debugger or a file system that does not answer."""
    monkeypatch.setattr("cirrus_fast.backend.workers._END_S", 0.3)
    monkeypatch.setattr("cirrus_fast.backend.processes._GRACE_S", 0.3)
    made = catching_process_executors(monkeypatch)
    wanted = options(clicks, executor="processes", n_workers=2, epochs=10**6, eval_interval=1.0)
    run = LogisticRegression(wanted).start()
    _wait_for(run.progress)
    victim = made[0].pids[0]
    os.kill(victim, signal.SIGSTOP)
    run.stop()
    result = run.result(60)
    assert result.stop_reason == "stopped"
    assert "has not ended in 0.3 s" in caplog.text
    _wait_for(lambda: _is_gone(victim))


@pytest.mark.parametrize(
    "where", ["runtime.worker.open_rows", "runtime.row_sources.StoredBlocks.read"]
)
def test_a_worker_thread_that_hangs_does_not_keep_the_run_from_ending(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """Before its first row, in a file system that does not answer."""
    monkeypatch.setattr("cirrus_fast.backend.workers._END_S", 0.2)
    monkeypatch.setattr("cirrus_fast.backend.threads._GRACE_S", 0.2)
    answer = Event()
    monkeypatch.setattr(f"cirrus_fast.{where}", lambda *_: answer.wait(60))
    try:
        result = LogisticRegression(options(clicks, n_workers=2, timeout=0.2)).run()
        assert not answer.is_set()
    finally:
        answer.set()
    assert result.stop_reason == "timeout"
    assert "worker 1 has not ended in 0.2 s" in caplog.text


@pytest.mark.parametrize("in_epoch", [0, 1])
def test_a_read_that_hangs_does_not_keep_a_worker_from_ending(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    in_epoch: int, tmp_path: Path,
) -> None:  # fmt: skip
    """Also where a resumed run reads the rows again that the first one held."""
    wanted = options(clicks, n_workers=1, epochs=10**6, eval_interval=1.0)
    resumed = {}
    if in_epoch:
        first = LogisticRegression(
            wanted, checkpoint_interval=1e-6, callbacks=lambda record: record.rows >= 30_000
        ).run()
        resumed = {"resume_from": first.checkpoint}
    answer, asked = Event(), Event()

    def read(*_: object) -> int:
        asked.set()
        answer.wait(60)
        return 0

    monkeypatch.setattr("cirrus_fast.runtime.row_sources.StoredBlocks.read", read)
    run = LogisticRegression(wanted, **resumed).start()
    try:
        assert asked.wait(30)
        run.stop()
        result = run.result(20)
        assert not answer.is_set()
    finally:
        answer.set()
    assert result.stop_reason == "stopped"
    assert "has not ended" not in caplog.text


def test_a_worker_that_looks_at_its_data_for_long_has_started(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is counted whole before a row is learnt."""
    monkeypatch.setattr("cirrus_fast.backend.workers._START_S", 0.1)
    plain = worker_module.open_rows

    def slowly(*arguments):
        time.sleep(0.5)
        return plain(*arguments)

    monkeypatch.setattr(worker_module, "open_rows", slowly)
    for consistency in ("async", "ssp", "bsp"):
        result = LogisticRegression(options(clicks, n_workers=2, consistency=consistency)).run()
        assert result.rows_processed == 2 * clicks.n_rows


def test_a_worker_without_memory_says_what_to_do(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError("Unable to allocate 3.1 GiB")

    monkeypatch.setattr(worker_module, "open_rows", none_left)
    task = LogisticRegression(options(clicks, n_workers=1))
    with pytest.raises(TrainingError, match=r"worker 0 has no memory left .*3\.1 GiB.*worker_size"):
        task.run()


def test_a_killed_process_of_loky_is_one_clear_error(clicks: Dataset) -> None:
    loky = pytest.importorskip("loky")
    executor = loky.get_reusable_executor(max_workers=2)
    try:
        executor.submit(os.getpid).result(60)
        run = LogisticRegression(
            options(clicks, executor=executor, n_workers=2, epochs=10**6, eval_interval=1.0)
        ).start()
        _wait_for(run.progress)
        os.kill(next(iter(executor._processes)), signal.SIGKILL)
        with pytest.raises(TrainingError, match="the executor broke"):
            run.result(60)
    finally:
        executor.shutdown(kill_workers=True)


def test_a_killed_process_of_a_pool_leaves_the_last_checkpoint(
    clicks: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = options(clicks, n_workers=2, epochs=10**6, eval_interval=1.0)
    folder = Path(clicks.uri).parent / "checkpoints"
    with pool() as processes:
        run = LogisticRegression(wanted, executor=processes, checkpoint_interval=1e-6).start()
        _wait_for(lambda: list(folder.glob("*.npz")))
        os.kill(next(iter(processes._processes)), signal.SIGKILL)
        with pytest.raises(TrainingError, match="the executor broke"):
            run.result(60)
    assert re.search(r"the run failed; resume_from=\S+\.npz goes on", caplog.text)
    (kept,) = folder.glob("*.npz")
    rest = LogisticRegression(
        wanted, resume_from=str(kept), timeout=60, callbacks=lambda record: True
    ).run()
    assert rest.stop_reason == "callback"
    assert rest.rows_processed > clicks.n_rows
    assert rest.rows_repeated <= 2 * 2 * CHUNK_ROWS


def test_an_executor_that_is_shut_down_is_one_clear_error(clicks: Dataset) -> None:
    with ThreadPoolExecutor(1) as executor:
        pass
    with pytest.raises(TrainingError, match="takes no worker: cannot schedule new futures"):
        LogisticRegression(options(clicks, executor=executor)).run()


def test_processes_that_cannot_be_started_are_one_clear_error(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(TrainingError, match=r"takes no worker: .* temporarily"):
        LogisticRegression(options(clicks, executor="processes")).run()


class Idle(Executor):
    """Takes work and never does it."""

    def submit(self, fn, /, *args, **kwargs):
        return Future()


@pytest.mark.parametrize("consistency", ["async", "ssp", "bsp"])
def test_an_executor_that_never_starts_a_worker_ends_the_run(
    clicks: Dataset, monkeypatch: pytest.MonkeyPatch, consistency: str
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.workers._START_S", 0.2)
    task = LogisticRegression(
        options(clicks, executor=Idle(), n_workers=2, consistency=consistency)
    )
    with pytest.raises(TrainingError, match="has started none of 2 workers"):
        task.run()


def test_a_run_may_be_stopped_before_any_worker_started(clicks: Dataset) -> None:
    result = LogisticRegression(options(clicks, executor=Idle(), timeout=0.2)).run()
    assert result.stop_reason == "timeout"
    assert result.rows_processed == 0
    assert result.model.nnz == 0


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_run_works_off_the_main_thread(clicks: Dataset, executor: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        task = LogisticRegression(options(clicks, executor=executor))
        result = threads.submit(task.run).result(60)
    assert result.rows_processed == 2 * clicks.n_rows


_TWICE = """
import os, signal, sys, threading, time
import cirrus_fast
from cirrus_fast.backend import processes
signal.signal(signal.SIGINT, signal.default_int_handler)
processes._GRACE_S = 0.2
made = []
plain = processes.ProcessExecutor.submit
def submit(self, *args, **kwargs):
    made.append(self)
    return plain(self, *args, **kwargs)
processes.ProcessExecutor.submit = submit
def hang(record):
    if len(made[0].pids) == 1:  # so that the first Ctrl-C waits for it
        os.kill(made[0].pids[0], signal.SIGSTOP)
        print(made[0].pids[0], flush=True)
try:
    cirrus_fast.LogisticRegression(dataset=sys.argv[1], epsilon=0, epochs=10**6, n_workers=1,
                                   executor="processes", callbacks=hang).run()
    print("returned")
except KeyboardInterrupt:
    print("raised")
print("left", made[0].pids)
"""


def test_the_second_ctrl_c_is_raised_and_leaves_no_process(clicks: Dataset, tmp_path: Path) -> None:
    home = str(Path(cirrus_fast.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _TWICE, clicks.uri],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        worker = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # the first one waits for the worker
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert out.splitlines() == ["raised", "left []"]
    _wait_for(lambda: _is_gone(worker))


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"
