"""`python -m projector`: the same program as `diptych projector`."""

import sys

from diptych.server.program import run_program
from projector.program import projector

if __name__ == "__main__":
    sys.exit(run_program({"projector": projector}, ["projector", *sys.argv[1:]]))
