"""`command-server`, `projector` and `query-server`.

The servers are found by the names of their modules, when they are run: nothing here depends on them.
"""

from __future__ import annotations

import importlib

from diptych.cli.leash import hold_leash
from diptych.cli.options import with_settings
from diptych.server.settings import CommandServerSettings, ProjectorSettings, QueryServerSettings, ServerSettings

_ALL = (CommandServerSettings, ProjectorSettings, QueryServerSettings)


def _run(module: str, settings: ServerSettings) -> int:
    hold_leash()
    status: int = importlib.import_module(module).run(settings)
    return status


@with_settings("command-server", CommandServerSettings, *_ALL)
def command_server(settings: CommandServerSettings) -> int:
    """Decides commands and records events."""
    return _run("command_server.server", settings)


@with_settings("projector", ProjectorSettings, *_ALL)
def projector(settings: ProjectorSettings) -> int:
    """Follows the log and fills the read store."""
    return _run("projector.server", settings)


@with_settings("query-server", QueryServerSettings, *_ALL)
def query_server(settings: QueryServerSettings) -> int:
    """Answers queries from the read store."""
    return _run("query_server.server", settings)
