"""The module for Redis against every server that is to be had here (tests/module_server.py)."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from module_server import ReplyError, Server, Wire, make, program, redis_module, request
from redis_server import major_version
from step_messages import step_request

from cirrus_fast import __version__, _kernels

__all__ = ["make", "program"]
N_IDS = 400
SLOT = np.dtype(
    [
        ("generation", "<u4"), ("state", "<u4"), ("number", "<u8"), ("updates", "<u8"),
        ("rows", "<u8"), ("loss", "<f8"), ("weight", "<f8"), ("seen_ms", "<u8"), ("held", "<u8"),
    ]
)  # fmt: skip
_names = itertools.count()


@pytest.fixture(scope="module")
def server(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(program, tmp_path_factory.mktemp("server"))
    yield server
    assert server.alive, server.log()[-3000:]
    server.stop()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = server.connect()
    yield wire
    wire.close()


def create(wire: Wire, *options: object, ids: int = N_IDS) -> str:
    key = f"model{next(_names)}"
    assert wire("CIRRUS.CREATE", key, "IDS", ids, *options) == "OK"
    return key


def push(wire: Wire, key: str, number: int, *, command: str = "CIRRUS.PUSH", **fields: Any):
    ids = fields.pop("push_ids", np.array([1, 2], np.uint32))
    gradient = fields.pop("gradient", np.ones(len(ids), np.float32))
    fields = {"n_rows": 1, "n_ids": N_IDS, **fields}
    return wire(
        command, key, step_request(number=number, push_ids=ids, gradient=gradient, **fields)
    )


def pull(wire: Wire, key: str, ids=None) -> tuple[np.ndarray, tuple[int, float, float, int, int]]:
    ids = np.arange(N_IDS, dtype=np.uint32) if ids is None else np.asarray(ids, np.uint32)
    weights = np.empty(len(ids), np.float32)
    answer = wire("CIRRUS.PULL", key, step_request(n_ids=N_IDS, pull_ids=ids))
    return weights, _kernels.step_answer(answer, weights)


def head_of(answer: bytes) -> tuple[int, float, float, int, int]:
    return _kernels.step_answer(answer[:32], np.empty(0, np.float32))


def slots(wire: Wire, key: str) -> np.ndarray:
    return np.frombuffer(wire.info(key)["slots"], SLOT)


def refused(wire: Wire, *arguments: object) -> str:
    with pytest.raises(ReplyError) as caught:
        wire(*arguments)
    return str(caught.value)


def test_it_tells_its_version(wire):
    told = wire.info()
    assert told["version"] == __version__
    assert (told["protocol"], told["format"], told["replication"]) == (1, 1, "verbatim")


# The same results as in memory


def random_batches(n: int, seed: int):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        ids = np.unique((N_IDS * rng.random(60) ** 3).astype(np.uint32))
        gradient = rng.normal(0, 0.5, len(ids)).astype(np.float32)
        touches = rng.integers(1, 400, len(ids)).astype(np.float32)
        intercept = float(np.float32(rng.normal()))
        yield ids, gradient, touches, intercept, int(rng.integers(1, 50))


class InMemory:
    """The store in memory, of the same model."""

    def __init__(self, optimizer: str, penalties: np.ndarray | None, intercept: float) -> None:
        self.optimizer = _kernels.Optimizer(optimizer, 0.2)
        self.state = np.empty((N_IDS + 1) * self.optimizer.width, np.float32)
        self.optimizer.clear(self.state, intercept)
        self.penalties = penalties
        self.model = _kernels.TrainModel(
            self.optimizer, self.state, penalties, intercept_rate=0.5, fit_intercept=True
        )
        self.rows = 0

    def apply(self, pushes: list[Any], rate: float) -> None:
        ids, gradient, touches = (np.concatenate([p[i] for p in pushes]) for i in range(3))
        room = len(ids)
        scratch = _kernels.TrainScratch(
            np.zeros(N_IDS, np.uint32), np.empty(room, np.uint32), np.empty(room + 1, np.uint32),
            *(np.empty(room, np.float32) for _ in range(3)),
        )  # fmt: skip
        intercept = sum(p[3] for p in pushes)
        self.model.apply(
            ids, gradient, touches, intercept, scratch, rows_seen=float(self.rows), rate=rate
        )
        self.rows += sum(p[4] for p in pushes)

    def weights(self) -> tuple[np.ndarray, float]:
        out = np.empty(N_IDS, np.float32)
        return out, self.optimizer.weights(self.state, self.penalties, float(self.rows), out)


@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "ftrl"])
def test_pushes_do_what_the_store_in_memory_does(wire, optimizer, penalized):
    rng = np.random.default_rng(7)
    penalties = rng.random((N_IDS, 2), np.float32) * 1e-3 if penalized else None
    key = create(
        wire, "OPTIMIZER", optimizer, "RATE", 0.2, "INTERCEPT", -0.75, "INTERCEPTRATE", 0.5,
        "PENALTIES", int(penalized),
    )  # fmt: skip
    if penalties is not None:
        wire("SETRANGE", key, wire.info(key)["penalties_offset"], penalties.tobytes())
    memory = InMemory(optimizer, penalties, -0.75)
    for number, batch in enumerate(random_batches(30, seed=3), 1):
        ids, gradient, touches, intercept, rows = batch
        rate = 1 / np.sqrt(number)
        push(
            wire, key, number, push_ids=ids, gradient=gradient,
            touches=touches if penalized else None, intercept_gradient=intercept, n_rows=rows,
            rate=rate,
        )  # fmt: skip
        memory.apply([batch], rate)
        weights, (_, read, seen, updates, last) = pull(wire, key)
        expected, intercept = memory.weights()
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-9)
        assert read == pytest.approx(intercept, rel=1e-6)
        assert (seen, updates, last) == (memory.rows, number, number)
    # Bit for bit, since it is the same arithmetic.
    state = wire("GETRANGE", key, wire.info(key)["state_offset"], 10**9)
    np.testing.assert_array_equal(
        np.frombuffer(state[: memory.state.nbytes], np.float32), memory.state
    )
    snapshot = wire("CIRRUS.SNAPSHOT", key)
    np.testing.assert_array_equal(np.frombuffer(snapshot[32:], np.float32), weights)
    part = wire("CIRRUS.SNAPSHOT", key, 17, 5)
    np.testing.assert_array_equal(np.frombuffer(part[32:], np.float32), weights[17:22])


def test_an_intercept_that_is_not_fitted_stays(wire):
    key = create(wire, "INTERCEPT", 0.5, "INTERCEPTRATE", 0)
    push(wire, key, 1, intercept_gradient=3.0)
    assert pull(wire, key)[1][1] == 0.5


def test_a_step_is_a_push_and_then_a_pull(wire):
    key = create(wire)
    ids = np.array([1, 2, 399], np.uint32)
    weights = np.empty(3, np.float32)
    answer = push(wire, key, 1, command="CIRRUS.STEP", pull_ids=ids)
    assert _kernels.step_answer(answer, weights)[0] == 0
    np.testing.assert_array_equal(weights, pull(wire, key, ids)[0])
    assert weights[0] < 0 == weights[2]


# Numbers of pushes, generations of workers


def test_a_push_counts_once(wire):
    key = create(wire)
    first = head_of(push(wire, key, 1))
    before = wire("GET", key)
    again = head_of(push(wire, key, 1))
    assert (first[0], again[0]) == (0, 1)
    assert again[1:] == first[1:]
    after = wire("GET", key)
    assert before[:176] + before[184:] == after[:176] + after[184:]  # but for when it was seen


def test_a_push_whose_forerunner_is_missing_is_refused(wire):
    key = create(wire)
    push(wire, key, 1)
    with pytest.raises(ReplyError, match=r"^CIRRUSGAP .* worker 0 is 1 of generation 0"):
        push(wire, key, 3)
    assert head_of(push(wire, key, 2))[4] == 2


def test_a_later_generation_has_the_place(wire):
    key = create(wire, "WORKERS", 2)
    assert wire("CIRRUS.JOIN", key, 1, 5) == 0
    with pytest.raises(ReplyError, match="CIRRUSFENCED"):
        push(wire, key, 1, worker=1, generation=4)
    push(wire, key, 1, worker=1, generation=5)
    assert refused(wire, "CIRRUS.JOIN", key, 1, 4).startswith("CIRRUSFENCED")
    assert refused(wire, "CIRRUS.LEAVE", key, 1, 4).startswith("CIRRUSFENCED")
    assert wire("CIRRUS.JOIN", key, 1, 5) == 1  # it may look where it stands
    assert wire("CIRRUS.JOIN", key, 1, 6) == 0  # who comes new counts anew
    with pytest.raises(ReplyError, match="CIRRUSFENCED"):
        push(wire, key, 2, worker=1, generation=5)
    assert head_of(push(wire, key, 1, worker=1, generation=6))[0] == 0
    slot = slots(wire, key)[1]
    assert (slot["generation"], slot["updates"], slot["rows"]) == (6, 2, 2)


# bsp


def test_a_round_is_one_step_with_gradients_summed_in_the_order_of_workers(server, wire):
    n = 3
    key = create(
        wire, "WORKERS", n, "CONSISTENCY", "bsp", "RATE", 0.2, "PENALTIES", 1,
        "INTERCEPTRATE", 0.5, "INTERCEPT", 0.25,
    )  # fmt: skip
    penalties = np.random.default_rng(1).random((N_IDS, 2), np.float32) * 1e-2
    wire("SETRANGE", key, wire.info(key)["penalties_offset"], penalties.tobytes())
    memory = InMemory("adagrad", penalties, 0.25)
    clients = [server.connect() for _ in range(n)]
    length = wire("STRLEN", key)
    batches = list(random_batches(5 * n, seed=9))
    pulled = np.arange(N_IDS, dtype=np.uint32)
    for round_ in range(5):
        mine = batches[round_ * n : (round_ + 1) * n]
        for worker in np.random.default_rng(round_).permutation(n):
            ids, gradient, touches, intercept, rows = mine[worker]
            step = step_request(
                n_ids=N_IDS, worker=int(worker), number=round_ + 1, n_rows=rows, push_ids=ids,
                gradient=gradient, touches=touches, intercept_gradient=intercept, pull_ids=pulled,
            )  # fmt: skip
            clients[worker].send("CIRRUS.STEP", key, step)
            time.sleep(0.005)
        memory.apply(mine, 1.0)
        expected = memory.weights()
        for client in clients:
            weights = np.empty(N_IDS, np.float32)
            status, intercept, seen, updates, _ = _kernels.step_answer(client.read(), weights)
            np.testing.assert_array_equal(weights, expected[0])
            assert (status, intercept) == (0, expected[1])
            assert (seen, updates) == (memory.rows, round_ + 1)
        assert wire("STRLEN", key) == length


def test_a_push_after_one_of_an_open_round_waits_for_it(server, wire):
    """At a replica that took its master's place, a round may be open that was complete there."""
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp")
    ids, ahead = np.array([3], np.uint32), server.connect()
    second = step_request(
        n_ids=N_IDS, number=2, n_rows=1, push_ids=ids, gradient=np.ones(1, np.float32), pull_ids=ids
    )
    push(wire, key, 1, worker=0)
    ahead.send("CIRRUS.STEP", key, second)
    wait_for(lambda: waiting(wire) == 1)
    assert wire.info(key)["updates"] == 0
    with pytest.raises(ReplyError, match=r"^CIRRUSGAP"):  # where no answer can wait
        push(wire, key, 2, worker=0)
    push(wire, key, 1, worker=1)
    status, *_ = _kernels.step_answer(ahead.read(), np.empty(0, np.float32))
    assert status == 2  # ask again: it was not taken
    assert (wire.info(key)["updates"], slots(wire, key)["updates"].tolist()) == (1, [1, 1])
    ahead.send("CIRRUS.STEP", key, second)
    wait_for(lambda: waiting(wire) == 1)
    push(wire, key, 2, worker=1)
    assert _kernels.step_answer(ahead.read(), np.empty(1, np.float32))[0] == 0
    assert slots(wire, key)["updates"].tolist() == [2, 2]


