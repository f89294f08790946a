"""Projector of the notes as a process that tests kill: `python -m tests.support.notes_projector LOG FILE`."""

from __future__ import annotations

import sys

from diptych.server import lifecycle
from diptych.server.health import Health
from diptych.server.lifecycle import ServerParts
from diptych.server.settings import ProjectorSettings
from diptych.server.supervise import TaskSupervisor
from projector.server import bootstrap
from tests.support.notes import Notes


def main(log: str, file: str) -> int:
    settings = ProjectorSettings.model_validate(
        {"address": "127.0.0.1:0", "commands": log, "read_store": f"sqlite:///{file}", "batch_events_max": 10}
    )

    async def start(health: Health, tasks: TaskSupervisor) -> ServerParts:
        notes = [Notes("first").projection, Notes("second").projection]
        return await bootstrap(settings, "notes", notes, health, tasks)

    return lifecycle.run("projector", settings, start)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
