"""State diagram of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from diptych.testing.explorer import Transition


def diagram(steps: Iterable[Transition], phase: Callable[[Any], str]) -> str:
    """Return a state diagram of steps in Mermaid's language.

    Phases come in the order of the steps that lead to them, labels in alphabetical order. A step within one phase is
    left out.

    Args:
        steps: The steps, as from `explore`.
        phase: Returns the phase of a state.
    """
    labels: dict[tuple[str, str], set[str]] = {}
    sources: set[str] = set()
    for step in steps:
        before, after = phase(step.before), phase(step.after)
        if before != after:
            labels.setdefault((before, after), set()).add(step.label)
            sources.add(before)
    first = next(before for before, _ in labels if before not in {after for _, after in labels})
    phases = _in_order(first, labels)
    lines = [
        f"    {'[*]' if before == first else before} --> {after}: {label}"
        for before in phases
        for after in phases
        for label in sorted(labels.get((before, after), ()))
    ]
    ends = [f"    {phase} --> [*]" for phase in phases if phase not in sources]
    return "\n".join(["stateDiagram-v2", *lines, *ends]) + "\n"


def _in_order(first: str, edges: Iterable[tuple[str, str]]) -> list[str]:
    """Return all phases by their distance from the first; equally distant ones by name."""
    phases, nearest = [first], [first]
    while nearest:
        nearest = sorted({after for before, after in edges if before in nearest} - set(phases))
        phases += nearest
    return phases
