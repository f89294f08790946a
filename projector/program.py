"""The program `diptych projector`."""

from __future__ import annotations

from diptych.server.leash import hold_leash
from diptych.server.options import with_settings
from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings


@with_settings("projector", ProjectorSettings, CommandServerSettings, QueryServerSettings)
def projector(settings: ProjectorSettings) -> int:
    """Follow the log and fill the read store."""
    hold_leash()
    from projector.server import run

    return run(settings)
