"""The table of training options: names, types, ranges, defaults, contradictions."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from cirrus_fast import LogisticRegression
from cirrus_fast.errors import OptionError
from cirrus_fast.options import Options, parse_options, table

ROWS = {row.name: row for row in table()}

# name -> (default, good values, bad values). A change of the table is a change of the contract.
OPTIONS = {
    "dataset": (None, ["x", "./a/b", "file:///a"], [None, 3, b"x"]),
    "test_dataset": (None, [None, "x"], [3]),
    "test_fraction": (None, [None, 1e-9, 0.5, 0.999], [0, 1, -0.1, 1.5, "0.5"]),
    "model_size": (None, [None, 1, 2**19, 2**32 - 2], [0, -1, 2**32 - 1, 1.5, True, "9"]),
    "fit_intercept": (True, [True, False], [1, 0, "yes", None]),
    "optimizer": ("adagrad", ["adagrad", "ftrl", "sgd"], ["adam", "", 3, None, "SGD"]),
    "learning_rate": (None, [None, 1e-9, 0.1, 1, 1e6], [0, -1, 2e6, "0.1", True]),
    "minibatch_size": (1, [1, 1000, 1_000_000], [0, 1_000_001, 1.0, 10.5, None, True]),
    "l1": (0.0, [0, 1e-9, 100], [-1e-9, None, "0"]),
    "l2": (0.0, [0, 1e-9, 100], [-1e-9, None, "0"]),
    "class_weight": (
        None,
        [None, "balanced", (1, 2), [0.5, 3]],
        ["equal", (1,), (1, 2, 3), (0, 1), (1, -1), (1, None), {0: 1, 1: 2}, 5, np.ones(2)],
    ),
    "epochs": (20, [1, 1_000_000], [0, 1_000_001, 2.0, None]),
    "epsilon": (1e-4, [0, 0.5, 10], [-1e-9, None, "x"]),
    "patience": (5, [1, 10**6], [0, 1.5, None]),
    "eval_interval": (None, [None, 1e-6, 1, 100], [0, -1, "1"]),
    "threshold_loss": (None, [None, 1e-9, 5], [0, -1]),
    "max_cost": (None, [None], [1.0, 0, -1, "1"]),
    "checkpoint_interval": (None, [None, 1e-3, 600], [0, -1, "1"]),
    "resume_from": (None, [None, "a.npz"], [3]),
    "timeout": (None, [None, 0.001, 20 * 60], [0, -5]),
    "consistency": ("async", ["async", "ssp", "bsp"], ["sync", None]),
    "staleness": (None, [None], [-1, 1.5]),
    "sync_rows": (None, [None], [1, 0, 5000, "1"]),  # in memory
    "pipeline_depth": (None, [None], [1, 0, 4, "1"]),  # in memory
    "n_workers": (None, [None, 1, 10_000], [0, 10_001, 2.5, True]),
    "n_ps": (1, [1], [0, 2, None]),
    "worker_size": (2048, [128, 1024, 10_240], [127, 10_241, None]),
    "executor": ("local", ["local", "processes"], ["lambdas", "threads", None, 3, print]),
    "param_store": (
        "memory",
        ["memory", "redis://host:6379", "rediss://u@host:1/2", "unix:///run/redis.sock"],
        ["redis://", "memry", "http://host", ["redis://a", 3], [], None],
    ),
    "seed": (0, [0, 2**63 - 1], [-1, 2**63, 1.0, None]),
    "progress": (None, [None, True, False], [1, "yes"]),
    "callbacks": ((), [(), [], None, print, [print, len]], [3, "x", [print, 3]]),
}


def parse(**given):
    return parse_options({"dataset": "d", **given})


def test_the_table_has_these_options_and_no_others():
    assert list(ROWS) == list(OPTIONS)
    assert all(row.metadata["help"] for row in ROWS.values())


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "dataset"])
def test_the_default(name):
    assert getattr(parse(), name) == OPTIONS[name][0]


@pytest.mark.parametrize(
    ("name", "value"), [(name, good) for name, row in OPTIONS.items() for good in row[1]]
)
def test_good_values_are_kept(name, value):
    got = getattr(parse(**{name: value}), name)
    if name == "callbacks":
        assert got == ((print,) if value is print else tuple(value or ()))
    elif name == "class_weight" and isinstance(value, list):
        assert got == tuple(value)
    else:
        assert got == value
        assert isinstance(got, float) == (
            ROWS[name].metadata["kind"] is float and value is not None
        )


@pytest.mark.parametrize(
    ("name", "value"), [(name, bad) for name, row in OPTIONS.items() for bad in row[2]]
)
def test_bad_values_are_refused_in_one_line_that_names_the_option(name, value):
    with pytest.raises(OptionError, match=f"^{name}") as caught:
        parse(**{name: value})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "name",
    [name for name, row in ROWS.items() if row.metadata["kind"] is float],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_must_be_finite(name, value):
    with pytest.raises(OptionError, match=f"^{name}.*finite"):
        parse(**{name: value})


def test_numpys_and_other_numbers_become_plain_ones():
    got = parse(
        learning_rate=np.float32(0.5),
        l2=Fraction(1, 4),
        minibatch_size=np.int64(100),
        seed=np.uint8(3),
        fit_intercept=np.bool_(False),
        optimizer=np.str_("sgd"),
        class_weight=(np.float64(1), np.int32(2)),
    )
    values = (got.learning_rate, got.l2, got.minibatch_size, got.seed, got.fit_intercept)
    assert values == (0.5, 0.25, 100, 3, False)
    assert [type(value) for value in values] == [float, float, int, int, bool]
    assert [type(value) for value in got.class_weight] == [float, float]
    json.dumps(got.to_json())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("minibach_size", "minibatch_size"),
        ("learning_rat", "learning_rate"),
        ("lr1", "l1"),
        ("n_worker", "n_workers"),
        ("threshhold_loss", "threshold_loss"),
        ("max_costs", "max_cost"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name, near):
    with pytest.raises(OptionError, match=f"^{name}: unknown option: did you mean {near}\\?$"):
        parse(**{name: 1})


def test_an_unknown_name_like_none_of_them_lists_them_all():
    with pytest.raises(OptionError, match="zzz: unknown option; options are dataset, test_dataset"):
        parse(zzz=1)


def test_max_cost_is_for_rented_workers():
    rented = {"executor": "lambda", "param_store": "redis://host"}
    assert parse(max_cost=0.5, **rented).max_cost == 0.5
    for bad in (0, -1, "1"):
        with pytest.raises(OptionError, match=r"^max_cost"):
            parse(max_cost=bad, **rented)
    for executor in ("local", "processes"):
        with pytest.raises(
            OptionError, match=f"max_cost: means nothing with executor='{executor}'"
        ):
            parse(max_cost=1, executor=executor)


def test_a_choice_nearly_right_is_guessed():
    with pytest.raises(OptionError, match="did you mean adagrad"):
        parse(optimizer="adagard")


def test_the_unit_is_part_of_the_message():
    with pytest.raises(OptionError, match="worker_size=1: must be at least 128 MB"):
        parse(worker_size=1)
    with pytest.raises(OptionError, match=r"timeout=0\.0: must be above 0 seconds"):
        parse(timeout=0)


def test_the_data_set_must_be_named():
    with pytest.raises(OptionError, match="dataset: missing"):
        parse_options({})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"test_dataset": "t", "test_fraction": 0.1}, "give only one"),
        ({"epsilon": 0, "threshold_loss": 0.3}, "threshold_loss: needs test rows"),
        ({"epsilon": 0, "patience": 2}, "patience: means nothing with epsilon=0"),
        ({"staleness": 5}, 'staleness: means nothing with consistency="async"'),
        ({"staleness": 5, "consistency": "bsp"}, "staleness: means nothing"),
        (
            {"staleness": 5, "consistency": "ssp", "n_workers": 1},
            "staleness: means nothing with n_workers=1",
        ),
        ({"n_ps": 2}, "n_ps=2: means nothing with param_store='memory'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given, says):
    with pytest.raises(OptionError, match=says):
        parse(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"epsilon": 0, "threshold_loss": 0.3, "test_fraction": 0.1},
        {"epsilon": 0, "threshold_loss": 0.3, "test_dataset": "t"},
        {"staleness": 0, "consistency": "ssp"},
        {"n_workers": 4, "consistency": "bsp"},
        {"executor": "processes", "n_workers": 3},
    ],
)
def test_options_that_go_together_are_accepted(given):
    got = parse(**given)
    for name, value in given.items():
        assert getattr(got, name) == value


def test_any_executor_object_is_accepted_and_has_a_name():
    with ThreadPoolExecutor(1) as pool:
        got = parse(executor=pool)
    assert got.executor is pool
    assert got.executor_name == got.to_json()["executor"] == "ThreadPoolExecutor"


def test_options_survive_json():
    given = {"dataset": "d", "class_weight": (1, 2.5), "l1": 0.1, "timeout": 3, "callbacks": print}
    kept = json.loads(json.dumps(parse_options(given).to_json()))
    assert "callbacks" not in kept
    assert parse_options(kept) == parse_options({**given, "callbacks": ()})


def test_options_cannot_be_changed():
    with pytest.raises(AttributeError):
        parse().epochs = 3
    assert isinstance(parse(), Options)


def test_logistic_regression_checks_at_once_and_more_wins_over_params():
    with pytest.raises(OptionError, match="did you mean epochs"):
        LogisticRegression({"dataset": "d", "epoch": 3})
    params = {"dataset": "d", "epochs": 3}
    made = LogisticRegression(params, epochs=4, l2=1)
    assert (made.options.epochs, made.options.l2) == (4, 1.0)
    assert params == {"dataset": "d", "epochs": 3}
