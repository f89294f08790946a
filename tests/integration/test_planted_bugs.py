"""Bugs planted in real servers: the judge of `tests/history` finds the promise that each plant breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.history.run import Plan, run

BUGS = [
    ("projector", "skip-event@13", "views_equal_the_fold"),
    ("projector", "fold-twice@13", "views_equal_the_fold"),
    ("projector", "checkpoint-before-rows@20", "views_equal_the_fold"),
    ("projector", "switch-too-early@20", "views_equal_the_fold"),
    ("query-server", "fresh-by-one-less", "reads_are_cuts"),
    ("query-server", "token-unheeded", "reads_are_cuts"),
    ("query-server", "trailer-too-low", "tokens_tell_the_truth"),
    ("query-server", "row-goes-back@5", "reads_are_cuts"),
    ("query-server", "reached-at-once", "reached_is_readable"),
    ("query-server", "timed-out-early", "waits_do_not_lie"),
    ("command-server", "lose-acknowledged@50", "acknowledged_is_durable"),
    ("command-server", "forget-requests", "effects_are_taken_once"),
    ("command-server", "token-too-high", "acknowledged_is_durable"),
    ("command-server", "events-swapped@5", "subscribers_saw_the_log"),
]


RUNS_MAX = 6
"""Runs until a bug is found. A run is short and its timing random, so the first one may not show it."""


@pytest.mark.parametrize(("program", "bug", "check"), BUGS, ids=[bug for _, bug, _ in BUGS])
async def test_a_planted_bug_in_a_real_server_is_found(tmp_path: Path, program: str, bug: str, check: str) -> None:
    # A read model that lags shows what would otherwise be over before anybody looks.
    slow = {"projector>command-server": 0.1} if program == "query-server" else {}
    reports = []
    for seed in range(1, RUNS_MAX + 1):
        plan = Plan(
            seed=seed,
            seconds=2.5,
            faults=False,
            plants={program: bug},
            slow=slow,
            watches=False,
            rebuilds=bug.startswith("switch"),
            settings={"projector": ["--batch-events-max=10"]} if bug.startswith("switch") else {},
            end_seconds=5.0,
        )
        outcome = await run(tmp_path / f"data-{seed}", plan)
        if check in outcome.checks:
            return
        reports.append(outcome.report())
    raise AssertionError(f"{bug} was not seen: {reports}")
