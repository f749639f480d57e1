"""Holm's correction: a known example, the reference implementation, nothing to correct."""

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checks.stats.multiple import holm

pytestmark = pytest.mark.slow


def test_four_tests_are_corrected_as_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; then none is below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_no_test_needs_no_correction_and_one_keeps_its_p_value() -> None:
    assert holm([]) == []
    assert holm([0.04]) == [0.04]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.5, 1.0]), min_size=1, max_size=30))
def test_it_is_what_statsmodels_says(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # statsmodels collects all garbage at each call
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)
