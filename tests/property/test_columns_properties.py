"""Merging column statistics, over anything."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cirrus_fast.data.columns import SCALINGS, ColumnStatistics, Scaling

WIDTH = 9
# Squares of whole numbers this small add up exactly in any order.
values = st.integers(-1000, 1000).map(float)
pairs = st.lists(st.tuples(st.integers(0, WIDTH - 1), values), max_size=30)


def scan(entries):
    ids = np.array([i for i, _ in entries], np.uint32)
    return ColumnStatistics.scan(ids, np.array([x for _, x in entries], np.float32), WIDTH)


def same(left, right):
    return left.ids.tolist() == right.ids.tolist() and (
        left.columns.tobytes() == right.columns.tobytes()
    )


@given(pairs, pairs, pairs)
def test_merging_is_associative_commutative_and_has_a_neutral_element(a, b, c):
    a, b, c = scan(a), scan(b), scan(c)
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(a.merge(ColumnStatistics.empty()), a)
    assert same(ColumnStatistics.empty().merge(a), a)


@given(pairs, st.integers(0, 30))
def test_scanning_in_parts_and_merging_is_scanning_once(entries, cut):
    assert same(scan(entries[:cut]).merge(scan(entries[cut:])), scan(entries))


@given(
    st.dictionaries(
        st.integers(0, 2**32 - 1),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3),
        max_size=20,
    )
)
def test_any_statistics_survive_their_bytes(columns):
    ids = np.array([i for i, xs in columns.items() for _ in xs], np.uint32)
    data = np.array([x for xs in columns.values() for x in xs], np.float32)
    found = ColumnStatistics.scan(ids, data, 2**32)
    back = ColumnStatistics.from_bytes(found.to_bytes(), "here")
    assert back.ids.tolist() == sorted(columns)
    assert same(back, found)


@settings(max_examples=200)
@given(
    arrays.arrays(
        np.float32, st.integers(1, 8), elements=st.floats(-(2.0**100), 2.0**100, width=32)
    ),
    st.integers(0, 3),
    st.sampled_from(SCALINGS),
)
def test_scaled_values_stay_in_range_and_keep_their_order(column, absent, method):
    ids = np.zeros(len(column), np.uint32)
    statistics = ColumnStatistics.scan(ids, column, 1)
    scaling = Scaling.fit(method, statistics, len(column) + absent)
    scaled = scaling.apply(ids, column)
    assert np.isfinite(scaled).all()
    assert (np.diff(scaled[np.argsort(column, kind="stable")]) >= 0).all()
    if method == "max_abs":
        assert np.abs(scaled).max() <= 1
    elif method == "min_max":
        assert scaled.max() - min(0, scaled.min()) <= 1 + 1e-6


@given(pairs, st.integers(0, 3), st.sampled_from(SCALINGS))
def test_scaled_statistics_are_those_of_scaled_entries(entries, absent, method):
    ids = np.array([i for i, _ in entries], np.uint32)
    data = np.array([x for _, x in entries], np.float32)
    statistics = scan(entries)
    scaling = Scaling.fit(method, statistics, len(entries) + absent)
    found = scaling.scaled(statistics)
    if found is None:
        assert scaling.shift.any()
        return
    expected = ColumnStatistics.scan(ids, scaling.apply(ids, data), WIDTH)
    assert found.ids.tolist() == expected.ids.tolist()
    for field in ("count", "min", "max"):
        np.testing.assert_array_equal(found.columns[field], expected.columns[field])
    np.testing.assert_allclose(
        found.columns["sum_squares"], expected.columns["sum_squares"], rtol=1e-6
    )


# Entries that are 1 take a way of their own.
some_ones = st.lists(
    st.tuples(st.integers(0, WIDTH - 1), st.one_of(st.just(1.0), values)), max_size=200
)


@given(some_ones)
def test_statistics_are_the_obvious_ones(entries):
    found = scan(entries)
    columns = {i: [x for j, x in entries if i == j] for i, _ in entries}
    assert found.ids.tolist() == sorted(columns)
    for i, column in zip(found.ids.tolist(), found.columns.tolist(), strict=True):
        mine = columns[i]
        assert column == (len(mine), min(mine), max(mine), sum(x * x for x in mine))
