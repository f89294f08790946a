"""The leash, with a supervisor that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

HOLDS_A_LEASH = """
    import os, subprocess, sys
    script = "from diptych.server.leash import hold_leash; hold_leash(); print(1, flush=True); "
    script += "import time; time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "DIPTYCH_LEASH": "1"}, start_new_session=True,
    )
    child.stdout.readline()
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_process_on_the_leash_ends_with_its_supervisor() -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDS_A_LEASH)]
    holder = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=30)
    assert holder.returncode == -signal.SIGKILL
    pid = int(holder.stdout)
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the child outlived its holder"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
