"""`python -m diptych.cli` is the same program as `diptych`."""

import sys

from diptych.cli import main

sys.exit(main())