def test_a_round_does_not_wait_for_who_leaves(server, wire):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp")
    other = server.connect()
    other.send(
        "CIRRUS.STEP", key,
        step_request(
            n_ids=N_IDS, number=1, n_rows=1, push_ids=np.array([3], np.uint32),
            gradient=np.ones(1, np.float32), pull_ids=np.array([3], np.uint32),
        ),
    )  # fmt: skip
    time.sleep(0.05)
    assert wire.info(key)["updates"] == 0
    wire("CIRRUS.LEAVE", key, 1, 0)
    assert _kernels.step_answer(other.read(), np.empty(1, np.float32))[0] == 0
    assert wire.info(key)["updates"] == 1


def test_nobody_waits_for_long_and_a_silent_worker_is_given_up(wire):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp", "EXPIRY", 1500)
    ids = np.array([3], np.uint32)
    statuses = []
    for _ in range(5):
        answer = push(wire, key, 1, command="CIRRUS.STEP", pull_ids=ids)
        statuses.append(answer[1])
        if answer[1] != 2:
            break
    assert statuses[0] == 2  # told to ask again
    assert statuses[-1] == 1  # its push was there, and is in the model now
    assert wire.info(key)["updates"] == 1
    assert slots(wire, key)["state"].tolist() == [1, 2]
    # Should the worker come back, it is waited for again.
    push(wire, key, 1, worker=1)
    assert slots(wire, key)["state"].tolist() == [1, 1]


