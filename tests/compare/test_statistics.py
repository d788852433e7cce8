"""Intervals by hand, against scipy, and what must hold whatever the runs are."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparsebench.compare.statistics import differences, statistics


def runs(*values, key=0, seeds=None, good=True):
    seeds = range(len(values)) if seeds is None else seeds
    return pd.DataFrame({"key": key, "seed": list(seeds), "value": [float(v) for v in values], "good": good})


def test_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, and t(0.975, 2) = 4.302653.
    (row,) = differences(runs(90, 91, 92), runs(91, 93, 95)).to_dict("records")
    assert (row["difference"], row["pairs"], row["interval"]) == (2.0, 3, "paired")
    assert row["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert row["low"] - 2 == pytest.approx(-4.302653 / math.sqrt(3), rel=1e-6)


def test_welch_by_hand():
    # Variances 2 / 2 = 1 and 8 / 2 = 4; freedom (1 + 4)^2 / (1 + 16) = 25 / 17; t(0.975, 25 / 17) from scipy.
    (row,) = differences(runs(0, 2), runs(1, 5, seeds=[5, 6])).to_dict("records")
    assert (row["difference"], row["pairs"], row["interval"]) == (2.0, 0, "welch")
    assert row["high"] - 2 == pytest.approx(stats.t.ppf(0.975, 25 / 17) * math.sqrt(5))


ACCURACIES = ([90.1, 91.3, 89.9, 92.0], [91.0, 91.2, 92.4, 93.1])


def test_paired_intervals_are_those_of_scipy():
    (row,) = differences(runs(*ACCURACIES[0]), runs(*ACCURACIES[1])).to_dict("records")
    low, high = stats.ttest_rel(ACCURACIES[1], ACCURACIES[0]).confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


def test_welch_intervals_are_those_of_scipy():
    second = ACCURACIES[1][:3]
    (row,) = differences(runs(*ACCURACIES[0]), runs(*second, seeds=[7, 8, 9])).to_dict("records")
    low, high = stats.ttest_ind(second, ACCURACIES[0], equal_var=False).confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


def test_only_common_seeds_make_pairs():
    first, second = runs(1, 2, 3, seeds=[0, 1, 2]), runs(5, 7, 100, seeds=[1, 2, 3])
    (row,) = differences(first, second).to_dict("records")
    assert (row["difference"], row["pairs"]) == (3.5, 2)  # 5 - 2 and 7 - 3


def test_one_common_seed_is_no_pair_and_one_run_has_no_interval():
    (row,) = differences(runs(1), runs(3)).to_dict("records")
    assert (row["difference"], row["interval"]) == (2.0, "") and math.isnan(row["low"])


def test_a_seed_that_occurs_twice_is_not_paired():
    (row,) = differences(runs(1, 2, 4, seeds=[0, 0, 1]), runs(2, 3, seeds=[0, 1])).to_dict("records")
    assert row["interval"] == "welch"


def test_equal_runs_without_pairs_have_an_interval_of_width_zero():
    (row,) = differences(runs(1, 1), runs(2, 2, seeds=[5, 6])).to_dict("records")
    assert (row["low"], row["high"]) == (1.0, 1.0)


def test_a_run_that_does_not_count_is_excluded_and_one_without_a_value_is_nothing():
    frame = pd.concat([runs(1, 3), runs(100, seeds=[2], good=False), runs(math.nan, seeds=[3])])
    (row,) = statistics(frame).to_dict("records")
    assert (row["n"], row["mean"], row["std"], row["excluded"]) == (2, 2.0, math.sqrt(2), 1)
    (row,) = differences(frame, runs(2, 4, 6, seeds=[0, 1, 2])).to_dict("records")
    assert (row["difference"], row["pairs"]) == (1.0, 2)


TABLES = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 4), st.floats(0, 100).map(lambda value: round(value, 2)), st.booleans()
    ),
    max_size=25,
    unique_by=lambda run: run[:2],
).map(lambda rows: pd.DataFrame(rows, columns=["key", "seed", "value", "good"]).astype(
    {"key": int, "seed": int, "value": float, "good": bool}
))  # fmt: skip


@settings(max_examples=50)
@given(TABLES, TABLES)
def test_swapping_the_tables_turns_the_signs(first, second):
    there, back = differences(first, second), differences(second, first)
    pd.testing.assert_series_equal(there["difference"], -back["difference"])
    pd.testing.assert_series_equal(there["low"], -back["high"], check_names=False)
    pd.testing.assert_frame_equal(there[["pairs", "interval"]], back[["pairs", "interval"]])


@settings(max_examples=50)
@given(TABLES, TABLES, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(first, second, random):
    shuffled = first.sample(frac=1, random_state=random.randrange(2**31))
    pd.testing.assert_frame_equal(differences(shuffled, second), differences(first, second))
    pd.testing.assert_frame_equal(statistics(shuffled), statistics(first))


@settings(max_examples=50)
@given(TABLES, TABLES)
def test_the_interval_holds_the_difference(first, second):
    found = differences(first, second).dropna()
    assert (found["low"] <= found["difference"]).all() and (found["difference"] <= found["high"]).all()
    assert set(found["interval"]) <= {"paired", "welch"}
