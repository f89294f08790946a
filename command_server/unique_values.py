"""Unique values: values that at most one aggregate of a type holds, such as an email address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from command_server.submission import Submission
from diptych.contract.reasons import InvalidRequest


class UniqueClaims:
    """Unique values that the commands of a batch take and release."""

    __slots__ = ("claims", "lookups")

    def __init__(self) -> None:
        self.claims: dict[str, str | None] = {}
        """New holding stream by unique value; None: released."""
        self.lookups: set[str] = set()
        """Values that were taken for free, as their holders have not been looked up."""

    def claim(self, submission: Submission, before: Any, after: Any, holders: Mapping[str, str | None]) -> None:
        """Take and release the values by which two states of an aggregate differ.

        A value whose holder has not been looked up counts as free and is added to `lookups`.

        Raises:
            Refusal: another aggregate holds a value. Nothing is taken or released then.
        """
        changes: dict[str, str | None] = {}
        for name, value_of, refusal_of, _ in submission.binding.aggregate.uniques:
            old, new = value_of(before), value_of(after)
            if old == new:
                continue
            if old:
                changes[f"{submission.ref.type}.{name}:{old}"] = None
            if new:
                if "\0" in new:  # SQLite reads a list of names only up to it.
                    raise InvalidRequest.of(("", f"{name} must not contain the character NUL"))
                key = f"{submission.ref.type}.{name}:{new}"
                if key not in self.claims and key not in holders:
                    self.lookups.add(key)
                holder = self.claims[key] if key in self.claims else holders.get(key)
                if holder is not None and holder != submission.stream:
                    raise refusal_of(new)
                changes[key] = submission.stream
        self.claims.update(changes)
