"""Kernels refuse what would make them read or write outside the arrays they were given.

The package never calls them so; under `make asan` a kernel that trusts too much crashes here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from step_messages import step_reply

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.csr import CSR
from cirrus_fast.errors import CirrusFastError

F32, I32, I64, U8, U32, U64 = np.float32, np.int32, np.int64, np.uint8, np.uint32, np.uint64
Array = npt.NDArray[Any]
EXTREMES = [-1, np.iinfo(I64).min, np.iinfo(I64).max, 1 << 32, 7]
REFUSALS = (ValueError, TypeError, OverflowError, BufferError, RuntimeError, CirrusFastError)


@pytest.mark.parametrize("position", EXTREMES)
def test_writing_text_checks_every_position(position: int) -> None:
    indptr = np.array([0, position, 6], I64)
    text, place = _kernels.libsvm_write(
        np.zeros(2, F32), indptr, np.arange(6, dtype=U32), np.ones(6, F32), None, 0, 2, 0
    )
    assert (text, place) == ("indptr must start at 0, never decrease and end at nnz", 0)


@pytest.mark.parametrize("position", EXTREMES)
def test_encoding_checks_every_position(position: int) -> None:
    # A start above 0: differences to it may overflow.
    indptr = np.array([2, position, 6], I64)
    with pytest.raises(ValueError, match="indptr must start at 0"):
        encode_block(np.zeros(2, F32), indptr, np.arange(6, dtype=U32), np.ones(6, F32))


def test_probabilities_of_any_margin_lie_between_0_and_1_or_are_nan() -> None:
    margins = np.array([np.nan, -np.nan, np.inf, -np.inf, 0, -1e38, 89, -89], F32)
    out = np.empty_like(margins)
    _kernels.logistic_probabilities(margins, out)
    assert np.isnan(out[:2]).all()
    assert ((out[2:] >= 0) & (out[2:] <= 1)).all()
    assert out[4] == 0.5


# ---- every kernel, every argument ----

N_ROWS, NNZ, N_IDS, ROOM = 3, 8, 10, 8
TEXT = b"1 1:1 4:2\n0 2:1 3:0.5 7:1\n1 1:1 8:1 9:1\n"

CLICKS = b"".join(
    b",".join([label, *[b"%d" % i for i in range(13)], *[b"68fd1e64"] * 26]) + b"\n"
    for label in (b"1", b"0")
)

Call = tuple[Callable[..., object], dict[str, Any]]


def rows() -> dict[str, Array]:
    return {
        "labels": np.array([1, 0, 1], F32),
        "indptr": np.array([0, 2, 5, 8], I64),
        "indices": np.array([1, 4, 2, 3, 7, 1, 8, 9], U32),
        "data": np.ones(NNZ, F32),
        "weights": np.ones(N_ROWS, F32),
    }


def columns() -> Array:
    return np.zeros(N_IDS * _kernels.COLUMN_BYTES // 8, U64).view(U8)


def scratch() -> _kernels.TrainScratch:
    f32 = (np.zeros(ROOM, F32) for _ in range(3))
    u32 = (np.zeros(n, U32) for n in (N_IDS, ROOM, ROOM + 1))
    return _kernels.TrainScratch(*u32, *f32)


def model(kind: str = "adagrad", hot: bool = False) -> _kernels.TrainModel:
    optimizer = _kernels.Optimizer(kind, 0.1)
    state = np.ones((N_IDS + 1) * optimizer.width, F32)
    copies = None
    if hot:
        published = np.zeros((2, 4 * optimizer.width), F32)
        own = np.empty(8 * optimizer.width, F32)
        copies = _kernels.HotCopies(optimizer, published, 1, own, 2)
    return _kernels.TrainModel(optimizer, state, np.ones((N_IDS, 2), F32), hot=copies)


LANES = _kernels.GRID_LANES


def grid_model(kind: str = "adagrad") -> _kernels.GridModel:
    width = _kernels.Optimizer(kind, 0.1).width
    return _kernels.GridModel(kind, np.ones((N_IDS + 1) * width * LANES, F32), **grid_options())


def grid_options() -> dict[str, Array]:
    one = np.ones(LANES, F32)
    options = {name: one.copy() for name in ("learning_rate", "l1", "l2")}
    pairs = {"penalties": np.ones((N_IDS, 2), F32), "class_weight": np.ones((2, LANES), F32)}
    return options | pairs


def grid_batches() -> _kernels.GridBatches:
    return _kernels.GridBatches(*(np.zeros(n, U32) for n in (N_IDS, NNZ, NNZ + 1, N_ROWS)))


def localized(size: int) -> _kernels.GridBatches | None:
    if size == 1:
        return None
    batches = grid_batches()
    batches.localize(
        **only("indptr indices data", order=np.array([2, 0, 1], U32)), minibatch_size=2
    )
    return batches


def grid_scratch() -> _kernels.GridScratch:
    return _kernels.GridScratch(*(np.zeros(n, F32) for n in (ROOM * LANES, ROOM * LANES, ROOM)))


def grid_calls() -> dict[str, Call]:
    order = np.array([2, 0, 1], U32)
    return {
        "GridBatches": (
            _kernels.GridBatches,
            {
                name: np.zeros(n, U32)
                for name, n in zip(
                    ("table", "local", "distinct", "n_distinct"),
                    (N_IDS, NNZ, NNZ + 1, N_ROWS),
                    strict=True,
                )
            },
        ),
        "GridBatches.localize": (
            grid_batches().localize,
            {**only("indptr indices data", order=order), "minibatch_size": 2},
        ),
        "GridScratch": (
            _kernels.GridScratch,
            {
                "weights": np.zeros(ROOM * LANES, F32),
                "gradient": np.zeros(ROOM * LANES, F32),
                "touches": np.zeros(ROOM, F32),
            },
        ),
        "GridModel": (
            lambda **more: _kernels.GridModel("adagrad", **more),
            {"state": np.ones((N_IDS + 1) * 2 * LANES, F32), **grid_options()},
        ),
        "GridModel.clear": (grid_model().clear, {"intercept": np.ones(LANES, F32)}),
        **{
            f"GridModel.train {kind} {size}": (
                grid_model(kind).train,
                {
                    **rows(),
                    "order": order,
                    "batches": localized(size),
                    "scratch": None if size == 1 else grid_scratch(),
                    "losses": np.empty(LANES),
                },
            )
            for kind in ("sgd", "adagrad", "ftrl")
            for size in (1, 2)
        },
        "GridModel.measure": (
            grid_model().measure,
            {**rows(), "margins": np.empty((N_ROWS, LANES), F32), "losses": np.empty(LANES)},
        ),
        "GridModel.weights": (grid_weights, {"lane": 3, "out": np.empty(N_IDS, F32)}),
        "GridModel.move": (grid_model().move, {"lane": 3, "to": grid_model(), "to_lane": 4}),
    }


def grid_weights(lane: Any, out: Any) -> dict[int, float]:
    return grid_model().weights({lane: out})


def replica_arrays() -> dict[str, Array]:
    return {
        "state": np.ones(2 * (N_IDS + 1), F32),
        "held": np.zeros(N_IDS + 1, I32),
        "sent": np.zeros(N_IDS + 1, U32),
        "residual": np.zeros(N_IDS + 1, F32),
        "count": np.zeros(N_IDS + 1, U32),
    }


def replica() -> _kernels.Replica:
    return _kernels.Replica(_kernels.Optimizer("adagrad", 0.1), **replica_arrays(), n_workers=3)


def chosen() -> _kernels.StepBatch:
    """Of two ids alone, with their weights."""
    batch, reply = _kernels.StepBatch(_kernels.Stepper(N_IDS)), step_reply(np.ones(2, F32))
    batch.choose(np.array([0, 2], U32))
    batch.read(0, reply, 0, len(reply))
    return batch


def replica_calls() -> dict[str, Call]:
    ids = np.array([1, 4, 2], U32)
    some = {"ids": ids, "counts": np.array([1, 2, 3], U32), "before": np.ones(3, F32)}
    whole = only("labels indptr indices data", order=np.array([2, 0, 1], U32))
    return {
        "Replica": (
            lambda **more: _kernels.Replica(_kernels.Optimizer("sgd", 0.1), **more),
            replica_arrays() | {"state": np.ones(N_IDS + 1, F32), "n_workers": 2},
        ),
        "Replica.touch": (
            replica().touch,
            {**whole, "ids": np.empty(20, U32), "counts": np.empty(20, U32)},
        ),
        "Replica.keep": (replica().keep, {"ids": ids, "before": np.empty(3, F32)}),
        "Replica.take": (
            replica().take,
            {**some, "places": np.empty(4, U32), "amounts": np.empty(4, I32)},
        ),
        "Replica.settle": (
            replica().settle,
            {"ids": ids, "values": np.ones(3, I32), "sent_then": np.ones(3, U32)},
        ),
        "Replica.settle_run": (
            replica().settle_run,
            {"first": 1, "stride": 3, "values": np.ones(3, I32), "sent_then": np.ones(3, U32)},
        ),
        "Replica.give": (
            replica().give,
            {
                **{"batch": chosen(), "places": np.array([0, 2], U32), "amounts": np.ones(2, I32)},
                **{"n_rows": 1, "loss": 0.5, "weight": 1.0},
            },
        ),
        "Replica.take_over": (
            replica().take_over,
            {"batch": chosen(), "sent_then": np.ones(3, U32)},
        ),
        "Replica.missing": (
            replica().missing,
            {"ids": ids, "known": np.array([4], U32), "below": 1, "out": np.empty(3, U32)},
        ),
        "Replica.dense": (replica().dense, {"ids": ids, "bytes_alone": 43}),
    }


def stepped() -> tuple[_kernels.Stepper, _kernels.StepBatch, _kernels.StepBatch]:
    """A stepper, a mini-batch that has its weights and was learnt from, one that has not."""
    stepper = _kernels.Stepper(N_IDS, 1, counts_touches=True)
    taken = _kernels.StepRows(**rows(), order=np.array([2, 0, 1], U32))
    one, other = (_kernels.StepBatch(stepper) for _ in range(2))
    for batch in (one, other):
        stepper.locate(batch, taken, 0, N_ROWS)
    one.read(0, step_reply(np.ones(one.n, F32)), 0, len(step_reply(np.ones(one.n, F32))))
    stepper.learn(one)
    return stepper, one, other


def step_calls() -> dict[str, Call]:
    stepper, one, other = stepped()
    reply = np.frombuffer(step_reply(np.ones(other.n, F32)), U8).copy()
    answer = np.frombuffer(step_reply(np.ones(other.n, F32))[5:-2], U8).copy()
    weights = np.empty(other.n, F32)
    taken = _kernels.StepRows(**rows(), order=np.array([2, 0, 1], U32))
    message = _kernels.StepMessage(b"key")
    message.write(stepper, one, other)
    return {
        "StepRows": (_kernels.StepRows, {**rows(), "order": np.array([2, 0, 1], U32)}),
        "Stepper": (
            lambda **more: _kernels.StepBatch(_kernels.Stepper(**more)),
            {"n_ids": N_IDS, "n_shards": 3, "counts_touches": True},
        ),
        "Stepper.locate": (
            stepper.locate,
            {"batch": _kernels.StepBatch(stepper), "rows": taken, "first": 1, "n": 2},
        ),
        "Stepper.learn": (stepper.learn, {"batch": one}),
        "StepBatch": (_kernels.StepBatch, {"stepper": stepper}),
        "StepBatch.choose": (
            _kernels.StepBatch(_kernels.Stepper(N_IDS)).choose,
            {"ids": np.array([1, 4], U32)},
        ),
        "StepBatch.read": (
            fresh_read,
            {"shard": 0, "buffer": reply, "begin": 0, "end": len(reply)},
        ),
        "StepMessage": (
            _kernels.StepMessage,
            {"key": b"key", "shard": 1, "worker": 2, "generation": 3},
        ),
        "StepMessage.write": (
            _kernels.StepMessage(b"key").write,
            {"stepper": stepper, "pushed": one, "pulled": other, "number": 1, "rate": 0.5},
        ),
        "step_answer": (_kernels.step_answer, {"answer": answer, "weights": weights}),
    }


def fresh_read(**arguments: Any) -> int:
    return stepped()[2].read(**arguments)


def bitfield_calls() -> dict[str, Call]:
    room = _kernels.bitfield_room(3, 2, 2)
    reply = np.frombuffer(b"*3\r\n:1\r\n:2\r\n:3\r\n", U8)
    return {
        "bitfield_pack": (
            _kernels.bitfield_pack,
            {
                "key": np.frombuffer(b"key", U8),
                "add_places": np.array([1, 5], U32),
                "amounts": np.array([3, -3], I32),
                "get_places": np.array([2, 9], U32),
                "out": np.empty(room, U8),
            },
        ),
        "BitfieldReply": (_kernels.BitfieldReply, {"values": np.zeros(3, I32)}),
        "BitfieldReply.read": (
            lambda **more: _kernels.BitfieldReply(np.zeros(3, I32)).read(**more),
            {"buffer": reply, "begin": 0, "end": len(reply)},
        ),
        "bitfield_decode": (
            _kernels.bitfield_decode,
            {"data": np.ones(12, U8), "values": np.empty(3, I32)},
        ),
        "bitfield_encode": (
            _kernels.bitfield_encode,
            {"values": np.ones(3, I32), "out": np.empty(12, U8)},
        ),
    }


def only(names: str, **others: Any) -> dict[str, Any]:
    return {name: rows()[name] for name in names.split()} | others


def a_dictionary() -> Dictionary:
    a = rows()
    many = [np.tile(a[name], 200) for name in ("labels", "indices", "data")]
    indptr = np.concatenate([[0], (a["indptr"][1:] + 8 * np.arange(200)[:, None]).ravel()])
    return Dictionary.build(CSR(many[0], indptr.astype(I64), many[1], many[2], N_IDS))


def popular_ids() -> Dictionary:
    """Of ten ids that each of some rows has."""
    indptr, ids = 10 * np.arange(41, dtype=I64), np.tile(np.arange(10, dtype=U32), 40)
    return Dictionary.build(CSR(np.zeros(40, F32), indptr, ids, np.ones(400, F32), N_IDS))


def decode_arguments() -> dict[str, Any]:
    a, dictionary = rows(), a_dictionary()
    block = encode_block(*a.values(), dictionary)
    n_words = _kernels.block_read_header(block)[-1]
    arrays = {name: np.empty_like(array) for name, array in a.items()}
    return {
        "block": np.frombuffer(block, U8),
        "dictionary": dictionary._parsed,
        **arrays,
        "scratch": np.empty(n_words, U64),
        "base": 0,
        "first_entry": 0,
    }


def minibatch_arguments() -> dict[str, Any]:
    arguments = decode_arguments()
    n_words = _kernels.block_minibatches_scratch(arguments["block"], 2)
    del arguments["first_entry"]
    return arguments | {
        "minibatch_size": 2,
        "table": _kernels.LocalTable(),
        "local": arguments.pop("indices"),
        "ids": np.empty(NNZ, U32),
        "offsets": np.empty((N_ROWS + 1) // 2 + 1, I64),
        "scratch": np.empty(n_words, U64),
    }


def fill(**arguments: Any) -> object:
    flags = {"refuse_zero": False, "nonfinite": False, "skip": False}
    return _kernels.libsvm_fill(**arguments, **flags)


def criteo_fill(**arguments: Any) -> object:
    return _kernels.criteo_fill(**arguments, has_id=False, has_label=True, skip=False)


def calls() -> dict[str, Call]:
    """Every kernel that takes arrays, with arguments it takes."""
    sizes = _kernels.dictionary_build_sizes(NNZ, 100)
    order = np.array([2, 0, 1], U32)
    merge = {f"{side}_ids": np.arange(N_IDS, dtype=U32) for side in "ab"}
    filled = {
        "text": np.frombuffer(TEXT, U8),
        "first": 0,
        "last": len(TEXT),
        "labels": np.empty(N_ROWS, F32),
        "row_ends": np.empty(N_ROWS, I64),
        "indices": np.empty(NNZ, U32),
        "data": np.empty(NNZ, F32),
        "weights": np.empty(N_ROWS, F32),
        "scratch": np.empty(NNZ, U64),
        "entry_base": 0,
        "base": 0,
    }
    return {
        "number_read": (_kernels.number_read, {"text": np.frombuffer(b"1.5e3", U8)}),
        "libsvm_range": (
            _kernels.libsvm_range,
            {"text": np.frombuffer(TEXT, U8), "begin": 0, "end": 9},
        ),
        "libsvm_lines": (
            _kernels.libsvm_lines,
            {"text": np.frombuffer(TEXT, U8), "begin": 0, "end": 9},
        ),
        "libsvm_skip": (
            _kernels.libsvm_skip,
            {"text": np.frombuffer(TEXT, U8), "n_lines": 1},
        ),
        "libsvm_count": (
            _kernels.libsvm_count,
            {"text": np.frombuffer(TEXT, U8), "first": 0, "last": len(TEXT)},
        ),
        "libsvm_cut": (
            _kernels.libsvm_cut,
            {"text": np.frombuffer(TEXT, U8), "before": 3, "step": 5},
        ),
        "libsvm_fill": (fill, {**filled, "scratch": None, "hash_bits": 0, "max_id": 100}),
        "libsvm_fill hashed": (fill, {**filled, "hash_bits": 3, "max_id": -1}),
        "libsvm_write": (_kernels.libsvm_write, {**rows(), "begin": 0, "end": N_ROWS, "base": 1}),
        "criteo_id": (
            _kernels.criteo_id,
            {"column": 1, "cell": np.frombuffer(b"68fd1e64", U8), "bits": 19},
        ),
        "criteo_layout": (
            _kernels.criteo_layout,
            {"text": np.frombuffer(CLICKS, U8), "has_label": True},
        ),
        "criteo_range": (
            _kernels.criteo_range,
            {"text": np.frombuffer(CLICKS, U8), "begin": 0, "end": 9},
        ),
        "criteo_fill": (
            criteo_fill,
            {
                "text": np.frombuffer(CLICKS, U8),
                "first": 0,
                "last": len(CLICKS),
                "labels": np.empty(2, F32),
                "row_ends": np.empty(2, I64),
                "indices": np.empty(78, U32),
                "data": np.empty(78, F32),
                "separator": ord(","),
                "bits": 19,
            },
        ),
        "csr_take": (
            _kernels.csr_take,
            {
                **rows(),
                "order": order,
                "out_labels": np.empty(N_ROWS, F32),
                "out_indptr": np.empty(N_ROWS + 1, I64),
                "out_indices": np.empty(NNZ, U32),
                "out_data": np.empty(NNZ, F32),
                "out_weights": np.empty(N_ROWS, F32),
            },
        ),
        "columns_scan": (
            _kernels.columns_scan,
            only(
                "indices data",
                ones=np.zeros(N_IDS, U32),
                others=columns(),
                met=np.empty(N_IDS, U32),
                n_met=0,
            ),
        ),
        "prepare_entries": (
            _kernels.prepare_entries,
            {
                **only("indices data"),
                "places": np.arange(N_IDS, dtype=U32),
                "n_places": N_IDS,
                "divisors": np.ones(3, F32),
            },
        ),
        "prepare_rows": (
            _kernels.prepare_rows,
            {
                **rows(),
                "order": order,
                "places": np.arange(N_IDS, dtype=U32),
                "n_places": N_IDS,
                "divisors": np.ones(3, F32),
                "first_entry": 5,
                "out_labels": np.empty(N_ROWS, F32),
                "out_indptr": np.empty(N_ROWS + 1, I64),
                "out_indices": np.empty(NNZ, U32),
                "out_data": np.empty(NNZ, F32),
                "out_weights": np.empty(N_ROWS, F32),
            },
        ),
        "claim": (
            _kernels.claim,
            {
                "words": np.zeros(N_IDS, I64),
                "numbers": np.arange(N_IDS, dtype=U32),
                "expected": 0,
                "wanted": 1,
                "claimed": np.empty(N_IDS, U8),
            },
        ),
        "claim_add": (
            _kernels.claim_add,
            {"words": np.zeros(N_IDS, I64), "place": N_IDS - 1, "amount": 3},
        ),
        "columns_merge": (
            _kernels.columns_merge,
            {
                **merge,
                "a": columns(),
                "b": columns(),
                "out_ids": np.empty(2 * N_IDS, U32),
                "out": np.concatenate([columns(), columns()]).view(U64).view(U8),
            },
        ),
        "columns_scale": (
            _kernels.columns_scale,
            only("indices data", pairs=np.ones((N_IDS, 2), F32), out=np.empty(NNZ, F32)),
        ),
        "localize": (
            _kernels.localize,
            {
                "ids": rows()["indices"],
                "table": np.empty(N_IDS, U32),
                "local": np.empty(NNZ, U32),
                "distinct": np.empty(NNZ + 1, U32),
            },
        ),
        "logistic_margins": (
            _kernels.logistic_margins,
            only(
                "indptr indices data",
                w=np.ones(N_IDS, F32),
                intercept=0.5,
                margins=np.empty(N_ROWS, F32),
            ),
        ),
        "logistic_loss": (
            _kernels.logistic_loss,
            only("labels weights", margins=np.ones(N_ROWS, F32)),
        ),
        "logistic_probabilities": (
            _kernels.logistic_probabilities,
            {"margins": np.ones(N_ROWS, F32), "out": np.empty(N_ROWS, F32)},
        ),
        "logistic_gradient": (
            _kernels.logistic_gradient,
            {
                **rows(),
                "w": np.ones(N_IDS, F32),
                "intercept": 0.0,
                "gradient": np.empty(N_IDS, F32),
            },
        ),
        "auc": (
            _kernels.auc,
            only(
                "labels weights",
                scores=np.array([0.5, 0.5, -1], F32),
                scratch=np.empty(2 * N_ROWS, U64),
            ),
        ),
        "Optimizer.clear": (_kernels.Optimizer("ftrl", 0.1).clear, {"state": np.ones(22, F32)}),
        "Optimizer.weights": (
            _kernels.Optimizer("ftrl", 0.1).weights,
            {
                "state": np.ones(22, F32),
                "penalties": np.ones((N_IDS, 2), F32),
                "rows_seen": 1.0,
                "out": np.empty(N_IDS, F32),
            },
        ),
        "Optimizer.update": (
            _kernels.Optimizer("ftrl", 0.1).update,
            {"state": np.ones(2, F32), "gradient": 1.0},
        ),
        "TrainScratch": (
            _kernels.TrainScratch,
            {name: np.array(getattr(scratch(), name)) for name in SCRATCH},
        ),
        "HotCopies": (
            _kernels.HotCopies,
            {
                "optimizer": _kernels.Optimizer("adagrad", 0.1),
                "published": np.zeros((2, 8), F32),
                "thread": 1,
                "own": np.empty(16, F32),
                "every": 2,
            },
        ),
        "TrainModel": (
            _kernels.TrainModel,
            {
                "optimizer": _kernels.Optimizer("adagrad", 0.1),
                "state": np.ones(22, F32),
                "penalties": np.ones((N_IDS, 2), F32),
            },
        ),
        **{
            f"TrainModel.train {kind} {size}": (
                model(kind).train,
                {**rows(), "order": order, "minibatch_size": size, "scratch": scratch()},
            )
            for kind, size in [("sgd", 1), ("adagrad", 1), ("ftrl", 1), ("adagrad", 2), ("ftrl", 3)]
        },
        "TrainModel.train hot": (
            model(hot=True).train,
            {**rows(), "order": order, "minibatch_size": 1, "scratch": None},
        ),
        "TrainModel.gradient": (
            model().gradient,
            {**rows(), "order": order, "scratch": scratch()},
        ),
        "TrainModel.apply": (
            model().apply,
            {
                "ids": rows()["indices"],
                "gradient": np.ones(NNZ, F32),
                "touches": np.ones(NNZ, F32),
                "intercept_gradient": 1.0,
                "scratch": scratch(),
            },
        ),
        **grid_calls(),
        **replica_calls(),
        **bitfield_calls(),
        **step_calls(),
        "crc32c": (_kernels.crc32c, {"data": np.frombuffer(TEXT, U8), "crc": 0}),
        "dictionary_build_sizes": (_kernels.dictionary_build_sizes, {"nnz": 9, "max_ids": 9}),
        "dictionary_build": (
            _kernels.dictionary_build,
            only(
                "indptr indices data",
                max_ids=100,
                scratch=np.empty(sizes[0], U64),
                out=np.empty(sizes[1], U8),
            ),
        ),
        "ParsedDictionary": (
            _kernels.ParsedDictionary,
            {"data": np.frombuffer(a_dictionary().to_bytes(), U8)},
        ),
        "ParsedDictionary.move_ones": (
            popular_ids()._parsed.move_ones,
            {"ones_by_rank": np.ones(10, U32), "ones": np.zeros(N_IDS, U32)},
        ),
        "block_read_header": (
            _kernels.block_read_header,
            {"block": np.frombuffer(encode_block(*rows().values()), U8)},
        ),
        "block_decode": (_kernels.block_decode, decode_arguments()),
        "block_minibatches_scratch": (
            _kernels.block_minibatches_scratch,
            {"block": np.frombuffer(encode_block(*rows().values()), U8), "minibatch_size": 2},
        ),
        "block_decode_minibatches": (_kernels.block_decode_minibatches, minibatch_arguments()),
        "block_encode_scratch": (_kernels.block_encode_scratch, {"n_rows": 9, "nnz": 9}),
        "block_encode": (
            _kernels.block_encode,
            {
                **rows(),
                "dictionary": popular_ids()._parsed,
                "scratch": np.empty(
                    _kernels.block_encode_scratch(N_ROWS, NNZ, popular_ids()._parsed), U64
                ),
                "ones": np.zeros(N_IDS, U32),
                "others": columns(),
                "met": np.empty(N_IDS, U32),
                "n_met": 0,
                "ones_by_rank": np.zeros(popular_ids()._parsed.n_ids, U32),
            },
        ),
    }


SCRATCH = ("table", "local", "distinct", "weights", "gradient", "touches")
NAMES = sorted(calls())
# They take numbers, or nothing.
HARMLESS = {
    "LocalTable",
    "active_impl",
    "bitfield_room",
    "implementations",
    "libsvm_hash",
    "number_format",
    "status_texts",
}


def arrays_of(arguments: dict[str, Any]) -> list[str]:
    return [name for name, value in arguments.items() if isinstance(value, np.ndarray)]


def unaligned(array: Array) -> Array:
    """The same, at an odd address."""
    raw = np.empty(array.nbytes + 16, U8)
    start = 1 if raw.ctypes.data % 2 == 0 else 2
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def variants(name: str, arguments: dict[str, Any]) -> Iterator[object]:
    """What an argument might wrongly be."""
    value = arguments[name]
    if isinstance(value, int):
        yield from (-1, 0, 1, 2, 31, 33, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62)
        yield from ((1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, None, "1", 0.5)
    elif isinstance(value, float):
        yield from (np.nan, np.inf, -np.inf, 1e300, -1e300, None)
    if not isinstance(value, np.ndarray):
        yield from (None, 0, "x", b"")
        return
    with np.errstate(invalid="ignore"):  # what an output has before is anything
        doubles = value.astype("f8")
    yield from (value[:-1], value[:0], value[1:], value[::2], None, doubles, 0)
    yield from (np.concatenate([value, value]), value[None], unaligned(value), read_only(value))
    for other in arrays_of(arguments):
        shared = arguments[other].reshape(-1).view(U8)
        room = shared[: len(shared) // value.itemsize * value.itemsize].view(value.dtype)
        for start in (0, 1):
            if len(room) - start >= value.size:
                yield room[start : start + value.size].reshape(value.shape)
            yield room[start:]
    if value.dtype.kind in "iu":
        for extreme in (0, 1, 7, 9, 10, 255, 1 << 31, (1 << 32) - 1, *EXTREMES):
            for place in (0, value.size // 2, value.size - 1):
                changed = value.copy()
                changed.reshape(-1)[place] = np.array(extreme).astype(value.dtype)
                yield changed


def test_every_kernel_is_tried() -> None:
    tried = {name.split()[0].split(".")[0] for name in NAMES}
    there = {name for name in dir(_kernels) if callable(getattr(_kernels, name))}
    assert tried | HARMLESS == {name for name in there if not name.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_valid_arguments_are_taken(name: str) -> None:
    function, arguments = calls()[name]
    function(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_no_single_wrong_argument_leads_outside(name: str) -> None:
    for argument in calls()[name][1]:
        function, arguments = calls()[name]
        for wrong in variants(argument, arguments):
            with contextlib.suppress(*REFUSALS):
                function(**{**arguments, argument: wrong})


@pytest.mark.parametrize("name", NAMES)
def test_arrays_at_odd_addresses_are_refused(name: str) -> None:
    function, arguments = calls()[name]
    for argument in arrays_of(arguments):
        if arguments[argument].itemsize == 1 and "columns" not in name:
            continue  # bytes may lie anywhere
        with pytest.raises(ValueError, match="aligned to"):
            function(**{**arguments, argument: unaligned(arguments[argument])})


WRITES = {
    "claim": ("words", "claimed"),
    "prepare_entries": ("indices", "data"),
    "prepare_rows": ("out_labels", "out_indptr", "out_indices", "out_data", "out_weights"),
    "csr_take": ("out_labels", "out_indptr", "out_indices", "out_data", "out_weights"),
    "columns_scan": ("ones", "others", "met"),
    "auc": ("scratch",),
    "logistic_gradient": ("gradient",),
    "block_decode": ("labels", "indptr", "indices", "data", "weights", "scratch"),
    "block_decode_minibatches": (
        *("labels", "indptr", "local", "data", "weights", "ids", "offsets", "scratch"),
    ),
    "block_encode": ("scratch", "ones", "others", "met", "ones_by_rank"),
    "ParsedDictionary.move_ones": ("ones_by_rank", "ones"),
    "dictionary_build": ("scratch", "out"),
    "libsvm_fill hashed": ("labels", "row_ends", "indices", "data", "weights", "scratch"),
    "criteo_fill": ("labels", "row_ends", "indices", "data"),
    "TrainScratch": SCRATCH,
    "GridScratch": ("weights", "gradient", "touches"),
    "GridModel.train adagrad 1": ("losses",),
    "bitfield_pack": ("out",),
    "Replica": ("state", "held", "sent", "residual", "count"),
    "Replica.touch": ("ids", "counts"),
    "Replica.keep": ("before",),
    "Replica.take": ("places", "amounts"),
    "Replica.missing": ("out",),
}


def side_by_side(a: Array, b: Array, gap: int) -> tuple[Array, Array]:
    """Copies of both in one buffer; they share bytes if gap < 0."""
    at = (a.nbytes + 7) // 8 * 8 + gap
    raw = np.zeros((at + b.nbytes) // 8 + 2, U64).view(U8)
    first = raw[: a.nbytes].view(a.dtype)
    second = raw[at : at + b.nbytes].view(b.dtype)
    second[:], first[:] = b, a
    return first, second


@pytest.mark.parametrize("name", WRITES)
def test_an_output_shares_memory_with_nothing(name: str) -> None:
    function, arguments = calls()[name]
    for output in WRITES[name]:
        for other in arrays_of(arguments):
            if other == output:
                continue
            for gap in (0, -8):
                # What is read stays as it is; a written array may end anywhere.
                pair = side_by_side(arguments[other], arguments[output], gap)
                if gap == 0:
                    function(**{**arguments, other: pair[0], output: pair[1]})
                    continue
                with pytest.raises(ValueError, match="shares memory"):
                    function(**{**arguments, other: pair[0], output: pair[1]})


def test_training_refuses_rows_inside_the_model_or_its_scratch() -> None:
    optimizer = _kernels.Optimizer("sgd", 0.1)
    state, order = np.zeros(N_IDS + 1, F32), np.arange(N_ROWS, dtype=U32)
    trained = _kernels.TrainModel(optimizer, state, None)
    inside = {**rows(), "indices": state[:NNZ].view(U32), "order": order}
    for call in (
        lambda: trained.train(**inside, minibatch_size=1, scratch=None),
        lambda: trained.train(**inside, minibatch_size=2, scratch=scratch()),
        lambda: trained.gradient(**inside, scratch=scratch()),
    ):
        with pytest.raises(ValueError, match="shares memory"):
            call()
    mine = scratch()
    local = np.asarray(mine.local)
    with pytest.raises(ValueError, match="shares memory"):
        trained.train(**rows(), order=local[:N_ROWS], minibatch_size=2, scratch=mine)
    distinct, gradient, touches = map(np.asarray, (mine.distinct, mine.gradient, mine.touches))
    k, intercept_gradient, _, _ = trained.gradient(**rows(), order=order, scratch=mine)
    with pytest.raises(ValueError, match="shares memory"):
        trained.apply(distinct[:k], gradient[:k], touches[:k], intercept_gradient, mine)
    with pytest.raises(ValueError, match="shares memory"):
        _kernels.TrainModel(optimizer, gradient, None).gradient(**rows(), order=order, scratch=mine)


def test_scratch_serves_one_thread_at_a_time() -> None:
    n_rows = 20_000
    many = rows() | {
        "labels": np.ones(n_rows, F32),
        "indptr": np.arange(n_rows + 1, dtype=I64),
        "indices": np.zeros(n_rows, U32),
        "data": np.ones(n_rows, F32),
        "weights": None,
    }
    order = np.tile(np.arange(n_rows, dtype=U32), 20)
    shared, outcomes = scratch(), []

    def work() -> None:
        for _ in range(5):
            try:
                model().train(**many, order=order, minibatch_size=ROOM, scratch=shared)
                outcomes.append("trained")
            except ValueError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"trained", "scratch is in use by another thread"}
    assert "trained" in outcomes
    # Also after a failure it is free again.
    with pytest.raises(CirrusFastError):
        model().train(**many, order=order + 1, minibatch_size=ROOM, scratch=shared)
    model().train(**many, order=order, minibatch_size=ROOM, scratch=shared)


@pytest.mark.parametrize(
    "kind",
    [
        *("Optimizer", "TrainScratch", "HotCopies", "TrainModel", "ParsedDictionary"),
        *("GridBatches", "GridScratch", "GridModel"),
    ],
)
def test_objects_cannot_be_half_made(kind: str) -> None:
    made = getattr(_kernels, kind)
    with pytest.raises(TypeError):
        made.__new__(made)


def test_sizes_that_would_wrap_are_refused() -> None:
    for n in (1 << 28, 1 << 61, (1 << 64) - 1):
        with pytest.raises(ValueError, match="too many"):
            _kernels.block_encode_scratch(0, n)
        with pytest.raises(ValueError, match="too many"):
            _kernels.block_encode_scratch(n, 0)
    for n in (1 << 32, 1 << 61, (1 << 64) - 1):
        with pytest.raises(ValueError, match="so many entries"):
            _kernels.dictionary_build_sizes(n, 100)


@pytest.mark.parametrize("base", [-1, (1 << 63) - 1, (1 << 63) - NNZ])
def test_positions_that_would_overflow_are_refused(base: int) -> None:
    for name, argument in [("block_decode", "first_entry"), ("libsvm_fill", "entry_base")]:
        function, arguments = calls()[name]
        with pytest.raises(ValueError, match="leave room"):
            function(**{**arguments, argument: base})


@pytest.mark.parametrize(("first", "last"), [(1, 10), (0, 9), (10, 27), (3, 3)])
def test_parsing_begins_and_ends_with_lines(first: int, last: int) -> None:
    for name in ("libsvm_fill", "criteo_fill"):
        function, arguments = calls()[name]
        with pytest.raises(ValueError, match="starts of lines"):
            function(**{**arguments, "first": first, "last": last})
