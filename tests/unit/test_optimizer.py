"""One coordinate's update against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast._reference import optimizer_step_reference, weight_reference

F32 = np.float32
WIDTH = {"sgd": 1, "adagrad": 2, "ftrl": 2}
KINDS = list(WIDTH)


def coordinate(optimizer, w=0.0):
    """The state of a lone coordinate with starting weight w."""
    state = np.full(optimizer.width, np.nan, F32)
    optimizer.clear(state, w)
    return state


def weight(optimizer, state, l1=0.0, l2=0.0):
    """The weight of a lone coordinate, penalties as given."""
    out = np.empty(1, F32)
    both = np.concatenate([state, coordinate(optimizer)])
    optimizer.weights(both, np.array([[l1, l2]], F32), 1.0, out)
    return out[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cleared_state_has_weight_0_and_the_intercepts_start(kind):
    optimizer = _kernels.Optimizer(kind, 0.1, 2.0)
    assert optimizer.width == WIDTH[kind]
    state = np.full(4 * optimizer.width, np.nan, F32)
    optimizer.clear(state, 0.75)
    weights = np.empty(3, F32)
    assert optimizer.weights(state, None, 0.0, weights) == 0.75
    assert weights.tolist() == [0, 0, 0]
    if kind == "adagrad":
        assert state[1::2].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("l1", [0.0, 0.03])
@pytest.mark.parametrize("l2", [0.0, 0.5])
@pytest.mark.parametrize("start", [0.0, -0.4])
def test_steps_are_the_references(kind, l1, l2, start):
    optimizer = _kernels.Optimizer(kind, 0.3, 1.5)
    state = coordinate(optimizer, start)
    expected = {"sgd": [start], "adagrad": [start, 1.5], "ftrl": [-start * 1.5 / 0.3, 0.0]}[kind]
    constants = {"learning_rate": 0.3, "initial": 1.5, "l1": l1, "l2": l2}
    for gradient in np.random.default_rng(2).normal(size=40):
        gradient = float(F32(gradient))
        optimizer.update(state, gradient, l1, l2)
        expected = optimizer_step_reference(kind, expected, gradient, **constants)
        np.testing.assert_allclose(state, expected, rtol=3e-5, atol=3e-6)
        np.testing.assert_allclose(
            weight(optimizer, state, l1, l2),
            weight_reference(kind, expected, **constants),
            rtol=3e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_starting_weight_survives_a_step_of_nothing(kind):
    optimizer = _kernels.Optimizer(kind, 0.2)
    state = coordinate(optimizer, -1.25)
    optimizer.update(state, 0.0)
    np.testing.assert_allclose(weight(optimizer, state), -1.25, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_goes_against_the_gradient(kind):
    optimizer = _kernels.Optimizer(kind, 0.2)
    state = coordinate(optimizer)
    optimizer.update(state, 0.5)
    assert weight(optimizer, state) < 0


@pytest.mark.parametrize("kind", KINDS)
def test_l1_leaves_exact_zeros(kind):
    optimizer = _kernels.Optimizer(kind, 0.2)
    state = coordinate(optimizer)
    optimizer.update(state, 0.5, l1=10.0)
    assert weight(optimizer, state, l1=10.0) == 0
    assert not np.signbit(weight(optimizer, state, l1=10.0))
    optimizer.update(state, -100.0, l1=10.0)
    assert weight(optimizer, state, l1=10.0) > 0


@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
def test_a_huge_l2_shrinks_and_never_overshoots(kind):
    optimizer = _kernels.Optimizer(kind, 1.0)
    state = coordinate(optimizer, 1.0)
    for _ in range(5):
        before = state[0]
        optimizer.update(state, 0.0, l2=1e6)
        assert 0 <= state[0] < before


@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("w", [1.1, -0.37, 300.0])
def test_a_weight_whose_pulls_are_balanced_stays_to_the_last_digit(kind, rate, w):
    """Long runs come no nearer to the optimum than each step's rounding lets them."""
    optimizer = _kernels.Optimizer(kind, rate)
    state = coordinate(optimizer, w)
    for _ in range(20):
        optimizer.update(state, -0.25 * float(F32(w)), l2=0.25)
        assert state[0] == F32(w)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fixed_point_of_a_quadratic_is_the_penalised_one(kind):
    """min (w - 2)^2 / 2 + l2/2 w^2 + l1 |w|: w = (2 - l1) / (1 + l2)."""
    optimizer = _kernels.Optimizer(kind, 0.5)
    state = coordinate(optimizer)
    for step in range(1, 4001):
        charge = {
            name: c * (step if kind == "ftrl" else 1) for name, c in {"l1": 0.5, "l2": 0.25}.items()
        }
        optimizer.update(state, float(weight(optimizer, state, **charge)) - 2, **charge)
    np.testing.assert_allclose(weight(optimizer, state, **charge), 1.5 / 1.25, rtol=2e-3)


