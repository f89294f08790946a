"""The program `diptych query-server`."""

from __future__ import annotations

from diptych.server.leash import hold_leash
from diptych.server.options import with_settings
from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings


@with_settings("query-server", QueryServerSettings, CommandServerSettings, ProjectorSettings)
def query_server(settings: QueryServerSettings) -> int:
    """Answer queries from the read store."""
    hold_leash()
    from query_server.server import run

    return run(settings)