def test_a_worker_that_dies_with_its_push_in_a_round_does_it_again(wire):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp")
    push(wire, key, 1, worker=0)
    wire("CIRRUS.JOIN", key, 0, 1)  # the push of its forerunner is gone with it
    push(wire, key, 1, worker=1)
    assert wire.info(key)["updates"] == 0
    push(wire, key, 1, worker=0, generation=1)
    assert wire.info(key)["updates"] == 1
    assert slots(wire, key)["updates"].tolist() == [1, 1]


def send_step_that_waits(client: Wire, wire: Wire, key: str) -> bytes:
    """Worker 0's first, of a model of two workers in bsp; returns it."""
    step = step_request(
        n_ids=N_IDS, number=1, push_ids=np.array([3], np.uint32),
        gradient=np.ones(1, np.float32), pull_ids=np.array([3], np.uint32),
    )  # fmt: skip
    client.send("CIRRUS.STEP", key, step)
    wait_for(lambda: waiting(wire) == 1)
    return step


def test_waiting_clients_that_hang_up_are_forgotten(server, wire):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp")
    other = server.connect()
    send_step_that_waits(other, wire, key)
    other.close()
    wait_for(lambda: waiting(wire) == 0)
    push(wire, key, 1, worker=1)
    assert wire.info(key)["updates"] == 1


