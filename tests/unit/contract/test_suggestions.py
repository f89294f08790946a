"""Suggestions for mistyped names."""

from __future__ import annotations

from diptych.contract.suggestions import did_you_mean

NAMES = ["users", "user_summaries", "products", "orders"]


def test_the_most_similar_name_is_suggested() -> None:
    assert did_you_mean("user", NAMES) == " Did you mean users?"
    assert did_you_mean("Prodcuts", NAMES) == " Did you mean products?"


def test_existing_names_are_listed_where_none_is_similar() -> None:
    assert did_you_mean("xyzzy", NAMES) == " There is orders, products, user_summaries, users."
    assert did_you_mean("xyzzy", [f"n{number:02}" for number in range(30)]).endswith("n19 and 10 more.")
    assert did_you_mean("xyzzy", []) == ""


def test_only_the_beginning_of_a_long_name_is_compared() -> None:
    assert did_you_mean("user" * 1_000_000, NAMES) == " There is orders, products, user_summaries, users."