def test_ftrl_weights_are_charged_for_all_rows_seen_when_read():
    """Whether a coordinate was touched lately does not matter."""
    optimizer = _kernels.Optimizer("ftrl", 0.5)
    state = np.concatenate([coordinate(optimizer), coordinate(optimizer, 0.1)])
    optimizer.update(state[:2], -3.0)
    raw, charged, gone = np.empty(1, F32), np.empty(1, F32), np.empty(1, F32)
    assert optimizer.weights(state, None, 100.0, raw) == F32(0.1)
    penalties = np.array([[0.01, 0.02]], F32)
    optimizer.weights(state, penalties, 100.0, charged)
    z, n = float(state[0]), float(state[1])
    expected = -(abs(z) - 1.0) * np.sign(z) / ((1 + np.sqrt(n)) / 0.5 + 2.0)
    np.testing.assert_allclose(charged[0], expected, rtol=1e-5)
    assert 0 < charged[0] < raw[0]
    optimizer.weights(state, penalties, 1e6, gone)
    assert gone[0] == 0
    assert optimizer.weights(state, penalties, 1e6, gone) == F32(0.1)  # the intercept is free


@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
def test_other_weights_are_read_as_they_are(kind):
    optimizer = _kernels.Optimizer(kind, 0.5)
    state = np.concatenate([coordinate(optimizer, 0.7), coordinate(optimizer, 0.1)])
    out = np.empty(1, F32)
    optimizer.weights(state, np.array([[9, 9]], F32), 1e9, out)
    assert out[0] == F32(0.7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("adam", 0.1), "one of sgd, adagrad, ftrl, not adam"),
        (("sgd", 0.0), "learning_rate must be above 0"),
        (("sgd", -1.0), "learning_rate must be above 0"),
        (("sgd", float("nan")), "learning_rate must be above 0"),
        (("sgd", 1e-50), "learning_rate must be above 0"),
        (("adagrad", 0.1, 0.0), "initial must be above 0"),
    ],
)
def test_constants_that_cannot_work_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        _kernels.Optimizer(*arguments)


def test_states_that_do_not_fit_are_refused():
    optimizer = _kernels.Optimizer("adagrad", 0.1)
    with pytest.raises(ValueError, match="whole coordinates"):
        optimizer.clear(np.empty(3, F32))
    with pytest.raises(ValueError, match="the intercept at least"):
        optimizer.clear(np.empty(0, F32))
    with pytest.raises(ValueError, match="one coordinate short"):
        optimizer.weights(np.empty(4, F32), None, 0.0, np.empty(2, F32))
    with pytest.raises(ValueError, match="pairs, one for every id"):
        optimizer.weights(np.empty(4, F32), np.empty((2, 2), F32), 0.0, np.empty(1, F32))
    with pytest.raises(ValueError, match="one coordinate"):
        optimizer.update(np.empty(4, F32), 0.0)
