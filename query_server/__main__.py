"""`python -m query_server`: the same program as `diptych query-server`."""

import sys

from diptych.server.program import run_program
from query_server.program import query_server

if __name__ == "__main__":
    sys.exit(run_program({"query-server": query_server}, ["query-server", *sys.argv[1:]]))
