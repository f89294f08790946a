"""How long the tests of this folder run: short by themselves, and as long as the environment says (`make faults`).

`DIPTYCH_FAULTS_SEED` makes another run, and the same one again; every test says which seed it had.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SEED = int(os.environ.get("DIPTYCH_FAULTS_SEED", "1"))
KILLS = int(os.environ.get("DIPTYCH_FAULTS_KILLS", "8"))
REQUESTS = int(os.environ.get("DIPTYCH_FAULTS_REQUESTS", "3000"))
EXAMPLES = int(os.environ.get("DIPTYCH_FAULTS_EXAMPLES", "0"))
"""Of the stateful models; 0: as many as each says itself."""


def memory_folder() -> Path:
    """A new folder, in memory where there is such a thing: models write and read, and ask nothing of a disk."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