@pytest.mark.parametrize("way", ["TIMEOUT", "ERROR"])
def test_a_client_that_an_operator_unblocks_may_ask_again(server, wire, way):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp")
    other = server.connect()
    place = other("CLIENT", "ID")
    step = send_step_that_waits(other, wire, key)
    assert wire("CLIENT", "UNBLOCK", place, way) == 1
    if way == "ERROR":
        with pytest.raises(ReplyError, match=r"^UNBLOCKED"):
            other.read()
    else:
        assert other.read()[1] == 2
    assert waiting(wire) == 0
    other.send("CIRRUS.STEP", key, step)  # the push is held already
    wait_for(lambda: waiting(wire) == 1)
    push(wire, key, 1, worker=1)
    assert other.read()[1] == 1
    assert wire.info(key)["updates"] == 1


def waiting(wire: Wire) -> int:
    return int(section(wire)["waiting_clients"])


def section(wire: Wire) -> dict[str, str]:
    lines = wire("INFO", "cirrus_parameter_server").decode().split("\r\n")
    return dict(line.removeprefix("cirrus_").split(":") for line in lines if ":" in line)


def wait_for(claim: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < until
        time.sleep(0.01)


# ssp


def test_who_is_too_far_ahead_waits_for_the_slowest(server, wire):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "ssp", "STALENESS", 2)
    fast = server.connect()
    ids = np.array([3], np.uint32)
    for number in (1, 2):
        assert push(fast, key, number, command="CIRRUS.STEP", pull_ids=ids)[1] == 0
    fast.send(
        "CIRRUS.STEP", key,
        step_request(
            n_ids=N_IDS, number=3, push_ids=ids, gradient=np.ones(1, np.float32), pull_ids=ids
        ),
    )  # fmt: skip
    wait_for(lambda: waiting(wire) == 1)
    assert wire.info(key)["updates"] == 3  # what it learnt is in the model
    push(wire, key, 1, worker=1)
    assert fast.read()[1] == 0


def test_inside_a_transaction_nobody_is_blocked(wire):
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "ssp")
    wire("MULTI")
    assert push(wire, key, 1, command="CIRRUS.STEP", pull_ids=np.array([3], np.uint32)) == "QUEUED"
    (answer,) = wire("EXEC")
    assert answer[1] == 2


# Anything may be sent


