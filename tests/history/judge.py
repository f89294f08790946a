"""Judge of a recorded history: finds the promises that were broken. It does no I/O.

Each check is a function of a `Case` that yields findings. No check relies on another one. `judge` runs all of them. The
promises are in the design (section 5) and in the contract under "Rules".
"""

from __future__ import annotations

from tests.history import log_checks, read_checks, store_checks, wait_checks, watch_checks
from tests.history.case import Case, Effects, Finding, checks

__all__ = ["Case", "Effects", "Finding", "check_names", "judge"]

_CHECKS = (log_checks, read_checks, wait_checks, watch_checks, store_checks)
"""Modules whose import registers the checks."""


def judge(case: Case) -> list[Finding]:
    """Return every broken promise."""
    return [Finding(name, text) for name, check in checks.items() for text in check(case)]


def check_names() -> list[str]:
    """Return the names of all checks."""
    return list(checks)
