"""`python -m projector`: the same program as `diptych projector`."""

import sys

from diptych.cli import main

sys.exit(main(["projector", *sys.argv[1:]]))