def bad_requests() -> dict[str, bytes]:
    ids, gradient = np.arange(10, dtype=np.uint32), np.ones(10, np.float32)
    good = bytes(step_request(n_ids=N_IDS, number=1, push_ids=ids, gradient=gradient))
    nan = bytes(
        step_request(n_ids=N_IDS, number=1, push_ids=ids, gradient=np.full(10, np.nan, np.float32))
    )

    def patched(offset: int, form: str, value: object) -> bytes:
        changed = bytearray(good)
        struct.pack_into(form, changed, offset, value)
        return bytes(changed)

    return {
        "empty": b"",
        "short": good[:63],
        "cut": good[:-1],
        "longer": good + b"x",
        "version": patched(0, "<B", 2),
        "flags": patched(1, "<B", 9),
        "reserved": patched(60, "<I", 1),
        "more values": patched(48, "<I", 11),
        "all values": patched(48, "<I", 2**32 - 1),
        "touches": patched(52, "<I", 1),
        "a worker too many": patched(4, "<I", 1),
        "words": patched(64, "<I", 2**31),
        "steps": patched(68, "<I", 2**31),
        "rate": patched(40, "<f", float("inf")),
        "negative rate": patched(40, "<f", -1.0),
        "intercept": patched(44, "<f", float("nan")),
        "loss": patched(24, "<d", float("inf")),
        "gradient": nan,
        "outside": bytes(
            step_request(n_ids=2**31, number=1, push_ids=ids + np.uint32(N_IDS), gradient=gradient)
        ),
        "pulls": bytes(step_request(n_ids=N_IDS, pull_ids=ids)),
        "nothing": bytes(step_request(n_ids=N_IDS)),
    }


@pytest.mark.parametrize("what", bad_requests())
def test_a_bad_push_is_refused_and_changes_nothing(wire, what):
    key = create(wire)
    before = wire("GET", key)
    assert refused(wire, "CIRRUS.PUSH", key, bad_requests()[what]).startswith("CIRRUSBAD")
    assert refused(wire, "CIRRUS.STEP", key, bad_requests()[what]).startswith("CIRRUSBAD")
    assert wire("GET", key) == before


def test_a_bad_pull_is_refused(wire):
    key = create(wire)
    good = bytes(step_request(n_ids=N_IDS, pull_ids=np.arange(9, dtype=np.uint32)))
    for bad in (good[:-1], good + b"\0", b"", good[:56] + b"\xff\xff\xff\xff" + good[60:]):
        assert refused(wire, "CIRRUS.PULL", key, bad).startswith("CIRRUSBAD")


@pytest.mark.parametrize(
    "options",
    [
        ["IDS"], ["IDS", -1], ["IDS", "x"], ["IDS", 2**32], ["WORKERS", 0], ["WORKERS", 10**6],
        ["OPTIMIZER", "adam"], ["RATE", 0], ["RATE", "nan"], ["RATE", "inf"], ["INITIAL", -1],
        ["CONSISTENCY", ""], ["STALENESS", -1], ["TTL", -5], ["PENALTIES", 2], ["NONSENSE", 1],
        ["IDS", 2**30, "PENALTIES", 1], ["IDS", 2**31], ["RATE", b"\r\n-ERR \0 x"],
    ],
    ids=str,
)  # fmt: skip
def test_creation_refuses_what_makes_no_sense(wire, options):
    answer = refused(wire, "CIRRUS.CREATE", "never", *options)
    assert answer.startswith(("CIRRUSBAD", "ERR wrong number"))
    assert wire("EXISTS", "never") == 0


def test_keys_that_hold_something_else_are_left_alone(wire):
    wire("SET", "text", "hello")
    wire("SET", "number", 5)
    wire("RPUSH", "list", 1)
    step = step_request(n_ids=N_IDS, pull_ids=np.array([3], np.uint32))
    for key, says in (("text", "NOMODEL"), ("number", "NOMODEL"), ("list", "WRONGTYPE")):
        for command in (
            ["CIRRUS.PULL", key, step],
            ["CIRRUS.INFO", key],
            ["CIRRUS.JOIN", key, 0, 0],
        ):
            assert says in refused(wire, *command)
        assert "EXISTS" in refused(wire, "CIRRUS.CREATE", key)
    assert "NOMODEL" in refused(wire, "CIRRUS.PULL", "nothing", step)
    assert "NOMODEL" in refused(wire, "CIRRUS.LEAVE", "nothing", 0, 0)
    assert wire("GET", "text") == b"hello"
    assert wire("EXISTS", "nothing") == 0


def test_a_model_that_somebody_wrote_over_is_refused(wire):
    key = create(wire)
    whole = wire("GET", key)
    step = step_request(n_ids=N_IDS, pull_ids=np.array([3], np.uint32))
    for change, says in (
        (whole[:8] + b"\2" + whole[9:], "CIRRUSVERSION"),
        (whole[:12] + b"\3" + whole[13:], "CIRRUSDAMAGED"),
        (whole[:24] + b"\xff" * 8 + whole[32:], "CIRRUSDAMAGED"),
        (whole[:80] + b"\1" + whole[81:], "CIRRUSDAMAGED"),
        (whole + b"\0", "CIRRUSDAMAGED"),
        (whole[:-1], "CIRRUSDAMAGED"),
        (b"x" + whole[1:], "CIRRUSNOMODEL"),
        (whole[:100], "CIRRUSNOMODEL"),
    ):
        wire("SET", key, change)
        assert refused(wire, "CIRRUS.PULL", key, step).startswith(says)
        assert refused(wire, "CIRRUS.LEAVE", key, 0, 0).startswith(says)
    wire("SET", key, whole)
    pull(wire, key)


