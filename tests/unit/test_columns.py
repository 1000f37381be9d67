"""Column statistics and the scalings made from them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler

from cirrus_fast import CSR, _kernels
from cirrus_fast.data import columns as columns_module
from cirrus_fast.data.blocks import Dictionary, encode_block
from cirrus_fast.data.columns import (
    COLUMN,
    MAX_ABS_SCALING,
    MIN_MAX_SCALING,
    SCALINGS,
    STANDARD_SCALING,
    ColumnCounter,
    ColumnStatistics,
    CountedColumns,
    Scaling,
)
from cirrus_fast.data.training_scale import CROWD, TrainingScale
from cirrus_fast.errors import DatasetError, KernelError, OptionError

F32 = np.float32


def entries(n=500, width=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, width, n).astype(np.uint32), rng.normal(size=n).astype(F32)


def scan(ids, data, width):
    return ColumnStatistics.scan(np.asarray(ids, np.uint32), np.asarray(data, F32), width)


def of_dense(dense):
    """Statistics of a matrix with every entry stored."""
    dense = np.asarray(dense, F32)
    ids = np.tile(np.arange(dense.shape[1], dtype=np.uint32), len(dense))
    return scan(ids, dense.ravel(), dense.shape[1])


def assert_same(left, right):
    np.testing.assert_array_equal(left.ids, right.ids)
    assert left.columns.tobytes() == right.columns.tobytes()


# Statistics


def test_statistics_are_numpys():
    ids, data = entries()
    found = scan(ids, data, 60)
    assert found.ids.dtype == np.uint32
    np.testing.assert_array_equal(found.ids, np.unique(ids))
    for i, column in zip(found.ids, found.columns, strict=True):
        mine = data[ids == i]
        assert column["count"] == len(mine)
        assert column["min"] == mine.min()
        assert column["max"] == mine.max()
        np.testing.assert_allclose(column["sum_squares"], (mine.astype(float) ** 2).sum())
    rms = [np.sqrt(np.mean(data[ids == i].astype(float) ** 2)) for i in found.ids]
    np.testing.assert_allclose(found.root_mean_square, rms, rtol=1e-6)


def test_nothing_has_no_columns():
    for found in (ColumnStatistics.empty(), scan([], [], 0), scan([], [], 10)):
        assert len(found.ids) == len(found.columns) == len(found.root_mean_square) == 0
        assert_same(found, ColumnStatistics.from_bytes(found.to_bytes(), "here"))


def test_explicit_zeros_count():
    found = scan([3, 3], [0.0, -0.0], 5)
    assert found.ids.tolist() == [3]
    assert found.columns["count"].tolist() == [2]
    assert found.columns["min"].tolist() == [0]
    assert found.root_mean_square.tolist() == [0]


def test_nan_is_counted_but_no_extreme():
    (column,) = scan([0, 0, 0], [1, np.nan, -2], 1).columns
    assert (column["count"], column["min"], column["max"]) == (3, -2, 1)
    assert np.isnan(column["sum_squares"])
    (column,) = scan([0], [np.nan], 1).columns
    assert (column["min"], column["max"]) == (np.inf, -np.inf)


def test_infinities_are_extremes():
    (column,) = scan([0, 0], [np.inf, -np.inf], 1).columns
    assert (column["min"], column["max"], column["sum_squares"]) == (-np.inf, np.inf, np.inf)


def test_squares_do_not_overflow_or_lose_small_ones():
    (column,) = scan([0, 0], [3e38, 3e38], 1).columns
    np.testing.assert_allclose(column["sum_squares"], 1.8e77, rtol=1e-6)
    (column,) = scan([0], [1e-40], 1).columns
    assert column["sum_squares"] > 0


def test_an_id_beyond_the_width_is_refused_with_its_entry():
    with pytest.raises(KernelError, match=r"outside the model \(entry 2\)"):
        scan([0, 4, 5], [1, 1, 1], 5)


def test_ids_over_all_of_uint32_need_no_table_of_that_width():
    ids = np.array([2**32 - 1, 5, 2**26 + 1, 5], np.uint32)
    data = np.array([1, -2, 3, 4], F32)
    wide = ColumnStatistics.scan(ids, data, 2**32)
    assert wide.ids.tolist() == [5, 2**26 + 1, 2**32 - 1]
    assert wide.columns["min"].tolist() == [-2, 3, 1]
    assert wide.columns["count"].tolist() == [2, 1, 1]
    assert_same(wide, ColumnStatistics.from_bytes(wide.to_bytes(), "here"))


def test_wide_and_narrow_ids_give_the_same(monkeypatch):
    ids, data = entries()
    narrow = scan(ids, data, 40)
    monkeypatch.setattr(columns_module, "_fits_table", lambda _width, _n_used: False)
    assert_same(scan(ids, data, 40), narrow)


def test_a_single_large_id_costs_no_table(monkeypatch):
    """A table for 60 million columns would be 1.4 GB, for each chunk of text and each thread."""
    monkeypatch.setattr(columns_module, "_scan", limited(columns_module._scan))
    found = scan([60_000_000, 1], [2, 4], 60_000_001)
    assert found.ids.tolist() == [1, 60_000_000]
    scaling = Scaling.fit(MAX_ABS_SCALING, found, 3)
    monkeypatch.setattr(Scaling, "_pairs", None)
    assert apply(scaling, [60_000_000, 1, 5], [1, 1, 1]).tolist() == [0.5, 0.25, 1]


def limited(scan_table):
    def checked(indices, data, width):
        assert width < 1 << 21
        return scan_table(indices, data, width)

    return checked


def test_a_long_scan_lists_its_table_before_a_counter_can_overflow(monkeypatch):
    ids, data = entries()
    data[::3] = 1
    whole = scan(ids, data, 40)
    monkeypatch.setattr(columns_module, "_COUNTED_AT_ONCE", 33)
    parts = scan(ids, data, 40)
    np.testing.assert_array_equal(parts.ids, whole.ids)
    for field in ("count", "min", "max"):
        np.testing.assert_array_equal(parts.columns[field], whole.columns[field])
    np.testing.assert_allclose(parts.columns["sum_squares"], whole.columns["sum_squares"])


def counted(parts, n_counters, width=40):
    """Statistics of parts that some counters take in turn."""
    counters = [ColumnCounter() for _ in range(n_counters)]
    found = ColumnStatistics.empty()
    for number, (ids, data) in enumerate(parts):
        counter = counters[number % n_counters]
        for half in (slice(0, len(ids) // 2), slice(len(ids) // 2, None)):
            counter.add(ids[half], data[half], width)
        found = found.merge(counter.take_part())
    return ColumnCounter.ones(counters).merge(found).listed()


def parts_of(n_parts, width=40):
    ids, data = entries(width=width)
    data[::3] = 1
    return ids, data, list(zip(np.array_split(ids, n_parts), np.array_split(data, n_parts)))  # noqa: B905


def test_counters_of_parts_find_what_a_scan_of_the_whole_finds():
    ids, data, parts = parts_of(7)
    whole, found = scan(ids, data, 40), counted(parts, 2)
    np.testing.assert_array_equal(found.ids, whole.ids)
    for field in ("count", "min", "max"):
        np.testing.assert_array_equal(found.columns[field], whole.columns[field])
    np.testing.assert_allclose(found.columns["sum_squares"], whole.columns["sum_squares"])


def test_it_makes_no_difference_which_counter_has_which_part():
    _, _, parts = parts_of(9)
    one = counted(parts, 1)
    for n_counters in (2, 3, 9):
        assert_same(counted(parts, n_counters), one)


@pytest.mark.parametrize("kept", [0, 20, 39, 64])
def test_a_counter_of_columns_too_wide_for_its_table_finds_the_same(monkeypatch, kept):
    _, _, parts = parts_of(5)
    one = counted(parts, 2)
    monkeypatch.setattr(columns_module, "_KEPT_TABLE", kept)
    wide = counted(parts, 2)
    np.testing.assert_array_equal(wide.ids, one.ids)
    np.testing.assert_array_equal(wide.columns["count"], one.columns["count"])
    np.testing.assert_allclose(wide.columns["sum_squares"], one.columns["sum_squares"])


def test_a_counter_that_meets_wider_and_wider_parts_forgets_nothing():
    ids, data, parts = parts_of(6)
    counter = ColumnCounter()
    for part_ids, part_data in parts:
        for width in (1, 7, 23, 40):
            here = (part_ids < width) & (part_ids >= {1: 0, 7: 1, 23: 7, 40: 23}[width])
            counter.add(part_ids[here], part_data[here], width)
    found = ColumnCounter.ones([counter]).merge(counter.take_part()).listed()
    whole = scan(ids, data, 40)
    for field in ("count", "min", "max"):
        np.testing.assert_array_equal(found.columns[field], whole.columns[field])
    np.testing.assert_allclose(found.columns["sum_squares"], whole.columns["sum_squares"])


def test_counters_are_emptied_before_they_can_overflow(monkeypatch):
    _, _, parts = parts_of(6)
    one = counted(parts, 2)
    monkeypatch.setattr(columns_module, "_COUNTED_AT_ONCE", 60)
    assert_same(counted(parts, 2), one)


def click_rows(n_rows, seed, plain=0.0):
    """Of ids below 900, of which the first ten have values; plain : share of others that have."""
    rng = np.random.default_rng(seed)
    there = rng.random((n_rows, 900)) < 1 / (1 + np.arange(900) / 4)
    ids = np.nonzero(there)[1].astype(np.uint32)
    data = np.ones(len(ids), F32)
    valued = (ids < 10) | (rng.random(len(ids)) < plain)
    data[valued] = rng.integers(0, 40, int(valued.sum())) / F32(7)
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    return CSR(rng.integers(0, 2, n_rows).astype(F32), indptr, ids, data, 900)


@pytest.mark.parametrize("plain", [0, 0.001, 0.5])
@pytest.mark.parametrize("max_ids", [0, 300, 70_000])
def test_rows_that_are_encoded_are_counted_as_a_scan_does(plain, max_ids):
    parts = [click_rows(n_rows, n_rows, plain) for n_rows in (300, 77, 1, 500)]
    dictionary = Dictionary.build(parts[0], max_ids=max_ids)
    scanning, encoding = ColumnCounter(), ColumnCounter()
    for rows in parts:
        scanning.add(rows.indices, rows.data, 900)
        table = encoding.table(900, rows.nnz)
        blocks = [
            encode_block(rows.labels, rows.indptr, rows.indices, rows.data, None, dictionary, of)
            for of in (None, table)
        ]
        assert blocks[0] == blocks[1]
    assert_same(encoding.take_part(), scanning.take_part())
    assert_same(ColumnCounter.ones([encoding]).listed(), ColumnCounter.ones([scanning]).listed())


def test_a_table_too_narrow_for_the_rows_is_refused():
    rows = click_rows(50, 1)
    narrow = ColumnCounter().table(100, rows.nnz)
    with pytest.raises(ValueError, match="outside"):
        encode_block(rows.labels, rows.indptr, rows.indices, rows.data, None, None, narrow)


def test_counted_columns_are_written_as_they_are_listed():
    ids, data, _ = parts_of(1)
    data[ids == 7] = 2
    data[ids == 8] = 1
    counter = ColumnCounter()
    counter.add(ids, data, 60)
    others = counter.take_part()
    counted = ColumnCounter.ones([counter]).merge(others)
    assert counted.shifted(0).to_bytes() == scan(ids, data, 40).to_bytes()
    wide = ColumnStatistics(others.ids + np.uint32(100), others.columns)
    beyond = CountedColumns(counted.ones, wide)
    assert beyond.to_bytes() == beyond.listed().to_bytes()


def test_a_list_of_columns_met_that_cannot_be_theirs_is_refused():
    ones, others = np.zeros(3, np.uint32), np.zeros(3, COLUMN).view(np.uint8)
    full = np.arange(3, dtype=np.uint32)
    with pytest.raises(KernelError, match="too small"):
        _kernels.columns_scan(full[:1].copy(), np.full(1, 2, F32), ones, others, full, 3)
    with pytest.raises(ValueError, match="n_met"):
        _kernels.columns_scan(full[:1].copy(), np.full(1, 2, F32), ones, others, full, 4)


def test_merging_parts_gives_the_whole():
    ids, data = entries()
    merged = ColumnStatistics.empty()
    for part in np.array_split(np.arange(500), 7):
        merged = merged.merge(scan(ids[part], data[part], 40))
    whole = scan(ids, data, 40)
    for field in ("count", "min", "max"):
        np.testing.assert_array_equal(merged.columns[field], whole.columns[field])
    np.testing.assert_allclose(merged.columns["sum_squares"], whole.columns["sum_squares"])


def test_merging_lists_that_share_nothing_keeps_both():
    left, right = scan([1, 9], [1, 2], 10), scan([0, 5], [3, 4], 10)
    merged = left.merge(right)
    assert merged.ids.tolist() == [0, 1, 5, 9]
    assert merged.columns["max"].tolist() == [3, 1, 4, 2]
    assert_same(merged, right.merge(left))


def test_shifting_moves_every_id():
    assert scan([1, 9], [1, 2], 10).shifted(1).ids.tolist() == [0, 8]


# Their file


def statistics_with_everything():
    """Plain columns of ones, and every kind of other."""
    ids = np.array([0, 0, 1, 2, 3, 7, 7, 8, 9, 10], np.uint32)
    return scan(ids, [1, 1, 1, 2, np.nan, 0.5, -3, np.inf, 0, -0.0], 11)


def test_statistics_survive_their_bytes():
    found = statistics_with_everything()
    back = ColumnStatistics.from_bytes(found.to_bytes(), "here")
    np.testing.assert_array_equal(back.ids, found.ids)
    for field in COLUMN.names:
        np.testing.assert_array_equal(back.columns[field], found.columns[field])
        assert back.columns[field].dtype == found.columns[field].dtype


def test_counts_beyond_32_bits_survive():
    columns = np.zeros(1, COLUMN)
    columns["count"], columns["min"], columns["max"] = 2**40, 1, 1
    columns["sum_squares"] = 2.0**40
    found = ColumnStatistics(np.array([3], np.uint32), columns)
    assert ColumnStatistics.from_bytes(found.to_bytes(), "x").columns["count"][0] == 2**40


def test_columns_of_ones_take_little_room():
    ids = np.arange(100_000, dtype=np.uint32)
    assert len(scan(ids, np.ones(100_000, F32), 100_000).to_bytes()) < 10_000


def test_damage_anywhere_is_refused_by_name_or_harmless():
    """Every byte, two bits of it: zip has a checksum for contents, but not for all of its frame."""
    found = statistics_with_everything()
    raw = found.to_bytes()
    refused = 0
    for at in range(len(raw)):
        for bit in (1, 128):
            bent = bytearray(raw)
            bent[at] ^= bit
            try:
                back = ColumnStatistics.from_bytes(bytes(bent), "s/columns.npz")
            except DatasetError as error:
                assert "s/columns.npz" in str(error)  # noqa: PT017
                refused += 1
            else:
                np.testing.assert_array_equal(back.ids, found.ids)
    assert refused > len(raw) / 2


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_bytes_cut_short_are_refused(keep):
    with pytest.raises(DatasetError, match="here: damaged or not an"):
        ColumnStatistics.from_bytes(statistics_with_everything().to_bytes()[:keep], "here")


def test_another_archive_is_refused():
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.arange(3))
    with pytest.raises(DatasetError, match="here: not column statistics"):
        ColumnStatistics.from_bytes(buffer.getvalue(), "here")


# Scaling


def apply(scaling, ids, data):
    return scaling.apply(np.asarray(ids, np.uint32), np.asarray(data, F32))


@pytest.mark.parametrize(("method", "peer"), [("min_max", MinMaxScaler), ("max_abs", MaxAbsScaler)])
def test_columns_stored_everywhere_are_scaled_as_scikit_learn_does(method, peer):
    dense = np.random.default_rng(2).normal(size=(50, 6)).astype(F32)
    dense[:, 4] = 3.5  # constant
    dense[:, 5] = 0
    scaling = Scaling.fit(method, of_dense(dense), len(dense))
    ids = np.tile(np.arange(6, dtype=np.uint32), 50)
    ours = apply(scaling, ids, dense.ravel()).reshape(50, 6)
    np.testing.assert_allclose(ours, peer().fit_transform(dense), rtol=0, atol=3e-7)


@pytest.mark.parametrize("method", [MIN_MAX_SCALING, MAX_ABS_SCALING])
def test_the_largest_value_becomes_exactly_1(method):
    rng = np.random.default_rng(3)
    for _ in range(200):
        values = (rng.random(5) * 10.0 ** rng.integers(-30, 30)).astype(F32)
        for n_rows in (5, 6):  # with and without absent entries
            scaled = apply(Scaling.fit(method, scan([0] * 5, values, 1), n_rows), [0] * 5, values)
            assert scaled.max() == 1
            assert scaled.min() >= 0
            if method == MIN_MAX_SCALING and n_rows == 5:
                assert scaled.min() == 0


def test_absent_entries_count_as_0():
    """[2, 4, absent]: the minimum is 0, so 2 -> 2/4; and absent stays 0."""
    scaling = Scaling.fit(MIN_MAX_SCALING, scan([0, 0], [2, 4], 1), 3)
    assert apply(scaling, [0, 0], [2, 4]).tolist() == [0.5, 1]
    assert scaling.shift.tolist() == [0]


def test_a_negative_minimum_with_absent_entries_is_not_shifted():
    """[-1, 3, absent]: divided by the range 4; shifting would make absent entries 1/4."""
    scaling = Scaling.fit(MIN_MAX_SCALING, scan([0, 0], [-1, 3], 1), 3)
    assert apply(scaling, [0, 0], [-1, 3]).tolist() == [-0.25, 0.75]
    assert scaling.shift.tolist() == [0]


def test_all_negative_with_absent_entries_reaches_up_to_0():
    scaling = Scaling.fit(MIN_MAX_SCALING, scan([0, 0], [-4, -2], 1), 3)
    assert apply(scaling, [0, 0], [-4, -2]).tolist() == [-1, -0.5]


def test_a_column_stored_everywhere_is_shifted_and_scaled():
    scaling = Scaling.fit(MIN_MAX_SCALING, scan([0, 0, 0], [-1, 3, 1], 1), 3)
    assert apply(scaling, [0, 0, 0], [-1, 3, 1]).tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("method", SCALINGS)
def test_one_hot_columns_stay_1(method):
    scaling = Scaling.fit(method, scan([0, 1, 1], [1, 1, 1], 2), 5)
    assert apply(scaling, [0, 1], [1, 1]).tolist() == [1, 1]


def test_standard_divides_by_the_root_mean_square_of_stored_entries():
    scaling = Scaling.fit(STANDARD_SCALING, scan([0, 0, 1], [3, 4, -2], 2), 10)
    np.testing.assert_allclose(
        apply(scaling, [0, 0, 1], [3, 4, -2]), [3 / 12.5**0.5, 4 / 12.5**0.5, -1], rtol=1e-6
    )


@pytest.mark.parametrize("method", SCALINGS)
def test_a_column_of_zeros_stays_zeros(method):
    for n_rows in (2, 3):
        scaling = Scaling.fit(method, scan([0, 0], [0, 0], 1), n_rows)
        assert apply(scaling, [0, 0], [0, 0]).tolist() == [0, 0]


@pytest.mark.parametrize("method", SCALINGS)
@pytest.mark.parametrize(
    "values", [[np.nan], [np.inf, 1], [-np.inf, 1], [np.nan, 2], [-3e38, 3e38]]
)
def test_wild_columns_do_not_make_finite_values_wild(method, values):
    for n_rows in (len(values), len(values) + 1):
        scaling = Scaling.fit(method, scan([0] * len(values), values, 1), n_rows)
        assert np.isfinite(scaling.shift).all()
        assert np.isfinite(scaling.divisor).all()
        assert (scaling.divisor > 0).all()
        assert np.isfinite(apply(scaling, [0], [1.0])).all()


@pytest.mark.parametrize("method", SCALINGS)
def test_unseen_columns_are_unchanged_and_new_values_are_not_clipped(method):
    scaling = Scaling.fit(method, scan([1, 1, 3], [2, 4, 5], 4), 9)
    assert apply(scaling, [0, 2, 4, 2**32 - 1], [7, 8, 9, 10]).tolist() == [7, 8, 9, 10]
    assert apply(scaling, [1], [400])[0] > 50


@pytest.mark.filterwarnings("error")
def test_wide_scalings_equal_narrow_ones(monkeypatch):
    ids, data = entries()
    scaling = Scaling.fit(MIN_MAX_SCALING, scan(ids, data * F32(1e-3), 40), 1000)
    asked = np.array([0, 39, 5, 41, 2**32 - 1, 5], np.uint32)
    values = np.array([1, -1, 0.5, 7, 3e38, 0], F32)
    narrow = scaling.apply(asked, values)
    monkeypatch.setattr(columns_module, "_fits_table", lambda _width, _n_used: False)
    np.testing.assert_array_equal(scaling.apply(asked, values), narrow)
    assert scaling.apply(asked[:0], values[:0]).shape == (0,)


def test_a_scaling_of_no_columns_changes_nothing():
    scaling = Scaling.fit(MIN_MAX_SCALING, ColumnStatistics.empty(), 3)
    assert apply(scaling, [0, 5], [2, 3]).tolist() == [2, 3]


def test_apply_rows_leaves_the_input_alone():
    rows = CSR(np.zeros(1, F32), np.array([0, 1]), np.zeros(1, np.uint32), np.full(1, 4.0, F32), 1)
    scaled = Scaling.fit(MAX_ABS_SCALING, scan([0], [8], 1), 2).apply_rows(rows)
    assert scaled.data.tolist() == [0.5]
    assert rows.data.tolist() == [4]
    assert scaled.indices is rows.indices


def test_ids_tell_scalings_apart():
    statistics = scan([0, 0, 1], [1, 2, 3], 2)
    made = {method: Scaling.fit(method, statistics, 5) for method in SCALINGS}
    again = Scaling.fit(MIN_MAX_SCALING, scan([0, 1, 0], [2, 3, 1], 2), 5)
    assert again.id == made[MIN_MAX_SCALING].id
    others = [
        made[MAX_ABS_SCALING],
        made[STANDARD_SCALING],
        Scaling.fit(MIN_MAX_SCALING, statistics, 2),  # the first column is stored everywhere now
        Scaling.fit(MIN_MAX_SCALING, scan([0, 0, 1], [1, 2, 4], 2), 5),
        Scaling.fit(MIN_MAX_SCALING, scan([0, 0, 2], [1, 2, 3], 3), 5),
    ]
    assert len({again.id, *(scaling.id for scaling in others)}) == 6


def test_an_unknown_method_is_refused():
    with pytest.raises(OptionError, match="unknown scaling 'robust': choose one of min_max"):
        Scaling.fit("robust", ColumnStatistics.empty(), 1)


# What training makes of them


def training_scale(optimizer="adagrad", l1=0.0, l2=0.0, mean_weight=1.0):
    statistics = scan([0, 2, 2, 4], [1e-3, 3, 4, 2], 5)
    return TrainingScale.of(
        statistics, 10, optimizer=optimizer, l1=l1, l2=l2, mean_weight=mean_weight
    )


def test_training_numbers_columns_by_popularity_and_leaves_out_those_no_row_has():
    scale = training_scale()
    assert scale.ids.tolist() == [2, 0, 4]  # of the equally popular the lower first
    nowhere = 2**32 - 1
    assert scale.place.tolist() == [1, nowhere, 0, nowhere, 2]


def test_training_divides_by_the_root_mean_square():
    scale = training_scale()
    np.testing.assert_allclose(scale.divisor, [12.5**0.5, 1e-3, 2], rtol=1e-6)
    assert scale.penalties is None


def test_data_without_entries_have_no_columns():
    scale = TrainingScale.of(
        ColumnStatistics.empty(), 10, optimizer="ftrl", l1=1.0, l2=1.0, mean_weight=1.0
    )
    assert (len(scale.ids), len(scale.place), scale.penalties.shape) == (0, 0, (0, 2))


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_penalties_are_spread_over_a_columns_touches_and_follow_its_division(optimizer):
    scale = training_scale(optimizer, l1=0.1, l2=0.2, mean_weight=1.5)
    divisor = scale.divisor.astype(float)
    touches = np.array([2, 1, 1])
    np.testing.assert_allclose(
        scale.penalties,
        np.stack([0.1 / divisor, 0.2 / divisor**2], 1) * 15 / touches[:, None],
        rtol=1e-6,
    )


def test_ftrl_is_charged_by_rows():
    scale = training_scale("ftrl", l1=0.1, l2=0.2, mean_weight=1.5)
    divisor = scale.divisor.astype(float)
    expected = np.stack([0.1 / divisor, 0.2 / divisor**2], 1) * 1.5
    np.testing.assert_allclose(scale.penalties, expected, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["ftrl", "adagrad"])
def test_the_penalties_that_all_last_columns_share_are_kept_once(optimizer):
    ids, values = [3, 3, 3, 9, 9, 1, 7, 8], [5.0, 5, 5, 1, 1, 1, 1, 1]
    statistics = scan(ids, values, 10)
    scale = TrainingScale.of(statistics, 3, optimizer=optimizer, l1=0.1, l2=0.2, mean_weight=1.0)
    assert scale.ids.tolist() == [3, 9, 1, 7, 8]
    touches = np.array([1, 1] if optimizer == "ftrl" else [1, 3 / 2, 3])
    divisor = np.array([5, 1, 1])[: len(touches)]
    expected = np.stack([0.1 * touches / divisor, 0.2 * touches / divisor**2], 1)
    np.testing.assert_allclose(scale.penalties, expected, rtol=1e-6)
    alike = scan([1, 2], [1.0, 1], 4)
    scale = TrainingScale.of(alike, 2, optimizer="ftrl", l1=0.1, l2=0.0, mean_weight=1.0)
    assert scale.penalties.tolist() == [[F32(0.1), 0]]


def test_sgds_large_steps_are_smaller_for_columns_that_many_of_their_rows_have():
    """Column 2 is in 2 of 10 rows, so in 80 of 400: five times as many as are taken as they are."""
    statistics = scan([0, 2, 2, 4], [1e-3, 3, 4, 2], 5)

    def divisor(optimizer, step_rows):
        scale = TrainingScale.of(
            statistics,
            10,
            optimizer=optimizer,
            l1=0,
            l2=0,
            mean_weight=1,
            step_rows=step_rows,
        )
        return scale.divisor.astype(float)

    plain = divisor("sgd", 1)
    for optimizer in ("adagrad", "ftrl"):
        np.testing.assert_array_equal(divisor(optimizer, 400), plain)
    crowded = CROWD / np.maximum(CROWD, [80, 40, 40])
    np.testing.assert_allclose(divisor("sgd", 400), plain / np.sqrt(crowded), rtol=1e-6)


@pytest.mark.parametrize("most", [0, 1 << 31])
def test_arrays_of_any_kind_come_back_from_an_npz_file(monkeypatch, most):
    monkeypatch.setattr(columns_module, "_MOST_ZIPPED", most)
    arrays = {
        "bytes": np.repeat(np.arange(250, dtype=np.uint8), 9),
        "numbers": np.arange(12.0).reshape(3, 4).T,
        "none": np.empty(0, np.uint32),
        "one": np.float32(3),
    }
    raw = columns_module.store_npz(arrays)
    found = columns_module.load_npz(raw, "here")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
