"""Findings of a check, and the comparison of sorted lists."""

from __future__ import annotations

from typing import Any

from diptych.storage.findings import Findings, align


def test_findings_store_the_first_sentences_of_each_kind_and_count_all() -> None:
    findings = Findings(each_max=2)
    for number in range(3):
        findings.add("LOG_GAP", f"Position {number} is missing.")
    findings.add("LOG_HEAD", "The head is wrong.")
    assert findings.differences == {
        "LOG_GAP": ["Position 0 is missing.", "Position 1 is missing."],
        "LOG_HEAD": ["The head is wrong."],
    }
    assert findings.counts == {"LOG_GAP": 3, "LOG_HEAD": 1}


def test_align_pairs_rows_by_their_keys() -> None:
    def pairs(one: str, other: str) -> list[tuple[Any, ...]]:
        return [(key, mine and mine[0], theirs and theirs[0]) for key, mine, theirs in align(zip(one), zip(other))]

    assert pairs("", "") == []
    assert pairs("ab", "") == [("a", "a", None), ("b", "b", None)]
    assert pairs("", "a") == [("a", None, "a")]
    assert pairs("acd", "bce") == [
        ("a", "a", None),
        ("b", None, "b"),
        ("c", "c", "c"),
        ("d", "d", None),
        ("e", None, "e"),
    ]
