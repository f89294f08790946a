"""A disk with slower syncs, for servers that are started with the returned environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("fsync_delay.c")


def fsync_delay(folder: Path, milliseconds: int) -> dict[str, str] | None:
    """Return environment variables that add `milliseconds` to every sync of a file.

    None on other systems than Linux, and without a C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "fsync_delay.so"
    source = str(_SOURCE)
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=False, capture_output=True
    )
    if built.returncode:
        return None
    return {"LD_PRELOAD": str(library), "FSYNC_DELAY_MILLISECONDS": str(milliseconds)}