def test_wrong_numbers_of_arguments_are_refused(wire):
    names = ("PULL", "PUSH", "STEP", "CREATE", "SNAPSHOT", "INFO", "JOIN", "LEAVE")
    for name in names:
        for n in (0, 1, 2, 3, 7):
            if (name, n) in {("INFO", 0), ("CREATE", 1), ("CREATE", 3), ("CREATE", 7)}:
                continue
            assert refused(wire, f"CIRRUS.{name}", *["x"] * n)


# What servers ask of commands


def version_of(wire: Wire) -> tuple[int, ...]:
    lines = dict(
        line.split(":", 1) for line in wire("INFO", "server").decode().split("\r\n") if ":" in line
    )
    text = lines.get("valkey_version", lines["redis_version"])
    return tuple(int(part) for part in text.split(".")[:2])


def test_key_positions_and_flags(wire):
    names = ("CREATE", "PULL", "PUSH", "STEP", "SNAPSHOT", "INFO", "JOIN", "LEAVE")
    commands = wire("COMMAND", "INFO", *(f"CIRRUS.{name}" for name in names))
    for name, told in zip(names, commands, strict=True):
        reads = name in ("PULL", "SNAPSHOT", "INFO")
        assert ("readonly" if reads else "write") in told[2]
        assert ("deny-oom" in told[2] or "denyoom" in told[2]) == (name == "CREATE")
        assert told[3:6] == [1, 1, 1]
        if len(told) > 8:  # from Redis 7 on, ACL rules may let a key be read alone
            flags = dict(zip(told[8][0][::2], told[8][0][1::2], strict=True))[b"flags"]
            assert ("RO" in flags) == reads
        if version_of(wire) >= (8, 0):
            assert set(told[6]) >= {"@cirrus", "@read" if reads else "@write"}
    for command in (["CIRRUS.STEP", "k", "x"], ["CIRRUS.CREATE", "k", "IDS", "5"]):
        assert wire("COMMAND", "GETKEYS", *command) == [b"k"]


def test_acl_rules_by_key_and_command(server, wire):
    key, other = create(wire), create(wire)
    wire("ACL", "SETUSER", "worker", "on", ">secret", "resetkeys", f"~{key}",
         "+cirrus.pull", "+cirrus.push", "+cirrus.step", "+cirrus.info")  # fmt: skip
    client = server.connect()
    client("AUTH", "worker", "secret")
    push(client, key, 1)
    pull(client, key)
    client.info()
    assert "NOPERM" in refused(client, "CIRRUS.INFO", other)
    with pytest.raises(ReplyError, match="NOPERM"):
        push(client, other, 1)
    assert "NOPERM" in refused(client, "CIRRUS.LEAVE", key, 0, 0)
    assert "NOPERM" in refused(client, "GET", key)
    if version_of(wire) >= (7, 0):
        wire("ACL", "SETUSER", "reader", "on", ">secret", f"%R~{key}", "+@all")
        client("AUTH", "reader", "secret")
        pull(client, key)
        with pytest.raises(ReplyError, match="NOPERM"):
            push(client, key, 2)


def test_time_to_live_and_memory(wire):
    key = create(wire, "TTL", 50_000, ids=100_000)
    assert 0 < wire("PTTL", key) <= 50_000
    push(wire, key, 1)
    assert 0 < wire("PTTL", key) <= 50_000
    assert wire.info(key)["bytes"] == wire("STRLEN", key)
    assert wire("MEMORY", "USAGE", key) >= wire("STRLEN", key)
    told = section(wire)
    assert int(told["memory_bytes"]) > 0
    assert int(told["pushes"]) > 0


def module_command(program: Path) -> list[str]:
    """What has a server obey MODULE, which those since 7.0 refuse."""
    return ["--enable-module-command", "yes"] if major_version(program) >= 7 else []


def test_it_is_not_unloaded_while_in_use(make, program):
    server = make(*module_command(program))
    wire = server.connect()
    push(wire, create(wire), 1)
    assert "unload" in refused(wire, "MODULE", "UNLOAD", "cirrus").lower()
    wire.info()


