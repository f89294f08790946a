"""`python -m command_server` is `diptych command-server`."""

import sys

from diptych.cli import main

raise SystemExit(main(["command-server", *sys.argv[1:]]))
