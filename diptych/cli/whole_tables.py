"""Tables at their natural width: no name is cut, neither in a pipe nor on a narrow terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 10_000


def print_whole(text: RenderableType) -> None:
    """Print text to stdout; a line that is longer than the terminal is wrapped by the terminal."""
    from rich.console import Console

    Console(width=_WIDTH).print(text, soft_wrap=True)