def test_it_may_be_unloaded_when_it_was_not_used(make, program):
    wire = make(*module_command(program)).connect()
    wire.info()
    assert wire("MODULE", "UNLOAD", "cirrus") == "OK"
    assert "unknown command" in refused(wire, "CIRRUS.INFO")


def test_unknown_arguments_keep_the_server_from_starting(make):
    with pytest.raises(RuntimeError, match="arguments are: REPLICATION"):
        make("--loadmodule", str(redis_module()), "REPLICATION", "sometimes", module=False)


# Persistence and replicas


def learnt(wire: Wire, key: str) -> bytes:
    """All of a model but for when its workers were seen, by which clock ever."""
    text = bytearray(wire("GET", key))
    for worker in range(struct.unpack_from("<I", text, 32)[0]):
        text[128 + 64 * worker + 48 : 128 + 64 * worker + 56] = bytes(8)
    return bytes(text)


def learn(wire: Wire, key: str, first: int, n: int, **fields: Any) -> None:
    rng = np.random.default_rng(first)
    for number in range(first, first + n):
        ids = np.unique(rng.integers(0, N_IDS, 30).astype(np.uint32))
        push(
            wire, key, number, push_ids=ids,
            gradient=rng.normal(size=len(ids)).astype(np.float32),
            intercept_gradient=float(rng.normal()), **fields,
        )  # fmt: skip


def models(wire: Wire) -> list[str]:
    """Models of each kind; one with a round open."""
    keys = [create(wire, "OPTIMIZER", kind, "WORKERS", 2) for kind in ("sgd", "adagrad", "ftrl")]
    for key in keys:
        wire("CIRRUS.JOIN", key, 1, 3)
        learn(wire, key, 1, 20)
    keys.append(create(wire, "WORKERS", 2, "CONSISTENCY", "bsp"))
    for number in (1, 2, 3):
        learn(wire, keys[-1], number, 1)
        learn(wire, keys[-1], number, 1, worker=1)
    learn(wire, keys[-1], 4, 1)
    return keys


def test_a_snapshot_on_disk_needs_no_module_to_be_read(make):
    server = make()
    wire = server.connect()
    keys = models(wire)
    before = [learnt(wire, key) for key in keys]
    wire("SAVE")
    server.stop()
    server._module = False
    server.start()
    wire = server.connect()
    assert [learnt(wire, key) for key in keys] == before
    server.stop()
    server._module = True
    server.start()
    wire = server.connect()
    learn(wire, keys[1], 21, 5)
    learn(wire, keys[3], 4, 1, worker=1)  # completes the round that was open
    assert wire.info(keys[3])["updates"] == 4


def test_an_append_only_file_gives_the_model_back(make):
    server = make("--appendonly", "yes", "--appendfsync", "always")
    wire = server.connect()
    keys = models(wire)
    before = [learnt(wire, key) for key in keys]
    server.stop()
    server.start()
    wire = server.connect()
    assert [learnt(wire, key) for key in keys] == before


def test_an_append_only_file_is_refused_without_the_module(make):
    server = make("--appendonly", "yes", "--appendfsync", "always")
    wire = server.connect()
    models(wire)
    server.stop()
    server._module = False
    with pytest.raises(RuntimeError, match=r"(?i)unknown command.*cirrus"):
        server.start()


def follow(make, leader: Server, *options: str, module: bool = True) -> Server:
    follower = make("--replicaof", "127.0.0.1", str(leader.port), *options, module=module)
    wire = follower.connect()
    wait_for(lambda: b"master_link_status:up" in wire("INFO", "replication"))
    return follower


def caught_up(leader: Wire) -> None:
    """Returns when the replica has all that was written so far."""
    assert leader("WAIT", 1, 20_000) == 1


def test_a_replica_with_the_module_has_the_same_bits(make):
    leader = make()
    follower = follow(make, leader)
    wire, copy = leader.connect(), follower.connect()
    keys = models(wire)
    caught_up(wire)
    assert [learnt(copy, key) for key in keys] == [learnt(wire, key) for key in keys]
    assert "a replica is attached" in leader.log()
    assert wire.info()["replicas"] == 1
    # It may be pulled from, not pushed to, and takes over.
    np.testing.assert_array_equal(pull(copy, keys[0])[0], pull(wire, keys[0])[0])
    with pytest.raises(ReplyError, match="READONLY"):
        push(copy, keys[0], 21)
    leader.stop()
    copy("REPLICAOF", "NO", "ONE")
    learn(copy, keys[0], 21, 3)
    learn(copy, keys[3], 4, 1, worker=1)
    assert copy.info(keys[3])["updates"] == 4


