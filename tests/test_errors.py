from __future__ import annotations

import pytest

from sparsebench.errors import SettingError, require_int


@pytest.mark.parametrize("value", [1, 2, 3])
def test_both_ends_of_a_range_of_integers_are_in_it(value):
    require_int("n", value, least=1, most=3)


@pytest.mark.parametrize(
    ("value", "limits", "said"),
    [
        (0, {"least": 1}, "n=0: expected an integer, at least 1"),
        (4, {"least": 1, "most": 3}, "n=4: expected an integer from 1 to 3"),
        (4, {"most": 3}, "n=4: expected an integer, at most 3"),
        (True, {}, "n=True: expected an integer"),
        (2.0, {}, "n=2.0: expected an integer"),
        (None, {}, "n: expected an integer"),
        ("2", {"optional": True}, "n=2: expected an integer, or null"),
    ],
)
def test_what_is_no_integer_in_the_range_is_refused(value, limits, said):
    with pytest.raises(SettingError) as error:
        require_int("n", value, **limits)
    assert str(error.value) == said


def test_an_optional_integer_may_be_left_out():
    require_int("n", None, least=1, optional=True)
