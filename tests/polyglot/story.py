"""Output of the first-contact program, the same in every language."""

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


def check_printed(printed: str) -> None:
    """Check the output of a first-contact program."""
    assert re.fullmatch(STORY.strip(), printed.strip()), printed
