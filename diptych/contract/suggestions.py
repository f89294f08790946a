"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAME_LENGTH_MAX = 200
"""Longest name that is compared; a longer one is no slip of a finger."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ` Did you mean NAME?` for the most similar of the existing names, or else the list of them.

    Args:
        name: Name as it was typed.
        names: Existing names.
    """
    existing = sorted(set(names))
    if not existing:
        return ""
    lowered = {each.lower(): each for each in existing}
    similar = difflib.get_close_matches(name[:_NAME_LENGTH_MAX].lower(), lowered, n=1, cutoff=0.6)
    if similar:
        return f" Did you mean {lowered[similar[0]]}?"
    shown = existing[:20]
    more = f" and {len(existing) - len(shown)} more" if len(existing) > len(shown) else ""
    return f" There is {', '.join(shown)}{more}."
