"""The leash: a server that was started by `diptych up` does not outlive it.

The supervisor holds the other end of the server's standard input and never writes to it. When the supervisor
ends, by whatever means, the operating system closes that end. The server then kills itself: what it serves
survives that at any time, and whoever starts `up` again wants the ports and the files to be free.
"""

from __future__ import annotations

import os
import signal
import threading

LEASH = "DIPTYCH_LEASH"
"""The environment variable by which a supervisor says that standard input is the leash."""


def hold_leash() -> None:
    """Ends this process when its supervisor does, if it has one."""
    if os.environ.pop(LEASH, None) is None:
        return
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
