"""Failpoints: named steps at which a test makes a server kill itself, stand still, pause or fail.

The environment arms them, as `DIPTYCH_FAILPOINTS="commit.recorded=kill@3;fold.committed=pause(200)@2"`: at the third
recorded commit the process is killed, and after the second committed fold it waits for 200 ms. A server that is not
told so runs past them, which costs a call that does nothing, once a batch or frame.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import structlog

VARIABLE = "DIPTYCH_FAILPOINTS"

NAMES = {
    "commit.taken": "a batch of commands is taken from the queue, and nothing is read for it",
    "commit.decided": "a batch is decided, and nothing of it is written",
    "commit.recorded": "events, request ids, unique values and snapshots are written, and not committed",
    "commit.committed": "a batch is on the disk, and this process does not know it yet",
    "publish.kept": "events are in memory for subscribers, and nobody is woken",
    "publish.done": "subscribers are woken, and no command of the batch is answered",
    "publish.followed": "a page of the log is read for a projector, and not sent",
    "commit.answered": "the commands of a batch are answered, and the answers are not sent",
    "fold.taken": "a batch of events is taken, and nothing is read for it",
    "fold.folded": "rows are folded, and not written",
    "fold.written": "rows and checkpoint are written, and not committed",
    "fold.committed": "rows and checkpoint are on the disk, and nobody knows it yet",
    "fold.told": "the feed has the changed rows, and no query server was sent them",
    "switch.written": "another generation is made to answer, and that is not committed",
    "switch.committed": "another generation answers, and nobody knows it yet",
    "feed.taken": "what one query server is to be told is taken off its list, and not sent",
    "checkpoint.written": "a checkpoint without rows is written, and not committed",
    "feed.heard": "a query server has heard of changes, and done nothing about it",
    "watch.taken": "what a watch is to be told is taken off its list, and not sent",
}
"""Every failpoint, and how things stand there."""

_POINT = re.compile(r"([a-z.]+)=(kill|stop|raise|pause\((\d+)\))(?:@(\d+))?\Z")

_log = structlog.get_logger(__name__)


class FailpointError(Exception):
    """What a failpoint raises when it is told to."""


class _Point:
    """What happens at a failpoint, and at which hit of it."""

    def __init__(self, action: str, milliseconds: int, at: int) -> None:
        self._action = action
        self._milliseconds = milliseconds
        self._left = at
        self._lock = threading.Lock()  # A step may be taken on any thread.

    def hit(self, name: str) -> None:
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._action == "raise":
            raise FailpointError(name)
        else:
            time.sleep(self._milliseconds / 1000)


_armed: dict[str, _Point] = {}


def arm(points: str) -> None:
    """Arms exactly these failpoints, `name=action[@hit]` with `;` between them; raises `ValueError`."""
    armed: dict[str, _Point] = {}
    for text in filter(None, (part.strip() for part in points.split(";"))):
        match = _POINT.match(text)
        if match is None or match[1] not in NAMES:
            raise ValueError(
                f"{text!r} is no failpoint: say NAME=kill, stop, raise or pause(MILLISECONDS), and @HIT if it is not "
                f"the first; the names are {', '.join(NAMES)}"
            )
        name, action, milliseconds, at = match.groups()
        armed[name] = _Point(action, int(milliseconds or 0), int(at or 1))
    _armed.clear()
    _armed.update(armed)
    if armed:
        _log.warning("failpoints are armed", points=points)


def hit(name: str) -> None:
    """Passes a failpoint; does what it is armed with, if it is."""
    if _armed:
        point = _armed.get(name)
        if point is not None:
            point.hit(name)
