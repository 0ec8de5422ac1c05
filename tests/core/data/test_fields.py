"""Columns as codes: categories are what they are called, whatever their type."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi.core.data.fields import encode, found_categories, labelled_cells, name_of, plain

AS_OTHERS = {
    "integers": lambda s: s.astype(int),
    "small integers": lambda s: s.astype(np.uint8),
    "nullable integers": lambda s: s.astype("Int64"),
    "floats": lambda s: s.astype(float),
    "objects": lambda s: s.astype(object),
    "numpy objects": lambda s: pd.Series([np.int64(v) for v in s], index=s.index, dtype=object),
    "text": lambda s: s.astype(str),
    "numpy text": lambda s: pd.Series(np.array(s.astype(str), dtype="U5"), index=s.index),
    "categories of text": lambda s: s.astype(str).astype("category"),
    "categories of integers": lambda s: s.astype("category"),
    "categories of floats": lambda s: s.astype(float).astype("category"),
    "ordered, reversed": lambda s: pd.Series(
        pd.Categorical(s, categories=[7, 3, 2, 1, 0], ordered=True), index=s.index
    ),
}
NUMBERS = pd.Series([2, 0, 1, 1, 3, 2], index=list("abcdef"))


@pytest.mark.parametrize("known", AS_OTHERS)
@pytest.mark.parametrize("seen", AS_OTHERS)
def test_codes_do_not_depend_on_the_type(known, seen):
    categories = found_categories(AS_OTHERS[known](NUMBERS))[1]
    assert {name_of(category) for category in categories} == {"0", "1", "2", "3"}
    codes = encode(AS_OTHERS[seen](NUMBERS), categories)
    assert [name_of(categories[code]) for code in codes] == ["2", "0", "1", "1", "3", "2"]


@pytest.mark.parametrize(
    "values",
    [[True, False, True], ["True", "False", "True"], np.array([1, 0, 1], dtype=bool)],
)
def test_booleans(values):
    codes = encode(pd.Series(values), [False, True])
    np.testing.assert_array_equal(codes, [1, 0, 1])


def test_unknown_and_missing_have_no_code():
    column = pd.Series(["a", None, "z", np.nan], dtype=object)
    np.testing.assert_array_equal(encode(column, ["b", "a"]), [1, -1, -1, -1])


def test_categories_without_cells_are_left_out():
    column = pd.Series(pd.Categorical(["b", "a", "b"], categories=["c", "b", "a"]))
    codes, found = found_categories(column)
    assert found == ["b", "a"]
    np.testing.assert_array_equal(codes, [0, 1, 0])


def test_categories_are_plain_values():
    """Text, whole numbers and booleans of Python alone: files can hold them."""
    for column, expected in (
        (pd.Series([1, 0]), [0, 1]),
        (pd.Series([1.0, np.nan]), [1]),
        (pd.Series([True, False]), [False, True]),
        (pd.cut(pd.Series([1, 9]), [0, 5, 10]), ["(0, 5]", "(5, 10]"]),
        (pd.Series(pd.to_datetime(["2020-01-02", "2020-01-01"])), ["2020-01-01", "2020-01-02"]),
        (pd.Series(pd.to_datetime(["2020-01-02 10:00"])), ["2020-01-02 10:00:00"]),
    ):
        found = found_categories(column)[1]
        assert found == expected
        assert [type(value) for value in found] == [type(value) for value in expected]
    assert plain(np.str_("a")) == "a" and type(plain(np.float64(2.0))) is int


@pytest.mark.parametrize(
    ("values", "unlabelled", "expected"),
    [
        (["a", "Unknown", "b", None], "Unknown", [True, False, True, False]),
        ([1, -1, 0, 1], -1, [True, False, True, True]),
        ([1, -1, 0, 1], "-1", [True, False, True, True]),
        ([1.0, np.nan, 0.0, -1.0], -1, [True, False, True, False]),
        ([True, False, True, None], "Unknown", [True, True, True, False]),
        (["a", "nan", "b", "c"], np.nan, [True, False, True, True]),
    ],
)
def test_labelled_cells(values, unlabelled, expected):
    for column in (pd.Series(values), pd.Series(values).astype("category")):
        np.testing.assert_array_equal(labelled_cells(column, unlabelled), expected)
