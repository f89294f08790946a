"""Leash: a server that `diptych up` started does not outlive it.

The supervisor holds the write end of the server's standard input and never writes to it. When the supervisor ends,
for any reason, the operating system closes that end. The server then kills itself: its data survives a kill at any
time, and the next `diptych up` needs the ports and the files.
"""

from __future__ import annotations

import os
import signal
import threading

LEASH = "DIPTYCH_LEASH"
"""Environment variable. A supervisor sets it if standard input is the leash."""


def hold_leash() -> None:
    """End this process when its supervisor ends. Return at once if there is no supervisor."""
    if os.environ.pop(LEASH, None) is None:
        return
    threading.Thread(target=_kill_at_end_of_input, name="leash", daemon=True).start()


def _kill_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
