"""`python -m query_server` is `diptych query-server`."""

import sys

from diptych.cli import main

if __name__ == "__main__":
    sys.exit(main(["query-server", *sys.argv[1:]]))
