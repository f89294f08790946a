"""Length of the tests of this folder: short by default, longer by environment variables (`make faults`).

`DIPTYCH_FAULTS_SEED` selects a run and repeats it; every test prints its seed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SEED = int(os.environ.get("DIPTYCH_FAULTS_SEED", "1"))
KILLS = int(os.environ.get("DIPTYCH_FAULTS_KILLS", "8"))
REQUESTS = int(os.environ.get("DIPTYCH_FAULTS_REQUESTS", "3000"))
EXAMPLES = int(os.environ.get("DIPTYCH_FAULTS_EXAMPLES", "0"))
"""Examples of the stateful models; 0: the number of each model."""


def memory_folder() -> Path:
    """Return a new folder, in memory if possible: the models need no disk."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
