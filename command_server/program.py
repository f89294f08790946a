"""The program `diptych command-server`."""

from __future__ import annotations

from diptych.server.leash import hold_leash
from diptych.server.options import with_settings
from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings


@with_settings("command-server", CommandServerSettings, ProjectorSettings, QueryServerSettings)
def command_server(settings: CommandServerSettings) -> int:
    """Decide commands and record events."""
    hold_leash()
    from command_server.server import run

    return run(settings)
