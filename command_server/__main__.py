"""`python -m command_server`: the same program as `diptych command-server`."""

import sys

from command_server.program import command_server
from diptych.server.program import run_program

if __name__ == "__main__":
    sys.exit(run_program({"command-server": command_server}, ["command-server", *sys.argv[1:]]))
