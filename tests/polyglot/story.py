"""What every program of first contact prints, whatever its language."""

from __future__ import annotations

import re

STORY = r"""
registered: [0-9a-f-]{36}
refused: diptych\.v1 READ_MODEL_PAUSED
waited: Lin
snapshot: Lin
caught up
changed: Linnea
read: Linnea
"""


def told(printed: str) -> None:
    """Fails if that is not what was printed."""
    assert re.fullmatch(STORY.strip(), printed.strip()), printed