def test_workers_given_up_are_given_up_on_replicas(make):
    leader = make()
    follower = follow(make, leader)
    wire, copy = leader.connect(), follower.connect()
    key = create(wire, "WORKERS", 2, "CONSISTENCY", "bsp", "EXPIRY", 1)
    time.sleep(0.05)
    push(wire, key, 1, command="CIRRUS.STEP", pull_ids=np.array([3], np.uint32))
    assert wire.info(key)["updates"] == 1
    caught_up(wire)
    assert learnt(copy, key) == learnt(wire, key)


def test_a_replica_without_the_module_says_so_aloud(make):
    leader = make()
    follower = follow(make, leader, module=False)
    wire = leader.connect()
    key = create(wire)
    learn(wire, key, 1, 3)
    caught_up(wire)
    assert "it must load this module too" in leader.log()
    wait_for(lambda: "CRITICAL" in follower.log())
    copy = follower.connect()
    assert copy("EXISTS", key) == 0
    copy("REPLICAOF", "NO", "ONE")
    with pytest.raises(ReplyError, match="unknown command"):
        push(copy, key, 4)  # what a worker would meet after a failover


def test_a_copy_that_missed_pushes_knows_it(make, program):
    """A replica without the module, started again with it, goes on where it stood."""
    leader = make()
    wire = leader.connect()
    key = create(wire)
    learn(wire, key, 1, 3)
    follower = follow(make, leader, module=False)
    copy = follower.connect()
    stale = copy("GET", key)
    learn(wire, key, 4, 3)
    caught_up(wire)
    follower.stop()
    follower._module = True
    follower.start()
    copy = follower.connect()
    wait_for(lambda: b"master_link_status:up" in copy("INFO", "replication"))
    # Put it where it would be after a partial resynchronization.
    copy("CONFIG", "SET", "replica-read-only", "no")
    copy("SET", key, stale)
    learn(wire, key, 7, 2)
    caught_up(wire)
    assert copy.info(key)["diverged"] == 1
    step = step_request(n_ids=N_IDS, pull_ids=np.array([3], np.uint32))
    assert refused(copy, "CIRRUS.PULL", key, step).startswith("CIRRUSDIVERGED")
    assert refused(copy, "CIRRUS.SNAPSHOT", key).startswith("CIRRUSDIVERGED")
    assert "missed pushes of worker 0" in follower.log()
    copy("REPLICAOF", "NO", "ONE")
    with pytest.raises(ReplyError, match="CIRRUSDIVERGED"):
        push(copy, key, 9)


def test_ranges_reach_replicas_and_files_without_the_module(make):
    load = ["--loadmodule", str(redis_module()), "REPLICATION", "RANGES"]
    leader = make("--appendonly", "yes", "--appendfsync", "always", *load, module=False)
    follower = follow(make, leader, module=False)
    wire, copy = leader.connect(), follower.connect()
    assert wire.info()["replication"] == "ranges"
    keys = models(wire)
    timed = create(wire, "TTL", 500_000)
    learn(wire, keys[3], 4, 1, worker=1)  # the open round is no bytes of a copy's
    caught_up(wire)
    before = [learnt(wire, key) for key in keys]
    assert [learnt(copy, key) for key in keys] == before
    assert copy("PTTL", timed) > 0
    assert "CRITICAL" not in follower.log()
    leader.stop()
    leader._options = ("--appendonly", "yes")
    leader.start()
    wire = leader.connect()
    assert [learnt(wire, key) for key in keys] == before


# All at once


def test_many_clients_at_once_lose_nothing(server, wire):
    n, steps = 6, 200
    key = create(wire, "WORKERS", n, "OPTIMIZER", "sgd", "RATE", 1.0)

    def run(worker: int) -> None:
        client = server.connect()
        ids = np.array([worker, 100], np.uint32)
        requests = [
            request(
                "CIRRUS.STEP", key,
                step_request(
                    n_ids=N_IDS, worker=worker, number=number, n_rows=1, push_ids=ids,
                    gradient=np.array([-1, -1], np.float32), pull_ids=ids,
                ),
            )
            for number in range(1, steps + 1)
        ]  # fmt: skip
        client.send_bytes(b"".join(requests))  # all under way
        for _ in range(steps):
            assert client.read()[1] == 0

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weights, (_, _, seen, updates, _) = pull(wire, key)
    assert (seen, updates) == (n * steps, n * steps)
    assert weights[:n].tolist() == [steps] * n
    assert weights[100] == n * steps
