"""Failpoints: named steps at which a test makes a server kill itself, stop, pause or fail.

The environment arms them: with `DIPTYCH_FAILPOINTS="commit.recorded=kill@3;fold.committed=pause(200)@2"` the process
is killed at the third recorded commit and pauses for 200 ms after the second committed fold. An unarmed failpoint
costs one function call for each batch or frame.
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
    "commit.committed": "a batch is on the disk, and this process has not read the result yet",
    "publish.kept": "events are in memory for subscribers, and no subscriber is woken",
    "publish.done": "subscribers are woken, and no command of the batch is answered",
    "publish.followed": "a page of the log is read for a projector, and not sent",
    "commit.answered": "the commands of a batch are answered, and the answers are not sent",
    "fold.taken": "a batch of events is taken, and nothing is read for it",
    "fold.folded": "rows are folded, and not written",
    "fold.written": "rows and checkpoint are written, and not committed",
    "fold.committed": "rows and checkpoint are on the disk, and nothing is published",
    "fold.published": "the feed has the changed rows, and they are sent to no query server",
    "switch.written": "the switch to another generation is written, and not committed",
    "switch.committed": "the switch to another generation is on the disk, and nothing is published",
    "feed.taken": "pending changes of one query server are taken, and not sent",
    "checkpoint.written": "a checkpoint without rows is written, and not committed",
    "feed.received": "a query server has received a feed frame, and not applied it",
    "watch.taken": "pending changes of a watch are taken, and not sent",
}
"""State at each failpoint, by the name of the failpoint."""

_POINT = re.compile(r"([a-z.]+)=(kill|stop|raise|pause\((\d+)\))(?:@(\d+))?\Z")

_log = structlog.get_logger(__name__)


class FailpointError(Exception):
    """A failpoint that is armed with `raise` was hit. The message is its name."""


class _Point:
    """Action of one armed failpoint."""

    def __init__(self, action: str, milliseconds: int, hit_number: int) -> None:
        self._action = action
        self._milliseconds = milliseconds
        self._left = hit_number
        self._lock = threading.Lock()  # Steps run on any thread.

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
    """Arm exactly these failpoints.

    Args:
        points: `name=action[@hit]`, separated by `;`.

    Raises:
        ValueError: A name or an action does not exist.
    """
    armed: dict[str, _Point] = {}
    for text in filter(None, (part.strip() for part in points.split(";"))):
        match = _POINT.match(text)
        if match is None or match[1] not in NAMES:
            raise ValueError(
                f"{text!r} is no failpoint: say NAME=kill, stop, raise or pause(MILLISECONDS), and @HIT if it is not "
                f"the first; the names are {', '.join(NAMES)}"
            )
        name, action, milliseconds, hit_number = match.groups()
        armed[name] = _Point(action, int(milliseconds or 0), int(hit_number or 1))
    _armed.clear()
    _armed.update(armed)
    if armed:
        _log.warning("failpoints armed", points=points)


def hit(name: str) -> None:
    """Pass a failpoint, and take its action if it is armed."""
    if _armed:
        point = _armed.get(name)
        if point is not None:
            point.hit(name)
